use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use postlude::{OutcomeKind, Page, TaskId, TaskRegistry, TaskState, TaskStatus};
use serde::Serialize;

use crate::{
    action::Action,
    error::{ApiError, answer_other_methods},
    query::{IdText, PageQuery, Params, QueryParams, parse_id, parse_query},
    routes::Status,
};

pub(crate) fn routes(allow_abort: bool) -> Router<Arc<Status>> {
    const DISABLED: &str = "aborting is disabled: `StatusRouter::allow_abort` enables it";

    let (task, disabled) =
        if allow_abort { (get(show).delete(abort), None) } else { (get(show), Some((Method::DELETE, DISABLED))) };
    Router::new()
        .route("/tasks", answer_other_methods(get(list), None))
        .route("/tasks/{id}", answer_other_methods(task, disabled))
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
    /// Pending or retrying, of a paused name.
    Paused,
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
            "paused" => Self::Paused,
            "ended" => Self::Ended,
            _ => Self::EndedAs(*kind().ok_or_else(|| {
                let kinds: Vec<_> = OutcomeKind::ALL.iter().map(|kind| kind.label()).collect();
                format!(
                    "`state={word}`: there are live, pending, running, retrying, paused; and ended, {}",
                    kinds.join(", ")
                )
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
            StateFilter::Paused => {
                registry.live_page(cursor, limit, |task| task.paused && has_name(task.name.as_str())).into()
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
    status.exclusively(move |registry| query.answer(registry)).await.map(Json)
}

async fn show(State(status): State<Arc<Status>>, IdText(id): IdText) -> Result<Json<TaskStatus>, ApiError> {
    let id = parse_id(&id, ApiError::unknown_task)?;
    status.registry.get(id).map(Json).ok_or_else(|| ApiError::unknown_task(&id.to_external()))
}

async fn abort(_: Action, State(status): State<Arc<Status>>, IdText(id): IdText) -> Result<Response, ApiError> {
    let id = parse_id(&id, ApiError::unknown_task)?;
    let is_aborted = status.registry.abort(id);
    match status.registry.get(id) {
        Some(task) if is_aborted => Ok(Json(task).into_response()),
        // The registry remembers no outcomes.
        None if is_aborted => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(task) => Err(ApiError::conflict(format!("task {} has already ended: {}", id.to_external(), task.label()))),
        None => Err(ApiError::unknown_task(&id.to_external())),
    }
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
        let query = parse(&format!("state=failed&name=mail&limit=5&cursor=17.2-{}", TaskId::instance())).unwrap();
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
