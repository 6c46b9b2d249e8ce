use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRequestParts, OriginalUri, Path, Query, State, rejection::QueryRejection},
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, LOCATION},
        request::Parts,
    },
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{action::Action, error::ApiError, error::chain};
use crate::{
    jobs::handle::Jobs,
    model::{dead::DeadJob, id::JobId, info::JobInfo, page::Page, stats::JobStats},
    worker::metrics::WorkerMetrics,
};

/// How long the health check waits for the queue.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// The routes with the defaults: short for [`JobsRouter::new`] and [`build`](JobsRouter::build).
pub fn router<S>(jobs: Jobs) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    JobsRouter::new(jobs).build()
}

/// Builds routes that show jobs to an operator, as JSON.
///
/// **Put them behind your own authentication**: they show the names, errors, progress and results of your jobs, and
/// errors tend to quote the data that caused them. They never show payloads.
///
/// | route | answers with |
/// |---|---|
/// | `GET /queue` | the engine, whether actions are on, and the [figures](crate::JobStats) by name |
/// | `GET /jobs/{id}` | one [job](crate::JobInfo), with its progress and its result; 404 if the queue does not know it, or no longer |
/// | `DELETE /jobs/{id}` | 204: a job that was not reserved is cancelled; 404 if there is none |
/// | `GET /dead` | [dead jobs](crate::DeadJob), the latest first: `limit=` (100, at most 1,000), `name=`, `after=` the `next` of the page before |
/// | `POST /dead/{id}/replay` | 202 with the location of the job, which waits again; 404 if no dead job has this id |
/// | `DELETE /dead/{id}` | 204: the dead job was discarded; 404 if there is none |
/// | `PUT /paused/{name}`, `DELETE /paused/{name}` | 204: the name is paused, or no longer |
/// | `GET /metrics.json` | the [figures of the worker](crate::WorkerMetrics) |
/// | `GET /metrics` | all figures for Prometheus, with the feature `prometheus` |
/// | `GET /health` | 200; or 503 and the reasons: the queue can't be reached, or a job has waited too long |
///
/// What acts (`POST`, `PUT`, `DELETE`) is off unless [`allow_actions`](Self::allow_actions) switches it on (405), and
/// asks for the header `x-requested-with`, which a form on a page of another site can't send (403). An error is
/// `{"error": "the cause, and what to do"}`. Times are milliseconds since the Unix epoch, durations are seconds.
///
/// ```
/// use std::time::Duration;
/// use axum::Router;
/// use postlude_jobs::{Jobs, JobsRouter};
///
/// fn with_jobs(app: Router, jobs: &Jobs) -> Router {
///     let routes = JobsRouter::new(jobs.clone())
///         .allow_actions()
///         .max_oldest_waiting(Duration::from_secs(300));
///     app.nest("/admin/jobs", routes.build()) // .layer(your_authentication)
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct JobsRouter {
    jobs: Jobs,
    allows_actions: bool,
    max_oldest_waiting: Option<Duration>,
}

impl JobsRouter {
    /// The routes of one queue.
    pub const fn new(jobs: Jobs) -> Self {
        Self { jobs, allows_actions: false, max_oldest_waiting: None }
    }

    /// Lets clients cancel, replay, discard and pause.
    pub const fn allow_actions(mut self) -> Self {
        self.allows_actions = true;
        self
    }

    /// `GET /health` answers 503 while a job, of a name that is not paused, has been due for longer than this.
    pub const fn max_oldest_waiting(mut self, age: Duration) -> Self {
        self.max_oldest_waiting = Some(age);
        self
    }

    /// The routes, to be nested into a router of any state.
    pub fn build<S>(self) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let router = Router::new()
            .route("/queue", get(queue))
            .route("/jobs/{id}", get(job).delete(cancel))
            .route("/dead", get(dead))
            .route("/dead/{id}", axum::routing::delete(discard))
            .route("/dead/{id}/replay", post(replay))
            .route("/paused/{name}", put(pause).delete(resume))
            .route("/metrics.json", get(metrics_json))
            .route("/health", get(health));
        #[cfg(feature = "prometheus")]
        let router = router.route("/metrics", get(metrics_text));
        router.layer(map_response(forbid_storing)).with_state(Arc::new(self))
    }
}

/// Keeps the answers out of every cache.
async fn forbid_storing(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

type Routes = State<Arc<JobsRouter>>;

/// The extractor of routes that act: only if that is allowed, and no page of another site can have sent the request.
struct Allowed;

impl FromRequestParts<Arc<JobsRouter>> for Allowed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, routes: &Arc<JobsRouter>) -> Result<Self, ApiError> {
        if !routes.allows_actions {
            return Err(ApiError::not_allowed());
        }
        Action::from_request_parts(parts, routes).await.map(|Action| Self)
    }
}

/// The extractor of an id in the path. The path under which the routes are nested may have parameters of its own.
struct Id(JobId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Parameters {
            id: String,
        }

        let path = Path::<Parameters>::from_request_parts(parts, state).await;
        let Path(Parameters { id }) = path.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
        id.parse().map(Self).map_err(|error| ApiError::bad_request(format!("`{id}` is {error}")))
    }
}

