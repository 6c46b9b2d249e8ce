use std::time::Duration;

use axum::Router;
use postlude::TaskRegistry;

use crate::{
    health::Limits,
    routes::{self, Allowed},
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
/// - [`allow_abort`](Self::allow_abort), [`allow_replay`](Self::allow_replay): no
/// - [`max_failure_rate`](Self::max_failure_rate), [`max_pending_age`](Self::max_pending_age): none; a registry that is open
///   and not full is healthy
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
    allowed: Allowed,
    limits: Limits,
}

impl StatusRouter {
    /// The routes of one registry.
    pub const fn new(registry: TaskRegistry) -> Self {
        let allowed = Allowed { abort: false, replay: false };
        Self { registry, allowed, limits: Limits { failure_rate: None, pending_age: None } }
    }

    /// Lets `DELETE /tasks/{id}` abort tasks.
    pub const fn allow_abort(mut self) -> Self {
        self.allowed.abort = true;
        self
    }

    /// Lets `POST /dead-letters/{id}/replay` replay [dead letters](postlude::DeadLetters), and
    /// `DELETE /dead-letters/{id}` discard them.
    pub const fn allow_replay(mut self) -> Self {
        self.allowed.replay = true;
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

    /// The routes, to be nested into a router of any state.
    pub fn build<S>(self) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        routes::router(self.registry, self.allowed, self.limits)
    }
}
