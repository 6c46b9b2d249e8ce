use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, HeaderValue},
    },
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use postlude::{TaskMetrics, TaskRegistry};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::{
    dead_letters,
    error::answer_other_methods,
    health::{Condition, Limits, failure_rate},
    tasks,
};

/// The actions that clients may take.
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
        .route("/metrics.json", answer_other_methods(get(metrics_json), None))
        .route("/health", answer_other_methods(get(health), None))
        .merge(tasks::routes(allowed.abort))
        .merge(dead_letters::routes(allowed.replay));
    #[cfg(feature = "prometheus")]
    let router = router.route("/metrics", answer_other_methods(get(metrics_text), None));
    router.layer(map_response(forbid_storing)).with_state(Arc::new(Status {
        registry,
        limits,
        exclusive: Mutex::new(()),
    }))
}

/// Keeps the answers out of every cache: a stored one would show tasks as they were, perhaps to others.
async fn forbid_storing(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The state of the routes.
pub(crate) struct Status {
    pub(crate) registry: TaskRegistry,
    limits: Limits,
    /// Held while all tasks are looked at, so that many requests at once take the registry's locks no more often than one
    /// client would.
    exclusive: Mutex<()>,
}

impl Status {
    pub(crate) async fn exclusively<R>(&self, look: impl FnOnce(&Self) -> R) -> R {
        let _guard = self.exclusive.lock().await;
        look(self)
    }

    fn condition(&self) -> Condition {
        let registry = &self.registry;
        Condition {
            is_closing: registry.is_shutting_down(),
            is_full: registry.is_full(),
            oldest_pending: self.limits.pending_age.map(|_| registry.metrics().oldest_pending).unwrap_or_default(),
            failure_rate: self.limits.failure_rate.and_then(|_| failure_rate(&registry.history())),
        }
    }
}

async fn metrics_json(State(status): State<Arc<Status>>) -> Json<TaskMetrics> {
    Json(status.exclusively(|status| status.registry.metrics()).await)
}

#[cfg(feature = "prometheus")]
async fn metrics_text(State(status): State<Arc<Status>>) -> impl IntoResponse {
    use axum::http::header::CONTENT_TYPE;

    use crate::TaskCollector;

    let text = status.exclusively(|status| TaskCollector::new(status.registry.clone()).text()).await;
    ([(CONTENT_TYPE, TaskCollector::CONTENT_TYPE)], text)
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    problems: Vec<String>,
}

async fn health(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let problems = status.exclusively(|status| status.limits.problems(&status.condition())).await;
    let (code, status) =
        if problems.is_empty() { (StatusCode::OK, "healthy") } else { (StatusCode::SERVICE_UNAVAILABLE, "unhealthy") };
    (code, Json(Health { status, problems }))
}
