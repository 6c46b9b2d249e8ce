use std::{panic::Location, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use postlude::{OutcomeKind, Page, TaskId, TaskInfo, TaskName, TaskRegistry, TaskReport, TaskState, TaskStatus};
use serde::Serialize;
use tracing::info;

use crate::{
    action::Action,
    error::{ApiError, answer_other_methods},
    query::{IdText, PageQuery, Params, QueryParams, parse_id, parse_query},
    routes::Status,
};

/// How many tasks a request aborts at most.
const MAX_ABORTED: usize = 10_000;

pub(crate) fn routes(allow_abort: bool) -> Router<Arc<Status>> {
    const DISABLED: &str = "aborting is disabled: `StatusRouter::allow_abort` enables it";

    const DELETE: &[Method] = &[Method::DELETE];

    let (tasks, task, disabled) = if allow_abort {
        (get(list).delete(abort_all), get(show).delete(abort), None)
    } else {
        (get(list), get(show), Some((DELETE, DISABLED)))
    };
    Router::new()
        .route("/tasks", answer_other_methods(tasks, disabled))
        .route("/tasks/{id}", answer_other_methods(task, disabled))
}

/// The tasks that a client asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct TaskQuery {
    state: StateFilter,
    name: Option<String>,
    /// Part of the name or of the place in the source, in lower case.
    text: Option<String>,
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
                "text" => query.text = Some(value.to_lowercase()).filter(|text| !text.is_empty()),
                key if query.page.set(key, &value)? => {}
                _ => return Err(format!("`{key}` is not a parameter: there are state, name, text, limit and cursor")),
            }
        }
        Ok(query)
    }

    fn answer(&self, registry: &TaskRegistry) -> TaskPage {
        let PageQuery { limit, cursor } = self.page;
        let is_wanted = |report: &TaskReport| self.has(report.name, report.location);
        match &self.state {
            StateFilter::Ended => registry.history_page(cursor, limit, is_wanted).into(),
            StateFilter::EndedAs(kind) => registry
                .history_page(cursor, limit, |report| report.outcome.kind() == *kind && is_wanted(report))
                .into(),
            _ => registry.live_page(cursor, limit, |task| self.is_live(task)).into(),
        }
    }

    /// Whether a live task is wanted.
    fn is_live(&self, task: &TaskInfo) -> bool {
        let is_in_state = match &self.state {
            StateFilter::Live => true,
            StateFilter::LiveIn(state) => task.state == *state,
            StateFilter::Paused => task.paused,
            StateFilter::Ended | StateFilter::EndedAs(_) => false,
        };
        is_in_state && self.has(task.name, task.location)
    }

    fn has(&self, name: TaskName, location: &Location<'_>) -> bool {
        self.name.as_ref().is_none_or(|wanted| name == **wanted)
            && self.text.as_ref().is_none_or(|text| {
                name.as_str().to_lowercase().contains(text) || location.to_string().to_lowercase().contains(text)
            })
    }
}

#[derive(Serialize)]
struct TaskPage {
    tasks: Vec<TaskStatus>,
    next: Option<TaskId>,
}

impl From<Page<TaskInfo>> for TaskPage {
    fn from(page: Page<TaskInfo>) -> Self {
        Self { tasks: page.items.into_iter().map(TaskStatus::Live).collect(), next: page.next }
    }
}

impl From<Page<TaskReport>> for TaskPage {
    fn from(page: Page<TaskReport>) -> Self {
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
    if is_aborted {
        info!(target: "postlude", id = %id, "a client has aborted a task");
    }
    match status.registry.get(id) {
        Some(task) if is_aborted => Ok(Json(task).into_response()),
        // The registry remembers no outcomes.
        None if is_aborted => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(task) => Err(ApiError::conflict(format!("task {} has already ended: {}", id.to_external(), task.label()))),
        None => Err(ApiError::unknown_task(&id.to_external())),
    }
}

/// What became of the tasks that a client wanted aborted.
#[derive(Serialize)]
struct Aborted {
    aborted: usize,
    /// Send it back as `cursor` to go on; `null` if all tasks were looked at.
    next: Option<TaskId>,
}

/// Which tasks are to be aborted. A request without a filter is a mistake more often than a wish.
fn parse_abort(params: Params) -> Result<TaskQuery, String> {
    if !["state", "name", "text"].iter().any(|key| params.contains_key(*key)) {
        return Err("say which tasks: `name=`, `text=`, or `state=`, of which `live` is all".to_owned());
    }
    if params.contains_key("limit") {
        return Err(format!("`limit` is not a parameter here: a request aborts {MAX_ABORTED} tasks at most"));
    }
    let query = TaskQuery::parse(params)?;
    match query.state {
        StateFilter::Ended | StateFilter::EndedAs(_) => Err("a task that has ended can't be aborted".to_owned()),
        _ => Ok(query),
    }
}

async fn abort_all(
    _: Action,
    State(status): State<Arc<Status>>,
    query: QueryParams,
) -> Result<Json<Aborted>, ApiError> {
    let query = parse_query(query, parse_abort)?;
    let abort = move |registry: &TaskRegistry| {
        let page = registry.live_page(query.page.cursor, MAX_ABORTED, |task| query.is_live(task));
        let aborted = page.items.iter().filter(|task| registry.abort(task.id)).count();
        info!(
            target: "postlude", aborted, name = ?query.name, text = ?query.text, state = ?query.state,
            "a client has aborted tasks"
        );
        Aborted { aborted, next: page.next }
    };
    status.exclusively(abort).await.map(Json)
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
            ("stat=failed", "state, name, text, limit and cursor"),
        ];
        for (text, hint) in wrong {
            let message = parse(text).unwrap_err();
            assert!(message.contains(hint), "{text}: {message}");
        }
    }
}
