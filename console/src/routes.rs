use std::{sync::Arc, time::Duration};

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
    error::{ApiError, answer_other_methods},
    health::{Condition, Limits, RECENTLY, failure_rate},
    pending_watch::PendingWatch,
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
        exclusive: Arc::default(),
        pending: Arc::default(),
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
    /// Held while many tasks are looked at, so that many requests at once take the registry's locks no more often than
    /// one client would. Health does not wait for it.
    exclusive: Arc<Mutex<()>>,
    pending: Arc<PendingWatch>,
}

impl Status {
    /// Looks at the tasks on a thread on which that delays nobody.
    #[expect(clippy::disallowed_methods, reason = "a look at the registry is no task of its own, and may be lost")]
    pub(crate) async fn exclusively<R: Send + 'static>(
        self: Arc<Self>,
        look: impl FnOnce(&TaskRegistry) -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        let guard = Arc::clone(&self.exclusive).lock_owned().await;
        let look = tokio::task::spawn_blocking(move || {
            let result = look(&self.registry);
            // Also if the client has gone away meanwhile, the next one has waited until here.
            drop(guard);
            result
        });
        look.await.map_err(|error| ApiError::unavailable(error.to_string()))
    }

    async fn condition(&self) -> Condition {
        let registry = &self.registry;
        let oldest_pending = match self.limits.pending_age {
            Some(_) => self.pending.oldest(registry).await,
            None => Duration::ZERO,
        };
        let recent_failure_rate = |_| failure_rate(registry.recent_outcomes(RECENTLY));
        Condition {
            is_closing: registry.is_shutting_down() || registry.is_closed(),
            is_full: registry.is_full(),
            oldest_pending,
            failure_rate: self.limits.failure_rate.and_then(recent_failure_rate),
        }
    }
}

async fn metrics_json(State(status): State<Arc<Status>>) -> Result<Json<TaskMetrics>, ApiError> {
    status.exclusively(TaskRegistry::metrics).await.map(Json)
}

#[cfg(feature = "prometheus")]
async fn metrics_text(State(status): State<Arc<Status>>) -> Result<impl IntoResponse, ApiError> {
    use axum::http::header::CONTENT_TYPE;

    use crate::TaskCollector;

    let text = status.exclusively(|registry| TaskCollector::new(registry.clone()).text()).await?;
    Ok(([(CONTENT_TYPE, TaskCollector::CONTENT_TYPE)], text))
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    problems: Vec<String>,
}

async fn health(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let problems = status.limits.problems(&status.condition().await);
    let (code, status) =
        if problems.is_empty() { (StatusCode::OK, "healthy") } else { (StatusCode::SERVICE_UNAVAILABLE, "unhealthy") };
    (code, Json(Health { status, problems }))
}
