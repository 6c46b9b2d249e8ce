use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use postlude::{OutcomeKind, Page, TaskId, TaskRegistry, TaskState, TaskStatus};
use serde::Serialize;

use crate::{
    error::ApiError,
    query::{PageQuery, Params, QueryParams, parse_id, parse_query},
    routes::Status,
};

pub(crate) fn routes(allow_abort: bool) -> Router<Arc<Status>> {
    let abort = if allow_abort { delete(abort) } else { delete(abort_disabled) };
    Router::new().route("/tasks", get(list)).route("/tasks/{id}", get(show).merge(abort))
}

/// The tasks that a client asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct TaskQuery {
    state: StateFilter,
    name: Option<String>,
    page: PageQuery<TaskId>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum StateFilter {
    #[default]
    Live,
    LiveIn(TaskState),
    Ended,
    EndedAs(OutcomeKind),
}

impl StateFilter {
    fn parse(word: &str) -> Result<Self, String> {
        let kind = || OutcomeKind::ALL.iter().find(|kind| kind.label() == word);
        Ok(match word {
            "live" => Self::Live,
            "pending" => Self::LiveIn(TaskState::Pending),
            "running" => Self::LiveIn(TaskState::Running),
            "retrying" => Self::LiveIn(TaskState::Retrying),
            "ended" => Self::Ended,
            _ => Self::EndedAs(*kind().ok_or_else(|| {
                let kinds: Vec<_> = OutcomeKind::ALL.iter().map(|kind| kind.label()).collect();
                format!("`state={word}`: there are live, pending, running, retrying; and ended, {}", kinds.join(", "))
            })?),
        })
    }
}

impl TaskQuery {
    fn parse(params: Params) -> Result<Self, String> {
        let mut query = Self::default();
        for (key, value) in params {
            match key.as_str() {
                "state" => query.state = StateFilter::parse(&value)?,
                "name" => query.name = Some(value),
                key if query.page.set(key, &value)? => {}
                _ => return Err(format!("`{key}` is not a parameter: there are state, name, limit and cursor")),
            }
        }
        Ok(query)
    }

    fn answer(&self, registry: &TaskRegistry) -> TaskPage {
        let PageQuery { limit, cursor } = self.page;
        let has_name = |name: &str| self.name.as_ref().is_none_or(|wanted| wanted == name);
        match &self.state {
            StateFilter::Live => registry.live_page(cursor, limit, |task| has_name(task.name.as_str())).into(),
            StateFilter::LiveIn(state) => {
                registry.live_page(cursor, limit, |task| task.state == *state && has_name(task.name.as_str())).into()
            }
            StateFilter::Ended => registry.history_page(cursor, limit, |report| has_name(report.name.as_str())).into(),
            StateFilter::EndedAs(kind) => registry
                .history_page(cursor, limit, |report| report.outcome.kind() == *kind && has_name(report.name.as_str()))
                .into(),
        }
    }
}

#[derive(Serialize)]
struct TaskPage {
    tasks: Vec<TaskStatus>,
    next: Option<TaskId>,
}

impl From<Page<postlude::TaskInfo>> for TaskPage {
    fn from(page: Page<postlude::TaskInfo>) -> Self {
        Self { tasks: page.items.into_iter().map(TaskStatus::Live).collect(), next: page.next }
    }
}

impl From<Page<postlude::TaskReport>> for TaskPage {
    fn from(page: Page<postlude::TaskReport>) -> Self {
        Self { tasks: page.items.into_iter().map(TaskStatus::Ended).collect(), next: page.next }
    }
}

async fn list(State(status): State<Arc<Status>>, query: QueryParams) -> Result<Json<TaskPage>, ApiError> {
    let query = parse_query(query, TaskQuery::parse)?;
    Ok(Json(status.exclusively(|status| query.answer(&status.registry)).await))
}

async fn show(State(status): State<Arc<Status>>, Path(id): Path<String>) -> Result<Json<TaskStatus>, ApiError> {
    let id = parse_id(&id)?;
    status.registry.get(id).map(Json).ok_or_else(|| ApiError::unknown_task(id))
}

async fn abort(State(status): State<Arc<Status>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    let is_aborted = status.registry.abort(id);
    match status.registry.get(id) {
        Some(task) if is_aborted => Ok(Json(task).into_response()),
        // The registry remembers no outcomes.
        None if is_aborted => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(task) => Err(ApiError::conflict(format!("task {id} has already ended: {}", task.label()))),
        None => Err(ApiError::unknown_task(id)),
    }
}

async fn abort_disabled() -> Response {
    ApiError::not_allowed("aborting is disabled: `StatusRouter::allow_abort` enables it", "GET,HEAD")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TaskQuery, String> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        TaskQuery::parse(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn parse_accepts_known_parameters_and_explains_others() {
        assert_eq!(parse(""), Ok(TaskQuery::default()));
        let query = parse("state=failed&name=mail&limit=5&cursor=17.2").unwrap();
        assert_eq!(query.state, StateFilter::EndedAs(OutcomeKind::Failed));
        assert_eq!(query.name.as_deref(), Some("mail"));
        assert_eq!(query.page, PageQuery { limit: 5, cursor: "17.2".parse().ok() });
        let wrong = [
            ("state=done", "completed"),
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("limit=-1", "from 1 to 1000"),
            ("cursor=last", "`next`"),
            ("stat=failed", "state, name, limit and cursor"),
        ];
        for (text, hint) in wrong {
            let message = parse(text).unwrap_err();
            assert!(message.contains(hint), "{text}: {message}");
        }
    }
}
