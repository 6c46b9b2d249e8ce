use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use postlude::{TaskId, TaskMetrics, TaskRegistry};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    action::INSTANCE,
    ages_watch::AgesWatch,
    dead_letters,
    error::{ApiError, answer_other_methods},
    health::{Condition, Limits, RECENTLY, failure_rate},
    limits, names, page,
    sampler::Sampler,
    snapshot::Health,
    stream,
    tail::Tail,
    tasks,
};

/// The actions that clients may take.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Allowed {
    pub(crate) abort: bool,
    pub(crate) replay: bool,
    pub(crate) pause: bool,
}

/// What the page is told of its service.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Config {
    pub(crate) allowed: Allowed,
    /// Where the routes of jobs are, relative to these routes.
    pub(crate) jobs: Option<Arc<str>>,
}

pub(crate) fn router<S>(status: Arc<Status>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let allowed = status.config.allowed;
    let mut router = Router::new()
        .route("/metrics.json", answer_other_methods(get(metrics_json), None))
        .route("/health", answer_other_methods(get(health), None))
        .merge(tasks::routes(allowed.abort))
        .merge(dead_letters::routes(allowed.replay))
        .merge(names::routes())
        .merge(limits::routes(allowed.pause));
    #[cfg(feature = "prometheus")]
    {
        router = router.route("/metrics", answer_other_methods(get(metrics_text), None));
    }
    if status.sampler.is_some() {
        router = router.merge(stream::routes()).merge(page::routes());
        Sampler::start(&status);
    }
    router.layer(map_response(protect)).with_state(status)
}

/// Keeps the answers out of every cache: a stored one would show tasks as they were, perhaps to others. Says which
/// process has answered: there may be several at one address.
async fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(instance) = HeaderValue::from_str(TaskId::instance()) {
        headers.insert(INSTANCE, instance);
    }
    response
}

/// The state of the routes.
pub(crate) struct Status {
    pub(crate) registry: TaskRegistry,
    pub(crate) config: Config,
    /// Ends the streams.
    pub(crate) stop: Option<CancellationToken>,
    /// `None` without the page.
    pub(crate) sampler: Option<Arc<Sampler>>,
    pub(crate) tail: Arc<Tail>,
    limits: Limits,
    /// Held while many tasks are looked at, so that many requests at once take the registry's locks no more often than
    /// one client would. Health does not wait for it.
    exclusive: Arc<Mutex<()>>,
    ages: Arc<AgesWatch>,
}

impl Status {
    pub(crate) fn new(
        registry: TaskRegistry,
        config: Config,
        limits: Limits,
        stop: Option<CancellationToken>,
        has_page: bool,
    ) -> Self {
        Self {
            registry,
            config,
            stop,
            sampler: has_page.then(|| Arc::new(Sampler::new())),
            tail: Arc::new(Tail::new()),
            limits,
            exclusive: Arc::default(),
            ages: Arc::default(),
        }
    }

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

    pub(crate) async fn health(&self) -> Health {
        Health::new(self.limits.problems(&self.condition().await))
    }

    async fn condition(&self) -> Condition {
        let registry = &self.registry;
        let ages = self.ages.ages(registry, self.limits.needed_ages()).await;
        let recent_failure_rate = |_| failure_rate(registry.recent_outcomes(RECENTLY));
        Condition {
            is_closing: registry.is_shutting_down() || registry.is_closed(),
            is_full: registry.is_full(),
            ages,
            stuck: self.limits.stuck.map_or(0, |_| registry.stuck()),
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

async fn health(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let health = status.health().await;
    let code = if health.problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(health))
}
