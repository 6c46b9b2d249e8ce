//! The set of tasks that a request, or any other scope, collects.

use std::{fmt, future::Future, sync::Arc};

use crate::{
    engine::{
        context::{self, TaskContext},
        queue::SetQueue,
        requests::RequestGuard,
    },
    model::TaskId,
    registry::{TaskRegistry, handle::DrainHandle},
    task::{IntoTask, Rejected, Task, TaskOutput},
};

/// The tasks that one request leaves behind: added while it is handled, run in order when its response has
/// left.
///
/// With a [`TaskLayer`](crate::TaskLayer), a handler gets its request's set as an axum extractor, from the
/// request's extensions, or from [`TaskSet::current`]. Anywhere else, [`TaskRegistry::set`] makes one.
///
/// ```
/// use postlude::{Task, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let tasks = registry.set();
/// tasks.add(async { /* send a mail */ });
/// tasks.add(Task::blocking(|| { /* write a file */ }).named("audit_log"));
/// assert_eq!(tasks.len(), 2);
///
/// let report = tasks.drain().await;
/// assert_eq!(report.completed, 2);
/// # }
/// ```
///
/// # Order
/// First in, first out, one at a time. (Work that can't be stopped is the exception: a blocking closure that has
/// timed out or was aborted may still be running when the next task starts.) A task that fails, panics or times out does not stop the next one,
/// unless the set [stops on failure](Self::stop_on_failure). Tasks may be added at any time: by a task of the
/// set while it drains, they run after those before them; after it has drained, it drains again.
///
/// # When it drains
/// When the response has left, for the set of a request; when [`drain`](Self::drain) says so; or when the
/// last handle is dropped. A `TaskSet` is such a handle, and so is each clone: a task that holds a clone of
/// the set it waits in keeps that last moment from coming. The registry knows of such a set all the same,
/// and a shutdown ends it.
pub struct TaskSet {
    queue: Arc<SetQueue>,
}

impl TaskSet {
    /// A handle that the queue has counted already.
    pub(crate) const fn counted(queue: Arc<SetQueue>) -> Self {
        Self { queue }
    }

    /// One more handle of a queue.
    pub(crate) fn of(queue: Arc<SetQueue>) -> Self {
        queue.handle_made();
        Self { queue }
    }

    /// Adds a task to the end of the set. Never fails, never blocks.
    ///
    /// What cannot be accepted, because the registry is shut down or full or its rule says no, or the set's request ended in a
    /// way that a condition refuses, ends at once as [`Outcome::Discarded`](crate::Outcome::Discarded): it is
    /// logged, counted and reported to the failure hook like any other outcome. To keep such a task, use
    /// [`try_add`](Self::try_add).
    #[track_caller]
    pub fn add(&self, task: impl IntoTask) -> TaskId {
        self.queue.offer(task.into_task()).unwrap_or_else(|rejected| {
            self.queue.count_refused(&rejected.outcome());
            self.queue.shared().discard(rejected)
        })
    }

    /// Adds a task to the end of the set, or hands it back. Never blocks.
    ///
    /// # Errors
    /// Gives the task back, with the reason, if the registry is shut down or at its capacity, if its
    /// [rule](crate::TaskRegistryBuilder::admit) says no, if a condition
    /// refused the set's request, or if a task failed in a set that stops on failure. Nothing is counted
    /// then.
    #[track_caller]
    pub fn try_add(&self, task: impl IntoTask) -> Result<TaskId, Rejected> {
        self.queue.offer(task.into_task())
    }

    /// Adds a blocking closure: short for [`add`](Self::add) with [`Task::blocking`].
    #[track_caller]
    pub fn add_blocking<F, T>(&self, closure: F) -> TaskId
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        self.add(Task::blocking(closure))
    }

    /// Makes a task that has started and does not get done (it fails, panics, times out or is aborted) stop those
    /// after it:
    /// they end as [`DiscardReason::PreviousFailed`](crate::DiscardReason::PreviousFailed), and so does whatever is added later.
    pub fn stop_on_failure(&self) {
        self.queue.stop_on_failure();
    }

    /// Takes back every task that has not started, and returns how many there were. They end as
    /// [`DiscardReason::Cleared`](crate::DiscardReason::Cleared).
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn clear(&self) -> usize {
        if self.queue.has_number() { self.queue.transition(|step| step.clear()) } else { 0 }
    }

    /// How many tasks have not started.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether every task that was added has started.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The registry that owns the tasks.
    #[must_use]
    pub fn registry(&self) -> &TaskRegistry {
        &self.queue.registry
    }

    /// Starts to drain the set now, in the background.
    ///
    /// The handle may be awaited for a report or dropped. (A task of the set that awaits it waits for itself.) Other handles of the set may go on adding.
    #[expect(clippy::must_use_candidate, reason = "the handle is optional")]
    pub fn drain(self) -> DrainHandle {
        self.queue.drain(None);
        DrainHandle { drained: self.queue.wait_drained(), queue: Arc::clone(&self.queue) }
    }

    /// Handles something with this set as the [current](Self::current) one, and drains it when that has
    /// completed: for transports that are not HTTP.
    ///
    /// If the future is dropped before it completes, or panics, the set drains too. It cannot know when an
    /// answer has left; it starts when there is one.
    ///
    /// ```
    /// use postlude::{TaskRegistry, after};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let registry = TaskRegistry::new();
    /// // for each message of a queue
    /// let tasks = registry.set();
    /// let answer = tasks.run_after(async {
    ///     after(async { /* tidy up */ }).unwrap();
    ///     "acknowledged"
    /// });
    /// assert_eq!(answer.await, "acknowledged");
    /// # }
    /// ```
    pub async fn run_after<F: Future>(self, response: F) -> F::Output {
        /// Drains the set at the end, and when the future is dropped or unwinds.
        struct DrainOnDrop(TaskSet);

        impl Drop for DrainOnDrop {
            fn drop(&mut self) {
                self.0.queue.drain(None);
            }
        }

        // Dropped after the set was launched.
        let _request = RequestGuard::new(self.queue.shared());
        let drain = DrainOnDrop(self);
        let mut current = drain.0.context();
        let mut response = std::pin::pin!(response);
        std::future::poll_fn(move |context| {
            context::enter(&mut current, TaskId::UNASSIGNED, || response.as_mut().poll(context))
        })
        .await
    }

    /// The set of the request that is being handled, or of the task that is running.
    ///
    /// It is known in the request's own tokio task: in the handler, its extractors, the layers and services
    /// inside the [`TaskLayer`](crate::TaskLayer), the stream of a response's body; and in tasks of a set,
    /// async or blocking. A tokio task that one of these has spawned knows of none: move a clone there.
    #[must_use]
    pub fn current() -> Option<Self> {
        context::current().0.queue().cloned().map(Self::of)
    }

    pub(crate) fn context(&self) -> TaskContext {
        TaskContext::Request(Arc::clone(&self.queue))
    }

    #[cfg(feature = "http")]
    pub(crate) const fn queue(&self) -> &Arc<SetQueue> {
        &self.queue
    }
}

impl Clone for TaskSet {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.queue))
    }
}

impl Drop for TaskSet {
    fn drop(&mut self) {
        self.queue.handle_dropped();
    }
}

impl fmt::Debug for TaskSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSet").field("len", &self.len()).finish_non_exhaustive()
    }
}
