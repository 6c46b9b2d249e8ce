use std::{panic::Location, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use postlude::{
    OutcomeKind, Page, ParseIdError, SetId, TaskId, TaskInfo, TaskName, TaskRegistry, TaskReport, TaskState, TaskStatus,
};
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
/// How many tasks a request names at most.
const MAX_IDS: usize = 100;

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
    set: Option<SetId>,
    /// The dead letter that was replayed.
    replay_of: Option<TaskId>,
    /// These tasks, live or ended, and no others.
    ids: Option<Vec<TaskId>>,
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
                "set" => query.set = Some(parse_set(&value)?),
                "replay_of" => query.replay_of = Some(parse_task("replay_of", &value)?),
                "ids" => query.ids = Some(parse_ids(&value)?),
                key if query.page.set(key, &value)? => {}
                _ => {
                    return Err(format!(
                        "`{key}` is not a parameter: there are state, name, text, set, replay_of, limit and cursor; and ids"
                    ));
                }
            }
        }
        if query.ids.is_some() && query != (Self { ids: query.ids.clone(), ..Self::default() }) {
            return Err("`ids` names the tasks: it goes with no other parameter".to_owned());
        }
        Ok(query)
    }

    fn answer(&self, registry: &TaskRegistry) -> TaskPage {
        if let Some(ids) = &self.ids {
            return TaskPage { tasks: ids.iter().filter_map(|id| registry.get(*id)).collect(), next: None };
        }
        let PageQuery { limit, cursor } = self.page;
        let is_wanted = |report: &TaskReport| {
            self.has(report.name, report.location)
                && self.set.is_none_or(|set| report.set == Some(set))
                && self.replay_of.is_none_or(|dead| report.replay_of == Some(dead))
        };
        match &self.state {
            StateFilter::Ended => registry.history_page(cursor, limit, is_wanted).into(),
            StateFilter::EndedAs(kind) => registry
                .history_page(cursor, limit, |report| report.outcome.kind() == *kind && is_wanted(report))
                .into(),
            _ => self.live(registry, limit).into(),
        }
    }

    /// A page of the live tasks that are wanted.
    fn live(&self, registry: &TaskRegistry, limit: usize) -> Page<TaskInfo> {
        let Some(set) = self.set else {
            return registry.live_page(self.page.cursor, limit, |task| self.is_live(task));
        };
        // The tasks of a set are together: the page begins with the first, and ends after the last.
        let cursor = self.page.cursor.or_else(|| set.to_string().parse().ok());
        let mut page = registry.live_page(cursor, limit, |task| self.is_live(task));
        page.next = page.next.filter(|next| next.set() == Some(set));
        page
    }

    /// Whether a live task is wanted.
    fn is_live(&self, task: &TaskInfo) -> bool {
        let is_in_state = match &self.state {
            StateFilter::Live => true,
            StateFilter::LiveIn(state) => task.state == *state,
            StateFilter::Paused => task.paused,
            StateFilter::Ended | StateFilter::EndedAs(_) => false,
        };
        is_in_state
            && self.has(task.name, task.location)
            && self.set.is_none_or(|set| task.set == Some(set))
            && self.replay_of.is_none_or(|dead| task.replay_of == Some(dead))
    }

    fn has(&self, name: TaskName, location: &Location<'_>) -> bool {
        self.name.as_ref().is_none_or(|wanted| name == **wanted)
            && self.text.as_ref().is_none_or(|text| {
                name.as_str().to_lowercase().contains(text) || location.to_string().to_lowercase().contains(text)
            })
    }
}

fn parse_task(key: &str, value: &str) -> Result<TaskId, String> {
    TaskId::from_external(value).map_err(|error| match error {
        ParseIdError::OtherProcess => format!("`{key}={value}` is of another process"),
        _ => format!("`{key}={value}` is not the id of a task: take the `id` of `/tasks`"),
    })
}

/// Reads the tasks that a client names. It may name some of another process, which are unknown.
fn parse_ids(value: &str) -> Result<Vec<TaskId>, String> {
    let ids: Vec<_> = value.split(',').take(MAX_IDS + 1).collect();
    if ids.len() > MAX_IDS {
        return Err(format!("`ids` has more than {MAX_IDS} ids"));
    }
    let known = ids.into_iter().filter_map(|id| match TaskId::from_external(id) {
        Err(ParseIdError::OtherProcess) => None,
        _ => Some(parse_task("ids", id)),
    });
    known.collect()
}

/// Reads a set, which is written like a task that was spawned.
fn parse_set(value: &str) -> Result<SetId, String> {
    let first = value.split_once('-').map(|(number, instance)| format!("{number}.1-{instance}"));
    let first = first.and_then(|first| TaskId::from_external(&first).ok());
    first
        .and_then(TaskId::set)
        .ok_or_else(|| format!("`set={value}` is not a set of this process: take the `set` of `/tasks`"))
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
    if !["state", "name", "text", "set", "replay_of"].iter().any(|key| params.contains_key(*key)) {
        return Err("say which tasks: `name=`, `text=`, `set=`, or `state=`, of which `live` is all".to_owned());
    }
    if params.contains_key("limit") {
        return Err(format!("`limit` is not a parameter here: a request aborts {MAX_ABORTED} tasks at most"));
    }
    if params.contains_key("ids") {
        return Err("`ids` is not a parameter here: abort each with `DELETE /tasks/{id}`".to_owned());
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
        let page = query.live(registry, MAX_ABORTED);
        let aborted = page.items.iter().filter(|task| registry.abort(task.id)).count();
        info!(
            target: "postlude", aborted, name = query.name, text = query.text, state = ?query.state,
            set = query.set.map(tracing::field::display), "a client has aborted tasks"
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
        let instance = TaskId::instance();
        let query = parse(&format!("set=17-{instance}&replay_of=9-{instance}")).unwrap();
        assert_eq!((query.set.map(|set| set.to_string()).as_deref(), query.replay_of), (Some("17"), "9".parse().ok()));
        let of_others = "18-0f3k9v5zq8m2n7x4c6b1t0ydwp";
        let query = parse(&format!("ids=17.2-{instance},{of_others},9-{instance}")).unwrap();
        assert_eq!(query.ids, Some(vec!["17.2".parse().unwrap(), "9".parse().unwrap()]));
        let message = parse(&format!("ids=17-{instance}&state=live&text=a")).unwrap_err();
        assert!(message.contains("no other parameter"), "{message}");
        let message = parse(&format!("ids={}", vec![of_others; 101].join(","))).unwrap_err();
        assert!(message.contains("more than 100"), "{message}");
        let wrong = [
            ("state=done", "completed"),
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("limit=-1", "from 1 to 1000"),
            ("cursor=last", "`next`"),
            ("stat=failed", "state, name, text, set, replay_of, limit and cursor"),
            ("ids=17", "`id` of `/tasks`"),
            ("ids=&state=live", "`id` of `/tasks`"),
            ("set=17", "`set` of `/tasks`"),
            ("replay_of=17", "`id` of `/tasks`"),
        ];
        for (text, hint) in wrong {
            let message = parse(text).unwrap_err();
            assert!(message.contains(hint), "{text}: {message}");
        }
    }
}
