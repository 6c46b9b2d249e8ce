use std::{sync::Arc, time::Duration};

use axum::Router;
use postlude::TaskRegistry;
use tokio_util::sync::CancellationToken;

use crate::{
    health::Limits,
    routes::{self, Allowed, Config, Status},
};

/// The status routes with the defaults: short for [`StatusRouter::new`] and [`build`](StatusRouter::build).
pub fn router<S>(registry: TaskRegistry) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    StatusRouter::new(registry).build()
}

/// Builds the status routes.
///
/// # Default
/// - [`allow_abort`](Self::allow_abort), [`allow_replay`](Self::allow_replay), [`allow_pause`](Self::allow_pause): no
/// - [`jobs_at`](Self::jobs_at): none, and the page has no view of queues
/// - [`max_failure_rate`](Self::max_failure_rate), [`max_pending_age`](Self::max_pending_age),
///   [`max_running_age`](Self::max_running_age), [`max_open_age`](Self::max_open_age), [`max_stuck`](Self::max_stuck):
///   none; a registry that is open and not full is healthy
///
/// ```
/// use std::time::Duration;
/// use axum::Router;
/// use postlude::TaskRegistry;
/// use postlude_console::StatusRouter;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let status = StatusRouter::new(TaskRegistry::new())
///     .allow_abort()
///     .max_failure_rate(0.5)
///     .max_pending_age(Duration::from_secs(60));
/// let app: Router = Router::new().nest("/admin", status.build());
/// # drop(app);
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct StatusRouter {
    registry: TaskRegistry,
    config: Config,
    limits: Limits,
    stop: Option<CancellationToken>,
    has_page: bool,
}

impl StatusRouter {
    /// The routes of one registry.
    pub const fn new(registry: TaskRegistry) -> Self {
        let config = Config { allowed: Allowed { abort: false, replay: false, pause: false }, jobs: None };
        Self { registry, config, limits: Limits::NONE, stop: None, has_page: true }
    }

    /// Lets `DELETE /tasks/{id}` abort a task, and `DELETE /tasks?name=` all tasks that match.
    pub const fn allow_abort(mut self) -> Self {
        self.config.allowed.abort = true;
        self
    }

    /// Lets `POST /dead-letters/{id}/replay` replay [dead letters](postlude::DeadLetters), and
    /// `DELETE /dead-letters/{id}` discard them.
    pub const fn allow_replay(mut self) -> Self {
        self.config.allowed.replay = true;
        self
    }

    /// Lets `PUT` and `DELETE` of `/names/{name}/paused` pause and resume the tasks of a name, and those of
    /// `/names/{name}/limit` set and remove its limit: see [`TaskRegistry::pause`] and [`TaskRegistry::set_limit`].
    pub const fn allow_pause(mut self) -> Self {
        self.config.allowed.pause = true;
        self
    }

    /// Where the routes of `postlude-jobs` are, relative to these routes: the page then has a view of their queues,
    /// their dead jobs, and, if those routes allow actions, replay, discard and pause.
    ///
    /// A page whose routes are at `/admin` finds `/admin/jobs` as `jobs`, and `/jobs` as `../jobs`. The routes have to
    /// be at the same host: the page asks no other.
    ///
    /// ```
    /// use axum::Router;
    /// use postlude::TaskRegistry;
    /// use postlude_console::StatusRouter;
    ///
    /// fn with_jobs(registry: TaskRegistry, jobs: Router) -> Router {
    ///     let status = StatusRouter::new(registry).jobs_at("../jobs");
    ///     Router::new().nest("/jobs", jobs).nest("/admin", status.build()) // .layer(your_authentication)
    /// }
    /// ```
    pub fn jobs_at(mut self, path: impl AsRef<str>) -> Self {
        self.config.jobs = Some(path.as_ref().trim_end_matches('/').into());
        self
    }

    /// `GET /health` answers 503 while more than this share, from 0 to 1, of the tasks of the last five minutes failed,
    /// panicked or timed out. The share is taken of the outcomes that the registry
    /// [remembers](postlude::TaskRegistryBuilder::history), if at least ten of them completed, failed, panicked or
    /// timed out.
    pub const fn max_failure_rate(mut self, rate: f64) -> Self {
        self.limits.failure_rate = Some(rate);
        self
    }

    /// `GET /health` answers 503 while a pending task has been waiting for longer than this.
    pub const fn max_pending_age(mut self, age: Duration) -> Self {
        self.limits.pending_age = Some(age);
        self
    }

    /// `GET /health` answers 503 while an attempt has been running for longer than this: a task that hangs, if it has no
    /// time limit.
    pub const fn max_running_age(mut self, age: Duration) -> Self {
        self.limits.running_age = Some(age);
        self
    }

    /// `GET /health` answers 503 while a task has been waiting for longer than this in a set that does not drain yet:
    /// because its request is in progress, or a client does not take its response, or a body does not end. Such a body
    /// may be a stream of events, which is as long as its client likes.
    pub const fn max_open_age(mut self, age: Duration) -> Self {
        self.limits.open_age = Some(age);
        self
    }

    /// `GET /health` answers 503 while more tasks than this are [stuck](postlude::TaskMetrics::stuck): they were aborted
    /// or timed out, and their work still runs. A stuck closure holds a thread and a permit.
    pub const fn max_stuck(mut self, tasks: u64) -> Self {
        self.limits.stuck = Some(tasks);
        self
    }

    /// Ends the streams of the page when this token is cancelled.
    ///
    /// A server that stops gracefully waits for its responses, and a stream has no end of its own. Without a token,
    /// each stream ends after ten seconds, and the browser opens the next one; so a server waits for ten seconds at
    /// most.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use axum::Router;
    /// use postlude::TaskRegistry;
    /// use postlude_console::StatusRouter;
    ///
    /// #[tokio::main]
    /// async fn main() -> std::io::Result<()> {
    ///     let registry = TaskRegistry::new();
    ///     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    ///     let server = |stop: tokio_util::sync::CancellationToken| {
    ///         let status = StatusRouter::new(registry.clone()).stop(stop.clone());
    ///         let app = Router::new().nest("/admin", status.build());
    ///         axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned())
    ///     };
    ///     println!("{}", registry.serve(Duration::from_secs(20), server).await?);
    ///     Ok(())
    /// }
    /// ```
    pub fn stop(mut self, token: CancellationToken) -> Self {
        self.stop = Some(token);
        self
    }

    /// Leaves out the page, and with it the streams and what is sampled for them: the registry is looked at only when a
    /// request asks for it.
    pub const fn without_page(mut self) -> Self {
        self.has_page = false;
        self
    }

    /// The routes, to be nested into a router of any state.
    ///
    /// With the page, this starts to sample the registry, on the current tokio runtime; outside a runtime, the first
    /// request for the page does.
    pub fn build<S>(self) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        routes::router(self.status())
    }

    pub(crate) fn status(self) -> Arc<Status> {
        Arc::new(Status::new(self.registry, self.config, self.limits, self.stop, self.has_page))
    }
}
