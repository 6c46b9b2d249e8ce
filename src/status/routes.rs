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
    health::{Condition, Limits, failure_rate},
    list::{Page, Query},
};
use crate::{TaskId, TaskRegistry};

pub(crate) fn router<S>(registry: TaskRegistry, abort: bool, limits: Limits) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let router = Router::new()
        .route("/tasks", get(list))
        .route("/tasks/{id}", get(show).merge(if abort { delete(stop) } else { delete(may_not_stop) }))
        .route("/metrics.json", get(figures))
        .route("/health", get(health));
    #[cfg(feature = "prometheus")]
    let router = router.route("/metrics", get(exposition));
    router.with_state(Arc::new(Status { registry, limits, turn: Semaphore::new(1) }))
}

struct Status {
    registry: TaskRegistry,
    limits: Limits,
    /// What looks at all tasks is done one at a time, so that a storm of requests holds no lock more often than one client
    /// would.
    turn: Semaphore,
}

impl Status {
    async fn one_at_a_time<R>(&self, look: impl FnOnce(&Self) -> R) -> R {
        // Fails only for a closed semaphore, and nobody closes this one.
        let _turn = self.turn.acquire().await;
        look(self)
    }

    fn condition(&self) -> Condition {
        let inner = &self.registry.inner;
        Condition {
            is_closing: inner.is_shutting_down(),
            is_full: inner.ledger.is_full(),
            oldest_pending: self.limits.pending_age.map(|_| self.registry.metrics().oldest_pending).unwrap_or_default(),
            failure_rate: self.limits.failure_rate.and_then(|_| failure_rate(&self.registry.history())),
        }
    }
}

/// An error as a response.
struct Trouble(StatusCode, String);

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        (self.0, Json(BTreeMap::from([("error", self.1)]))).into_response()
    }
}

fn task_id(text: &str) -> Result<TaskId, Trouble> {
    text.parse().map_err(|_| {
        Trouble(StatusCode::BAD_REQUEST, format!("`{text}` is no task's id: those look like 17, or like 17.2 in a set"))
    })
}

fn unknown(id: impl fmt::Display) -> Trouble {
    Trouble(StatusCode::NOT_FOUND, format!("there is no task {id}, or it ended too long ago to be remembered"))
}

async fn list(
    State(status): State<Arc<Status>>,
    parameters: Result<Parameters<BTreeMap<String, String>>, QueryRejection>,
) -> Result<Json<Page>, Trouble> {
    let bad_request = |message| Trouble(StatusCode::BAD_REQUEST, message);
    let Parameters(parameters) = parameters.map_err(|rejection| bad_request(rejection.body_text()))?;
    let query = Query::parse(parameters).map_err(bad_request)?;
    Ok(Json(status.one_at_a_time(|status| Page::of(&status.registry, &query)).await))
}

impl Serialize for Page {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("tasks", &self.tasks)?;
        map.serialize_entry("next", &self.next)?;
        map.end()
    }
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
    let trouble = Trouble(
        StatusCode::METHOD_NOT_ALLOWED,
        "aborting is off here: `StatusRouter::allow_abort` switches it on".to_owned(),
    );
    ([(ALLOW, "GET,HEAD")], trouble).into_response()
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
