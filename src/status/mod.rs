//! What runs, what failed and the figures, over HTTP: routes for an operator.
//!
//! **Put them behind your own authentication.** They show the names, places and errors of your tasks, and errors tend to
//! quote what they are about. [Aborting](StatusRouter::allow_abort) and [replaying](StatusRouter::allow_replay) are off
//! unless you switch them on.
//!
//! ```
//! use axum::Router;
//! use postlude::{TaskRegistry, status};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let registry = TaskRegistry::new();
//! let app: Router = Router::new()
//!     // your own routes, and then
//!     .nest("/admin", status::router(registry)); // .layer(your_authentication)
//! # drop(app);
//! # }
//! ```
//!
//! | route | answers |
//! |---|---|
//! | `GET /tasks` | live tasks, a page at a time: `state=`, `name=`, `limit=` (100, at most 1,000), `cursor=` |
//! | `GET /tasks/{id}` | one task, live or ended; 404 when it is unknown or forgotten |
//! | `DELETE /tasks/{id}` | aborts it, and answers with what it then is; 405 unless allowed, 404 when unknown, 409 when it has ended |
//! | `GET /dead-letters` | what did not get done, a page at a time: `limit=`, `cursor=` |
//! | `GET /dead-letters/{id}` | one dead letter, with its attempts; 404 when there is none (any more) |
//! | `POST /dead-letters/{id}/replay` | tries it again: 202, and [where to ask](Accepted) for the new task; 405 unless allowed, 404 when there is none, 409 when it can't be made again or is not accepted |
//! | `DELETE /dead-letters/{id}` | throws it away: 204; 405 unless allowed, 404 when there is none |
//! | `GET /metrics.json` | the figures, [`TaskMetrics`](crate::TaskMetrics) |
//! | `GET /metrics` | the same for Prometheus, with the feature `prometheus` |
//! | `GET /health` | 200, or 503 and what is wrong: shut down or shutting down, at capacity, or beyond a [limit](StatusRouter) |
//!
//! An error is `{"error": "what is wrong, and what to do"}`; what can't be understood is a 400.
//!
//! # Pages
//! `state` is `live` (the default), `pending`, `running` or `retrying`, which list by id; or `ended`, `completed`, `failed`,
//! `panicked`, `timed_out`, `aborted` or `discarded`, which list what the registry
//! [remembers](crate::TaskRegistryBuilder::history), the latest first. The answer is
//! `{"tasks": [..], "next": "17.2"}`: give `next` back as `cursor` for the page after it, until it is `null`. Tasks that come
//! and go between two pages neither repeat nor hide others. A page may be short although there is a next one, when few of
//! very many tasks match.
//!
//! Dead letters are paged alike, as `{"dead_letters": [..], "next": "9"}`, the latest first.
//!
//! # What it costs the tasks
//! A registry's locks are held for short moments: one look at the numbers of the live tasks, then a few tasks at a time.
//! Nothing is serialised under a lock. Lists, health and figures are made one at a time, however many clients ask.

mod accepted;
mod dead_letters;
mod health;
mod list;
mod page;
mod routes;

use std::time::Duration;

use axum::Router;

pub use self::accepted::{Accepted, AcceptedUnder};
use self::{health::Limits, routes::Allowed};
use crate::TaskRegistry;

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
/// use postlude::{TaskRegistry, status::StatusRouter};
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

    /// Lets `POST /dead-letters/{id}/replay` replay [dead letters](crate::DeadLetters), and `DELETE /dead-letters/{id}`
    /// throw them away.
    pub const fn allow_replay(mut self) -> Self {
        self.allowed.replay = true;
        self
    }

    /// `GET /health` answers 503 while more than this share, from 0 to 1, of the tasks of the last five minutes failed,
    /// panicked or timed out. Asked of those that the registry [remembers](crate::TaskRegistryBuilder::history), and when
    /// there are at least ten of them that were attempted to their end.
    pub const fn max_failure_rate(mut self, rate: f64) -> Self {
        self.limits.failure_rate = Some(rate);
        self
    }

    /// `GET /health` answers 503 while a pending task has been waiting for longer than this.
    pub const fn max_pending_age(mut self, age: Duration) -> Self {
        self.limits.pending_age = Some(age);
        self
    }

    /// The routes: to be nested into a router of yours, whatever its state.
    pub fn build<S>(self) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        routes::router(self.registry, self.allowed, self.limits)
    }
}
