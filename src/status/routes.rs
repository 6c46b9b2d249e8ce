use std::{collections::BTreeMap, fmt, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, Query as Parameters, State, rejection::QueryRejection},
    http::{StatusCode, header::ALLOW},
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use serde::{Serialize, Serializer, ser::SerializeMap};
use tokio::sync::Semaphore;

use super::{
    dead_letters,
    health::{Condition, Limits, failure_rate},
    list::Query,
    page::Page,
};
use crate::{TaskId, TaskRegistry, TaskStatus};

/// What clients may do, beyond looking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    pub(crate) abort: bool,
    pub(crate) replay: bool,
}

pub(crate) fn router<S>(registry: TaskRegistry, allowed: Allowed, limits: Limits) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let router = Router::new()
        .route("/tasks", get(list))
        .route("/tasks/{id}", get(show).merge(if allowed.abort { delete(stop) } else { delete(may_not_stop) }))
        .route("/metrics.json", get(figures))
        .route("/health", get(health))
        .merge(dead_letters::routes(allowed.replay));
    #[cfg(feature = "prometheus")]
    let router = router.route("/metrics", get(exposition));
    router.with_state(Arc::new(Status { registry, limits, turn: Semaphore::new(1) }))
}

pub(crate) struct Status {
    pub(crate) registry: TaskRegistry,
    limits: Limits,
    /// What looks at all tasks is done one at a time, so that a storm of requests holds no lock more often than one client
    /// would.
    turn: Semaphore,
}

impl Status {
    pub(crate) async fn one_at_a_time<R>(&self, look: impl FnOnce(&Self) -> R) -> R {
        // Fails only for a closed semaphore, and nobody closes this one.
        let _turn = self.turn.acquire().await;
        look(self)
    }

    fn condition(&self) -> Condition {
        let registry = &self.registry;
        Condition {
            is_closing: registry.is_shutting_down(),
            is_full: registry.is_full(),
            oldest_pending: self.limits.pending_age.map(|_| self.registry.metrics().oldest_pending).unwrap_or_default(),
            failure_rate: self.limits.failure_rate.and_then(|_| failure_rate(&self.registry.history())),
        }
    }
}

/// The parameters of a request, if they could be taken apart.
pub(crate) type Asked = Result<Parameters<BTreeMap<String, String>>, QueryRejection>;

/// An error as a response.
pub(crate) struct Trouble(pub(crate) StatusCode, pub(crate) String);

impl Trouble {
    pub(crate) const fn bad_request(message: String) -> Self {
        Self(StatusCode::BAD_REQUEST, message)
    }

    /// What only a switch allows, on a route that has these methods without it.
    pub(crate) fn not_allowed(message: &str, methods: &'static str) -> Response {
        ([(ALLOW, methods)], Self(StatusCode::METHOD_NOT_ALLOWED, message.to_owned())).into_response()
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        (self.0, Json(BTreeMap::from([("error", self.1)]))).into_response()
    }
}

pub(crate) fn task_id(text: &str) -> Result<TaskId, Trouble> {
    text.parse().map_err(|_| {
        Trouble::bad_request(format!("`{text}` is no task's id: those look like 17, or like 17.2 in a set"))
    })
}

/// What a route understands of the parameters of a request.
pub(crate) fn understood<Q>(
    asked: Asked,
    parse: impl FnOnce(BTreeMap<String, String>) -> Result<Q, String>,
) -> Result<Q, Trouble> {
    let Parameters(parameters) = asked.map_err(|rejection| Trouble::bad_request(rejection.body_text()))?;
    parse(parameters).map_err(Trouble::bad_request)
}

fn unknown(id: impl fmt::Display) -> Trouble {
    Trouble(StatusCode::NOT_FOUND, format!("there is no task {id}, or it ended too long ago to be remembered"))
}

async fn list(State(status): State<Arc<Status>>, asked: Asked) -> Result<Json<Page<TaskStatus>>, Trouble> {
    let query = understood(asked, Query::parse)?;
    Ok(Json(status.one_at_a_time(|status| Page::of(&status.registry, &query)).await))
}

async fn show(State(status): State<Arc<Status>>, Path(id): Path<String>) -> Result<Response, Trouble> {
    let id = task_id(&id)?;
    let task = status.registry.get(id).ok_or_else(|| unknown(id))?;
    Ok(Json(task).into_response())
}

async fn stop(State(status): State<Arc<Status>>, Path(id): Path<String>) -> Result<Response, Trouble> {
    let id = task_id(&id)?;
    let aborted = status.registry.abort(id);
    let task = status.registry.get(id);
    match task {
        Some(task) if aborted => Ok(Json(task).into_response()),
        // Aborted, and nothing is remembered.
        None if aborted => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(task) => Err(Trouble(StatusCode::CONFLICT, format!("task {id} has already ended: {}", task.label()))),
        None => Err(unknown(id)),
    }
}

async fn may_not_stop() -> Response {
    Trouble::not_allowed("aborting is off here: `StatusRouter::allow_abort` switches it on", "GET,HEAD")
}

async fn figures(State(status): State<Arc<Status>>) -> Response {
    Json(status.one_at_a_time(|status| status.registry.metrics()).await).into_response()
}

#[cfg(feature = "prometheus")]
async fn exposition(State(status): State<Arc<Status>>) -> Response {
    use axum::http::header::CONTENT_TYPE;

    use crate::TaskCollector;

    let text = status.one_at_a_time(|status| TaskCollector::new(status.registry.clone()).text()).await;
    ([(CONTENT_TYPE, TaskCollector::CONTENT_TYPE)], text).into_response()
}

async fn health(State(status): State<Arc<Status>>) -> Response {
    let problems = status.one_at_a_time(|status| status.limits.problems(&status.condition())).await;
    let code = if problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if problems.is_empty() { "healthy" } else { "unhealthy" };
    (code, Json(Health { word, problems })).into_response()
}

struct Health {
    word: &'static str,
    problems: Vec<String>,
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("status", self.word)?;
        map.serialize_entry("problems", &self.problems)?;
        map.end()
    }
}