/// The extractor of a name in the path.
struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Parameters {
            name: String,
        }

        let path = Path::<Parameters>::from_request_parts(parts, state).await;
        path.map(|Path(Parameters { name })| Self(name))
            .map_err(|rejection| ApiError::bad_request(rejection.body_text()))
    }
}

#[derive(Serialize)]
struct QueueBody {
    engine: &'static str,
    allows_actions: bool,
    #[serde(flatten)]
    stats: JobStats,
}

async fn queue(State(routes): Routes) -> Result<Json<QueueBody>, ApiError> {
    let (engine, allows_actions) = (routes.jobs.engine(), routes.allows_actions);
    Ok(Json(QueueBody { engine, allows_actions, stats: routes.jobs.stats().await? }))
}

async fn job(State(routes): Routes, Id(id): Id) -> Result<Json<JobInfo>, ApiError> {
    routes.jobs.find(id).await?.map(Json).ok_or_else(|| unknown(id))
}

async fn cancel(_: Allowed, State(routes): Routes, Id(id): Id) -> Result<StatusCode, ApiError> {
    let message = || format!("no job {id} waits: it is unknown, was reserved, or has ended");
    done(routes.jobs.cancel(id).await?, message)
}

#[derive(Deserialize)]
struct DeadQuery {
    limit: Option<u32>,
    name: Option<String>,
    after: Option<JobId>,
}

#[derive(Serialize)]
struct DeadBody {
    dead: Vec<DeadJob>,
    next: Option<JobId>,
}

async fn dead(
    State(routes): Routes,
    query: Result<Query<DeadQuery>, QueryRejection>,
) -> Result<Json<DeadBody>, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let page = Page { after: query.after, name: query.name, ..query.limit.map_or_else(Page::default, Page::first) };
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let dead = routes.jobs.dead(page).await?;
    let next = dead.last().filter(|_| dead.len() == limit).map(|last| last.id);
    Ok(Json(DeadBody { dead, next }))
}

async fn replay(
    _: Allowed,
    State(routes): Routes,
    OriginalUri(uri): OriginalUri,
    Id(id): Id,
) -> Result<Response, ApiError> {
    done(routes.jobs.replay(id).await?, || format!("no dead job has the id {id}"))?;
    let prefix = uri.path().rsplit_once("/dead/").map(|(prefix, _)| prefix).unwrap_or_default();
    Ok((StatusCode::ACCEPTED, [(LOCATION, format!("{prefix}/jobs/{id}"))]).into_response())
}

async fn discard(_: Allowed, State(routes): Routes, Id(id): Id) -> Result<StatusCode, ApiError> {
    done(routes.jobs.discard(id).await?, || format!("no dead job has the id {id}"))
}

async fn pause(_: Allowed, State(routes): Routes, Name(name): Name) -> Result<StatusCode, ApiError> {
    routes.jobs.pause(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn resume(_: Allowed, State(routes): Routes, Name(name): Name) -> Result<StatusCode, ApiError> {
    routes.jobs.resume(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn metrics_json(State(routes): Routes) -> Json<WorkerMetrics> {
    Json(routes.jobs.metrics())
}

#[cfg(feature = "prometheus")]
async fn metrics_text(State(routes): Routes) -> Result<Response, ApiError> {
    use axum::http::header::CONTENT_TYPE;

    let text = super::figures::write(routes.jobs.stats().await?, routes.jobs.metrics());
    Ok(([(CONTENT_TYPE, super::figures::CONTENT_TYPE)], text).into_response())
}

#[derive(Serialize)]
struct HealthBody {
    healthy: bool,
    problems: Vec<String>,
}

async fn health(State(routes): Routes) -> (StatusCode, Json<HealthBody>) {
    let problems = match timeout(HEALTH_TIMEOUT, routes.jobs.stats()).await {
        Ok(Ok(stats)) => too_old(&stats, routes.max_oldest_waiting),
        Ok(Err(error)) => vec![chain(&error)],
        Err(_) => vec![format!("{} did not answer within {HEALTH_TIMEOUT:?}", routes.jobs.engine())],
    };
    let code = if problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(HealthBody { healthy: problems.is_empty(), problems }))
}

/// The names whose oldest job has waited too long, in sentences.
fn too_old(stats: &JobStats, limit: Option<Duration>) -> Vec<String> {
    let Some(limit) = limit else { return Vec::new() };
    let waiting = stats.names.iter().filter(|(_, stats)| !stats.paused);
    let old = waiting.filter_map(|(name, stats)| Some((name, stats.oldest_waiting.filter(|age| *age > limit)?)));
    old.map(|(name, age)| format!("a job `{name}` has been due for {age:.1?}, longer than {limit:?}")).collect()
}

fn unknown(id: JobId) -> ApiError {
    ApiError::not_found(format!("there is no job {id}: it is unknown, was discarded, or ended too long ago"))
}

fn done(is_done: bool, message: impl FnOnce() -> String) -> Result<StatusCode, ApiError> {
    if is_done { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::not_found(message())) }
}
