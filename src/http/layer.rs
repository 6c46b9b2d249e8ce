//! The layer that gives each request a set.

use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use crate::{
    http::{TaskService, config::Config},
    model::Ending,
    registry::TaskRegistry,
};

/// Feature `http`.
/// Gives each request a [`TaskSet`](crate::TaskSet), and drains the set when the response has left.
///
/// ```
/// use axum::{Router, http::StatusCode, routing::post};
/// use postlude::{TaskLayer, TaskRegistry, TaskSet};
///
/// async fn signup(tasks: TaskSet) -> StatusCode {
///     tasks.add(async { /* send the mail */ });
///     StatusCode::ACCEPTED
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let app: Router = Router::new()
///     .route("/signup", post(signup))
///     .layer(TaskLayer::new(registry.clone()));
/// # drop(app);
/// # }
/// ```
///
/// # Default
/// - [`drain_when`](Self::drain_when): every set drains
/// - [`drain_within`](Self::drain_within): 5 s
/// - [`shed_at_capacity`](Self::shed_at_capacity): off
///
/// # Where it belongs
/// Outermost, so that it sees the bytes that really go to the server, and so that a timeout or a caught panic
/// inside it is a response like any other. A compressing layer outside it takes the bytes apart: the tasks
/// then start when the last chunk has been compressed, not when it was sent.
///
/// Where several are around a handler, in nested routers, the outermost one counts: there is one set per
/// request, with that layer's registry and conditions.
#[derive(Clone)]
pub struct TaskLayer {
    config: Arc<Config>,
}

impl TaskLayer {
    /// A layer whose sets belong to `registry`.
    #[must_use]
    pub fn new(registry: TaskRegistry) -> Self {
        Self { config: Arc::new(Config::new(registry)) }
    }

    /// Drains a set only if `condition` says so of how the request ended; otherwise its tasks end as
    /// [`DiscardReason::Ending`](crate::DiscardReason::Ending). Without it, every set drains.
    ///
    /// A condition that panics is logged and counted, and the set drains.
    ///
    /// ```
    /// # use postlude::{Ending, TaskLayer, TaskRegistry};
    /// # fn layer(registry: TaskRegistry) -> TaskLayer {
    /// TaskLayer::new(registry).drain_when(|ending| !matches!(ending, Ending::HandlerPanicked))
    /// # }
    /// ```
    #[must_use]
    pub fn drain_when(self, condition: impl Fn(&Ending) -> bool + Send + Sync + 'static) -> Self {
        let config = Config { drain_when: Some(Arc::new(Box::new(condition))), ..Config::clone(&self.config) };
        Self { config: Arc::new(config) }
    }

    /// How long a set waits for its client at most, and a few milliseconds more where many responses leave at the
    /// same time. Default: 5 s.
    ///
    /// After the body's end, it waits for the server to release the last bytes. They are held up by a client that has
    /// stopped reading, and by a test that keeps the collected body. Before the body's end, it waits for the server to
    /// ask for more: if it does not, the set drains as [`Stalled`](Ending::Stalled). A body that waits for its own next
    /// frame is not stalled.
    ///
    /// With zero, a set waits only for the body's end, so tasks may start before it is written. A body for which the
    /// server does not ask is then waited for as by default.
    #[must_use]
    pub fn drain_within(self, limit: Duration) -> Self {
        let config = Config { drain_within: limit, ..Config::clone(&self.config) };
        Self { config: Arc::new(config) }
    }

    /// Answers 503 (Service Unavailable) with `Retry-After`, before the handler runs, while the registry is at its
    /// [`capacity`](crate::TaskRegistryBuilder::capacity).
    ///
    /// Routes that leave no tasks behind, health checks above all, belong outside of such a layer: in axum, merge
    /// them after `.layer(..)`.
    ///
    /// ```
    /// use axum::{Router, routing::{get, post}};
    /// use postlude::{TaskLayer, TaskRegistry};
    ///
    /// # async fn submit() {}
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// let registry = TaskRegistry::builder().capacity(1_000).build()?;
    /// let app: Router = Router::new()
    ///     .route("/submit", post(submit))
    ///     .layer(TaskLayer::new(registry).shed_at_capacity())
    ///     .merge(Router::new().route("/health", get(|| async { "fine" })));
    /// # drop(app);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// `Retry-After` is 1, 2, 3, 4 and 5 s in turn: a slot is free as soon as any task ends, and clients that
    /// were turned away together should not come back together. The answer has no body.
    /// [`TaskMetrics::shed`](crate::TaskMetrics::shed) counts the requests, and a line in the log says so at the
    /// first and whenever their number has doubled.
    ///
    /// It reserves no capacity for a request that it lets in: if handlers add more tasks than there is room for by
    /// then, after a long upload for instance, the rest are discarded.
    /// [`TaskSet::try_add`](crate::TaskSet::try_add) hands them back to the handler, which can answer 503 as well. Of
    /// several layers around a handler, each that sheds looks at the registry of the request's set.
    #[must_use]
    pub fn shed_at_capacity(self) -> Self {
        if !self.config.registry.shared.ledger.has_capacity() {
            tracing::warn!(
                target: "postlude",
                "`shed_at_capacity` turns nobody away: set `capacity` on the registry's builder"
            );
        }
        let config = Config { sheds: true, ..Config::clone(&self.config) };
        Self { config: Arc::new(config) }
    }
}

impl<S> Layer<S> for TaskLayer {
    type Service = TaskService<S>;

    fn layer(&self, inner: S) -> TaskService<S> {
        TaskService::new(inner, Arc::clone(&self.config))
    }
}

impl fmt::Debug for TaskLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskLayer")
            .field("registry", &self.config.registry)
            .field("has_condition", &self.config.drain_when.is_some())
            .field("drain_within", &self.config.drain_within)
            .field("sheds", &self.config.sheds)
            .finish_non_exhaustive()
    }
}
