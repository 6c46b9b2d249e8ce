//! Sets of tasks.

use std::{fmt, future::Future, sync::Arc};

use crate::{
    engine::{
        context::{self, TaskContext},
        requests::RequestGuard,
        set_queue::SetQueue,
    },
    model::{DiscardReason, Outcome, TaskId},
    registry::{TaskRegistry, handle::DrainHandle},
    task::{IntoTask, Rejected, Task, TaskOutput},
};

/// The tasks of one request: added while the request is handled, and run in order after the response has left.
///
/// With a [`TaskLayer`], a handler gets the set of its request as an axum extractor, from the request's extensions, or
/// from [`TaskSet::current`]. Anywhere else, [`TaskRegistry::set`] creates a set.
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
/// First in, first out, one at a time. The only exception is work that can't be stopped: a blocking closure that has
/// timed out or was aborted may still be running when the next task starts. A task that fails, panics or times out does
/// not stop the next one, unless the set [stops on failure](Self::stop_on_failure). Tasks can be added at any time. A
/// task that is added while the set drains, for example by one of its tasks, runs after the tasks before it. A set that
/// has drained drains again when a task is added.
///
/// # When it drains
/// The set of a request drains when the response has left. Other sets drain when [`drain`](Self::drain) is called or
/// the last handle is dropped. Each `TaskSet` is a handle, and so is each clone. A pending task that holds a clone of
/// its own set prevents the set from draining this way; a shutdown ends it.
///
#[cfg_attr(feature = "http", doc = "[`TaskLayer`]: crate::TaskLayer")]
#[cfg_attr(not(feature = "http"), doc = "[`TaskLayer`]: crate#features")]
#[doc(alias = "background")]
#[doc(alias = "BackgroundTasks")]
#[doc(alias = "queue")]
#[doc(alias = "waitUntil")]
pub struct TaskSet {
    queue: Arc<SetQueue>,
}

impl TaskSet {
    /// Adds a task to the end of the set. This never fails and never blocks.
    ///
    /// If the task can't be accepted, for one of the reasons listed at [`try_add`](Self::try_add), the task ends at
    /// once as [`Outcome::Discarded`](crate::Outcome::Discarded), which is logged, counted and reported to the failure
    /// hook. To keep such a task, use `try_add`.
    #[doc(alias = "fire and forget")]
    #[doc(alias = "waitUntil")]
    #[track_caller]
    pub fn add(&self, task: impl IntoTask) -> TaskId {
        self.queue.offer(task.into_task()).unwrap_or_else(|rejected| {
            self.queue.count_refused(&rejected.outcome());
            self.queue.shared().discard(rejected)
        })
    }

    /// Adds a task to the end of the set, or hands it back. This never blocks.
    ///
    /// # Errors
    /// Returns the task and the reason if the registry is shut down or at its capacity, if its
    /// [admission filter](crate::TaskRegistryBuilder::admit) refuses the task, if a condition refused the ending of the
    /// set's request, or if a task has failed in a set that stops on failure. A task that is handed back is not
    /// counted.
    #[track_caller]
    pub fn try_add(&self, task: impl IntoTask) -> Result<TaskId, Rejected> {
        self.queue.offer(task.into_task())
    }

    /// Adds a blocking closure: a shorthand for [`add`](Self::add) with [`Task::blocking`].
    #[track_caller]
    pub fn add_blocking<F, T>(&self, closure: F) -> TaskId
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        self.add(Task::blocking(closure))
    }

    /// The set of the request that is being handled, or of the task that is running.
    ///
    /// The set is known in the request's own tokio task: in the handler, its extractors, the layers and services inside
    /// the [`TaskLayer`], and the stream of the response's body. It is also known in async, blocking and CPU tasks of a
    /// set. It is not known in a tokio task that one of these has spawned: move a clone there.
    ///
    #[cfg_attr(feature = "http", doc = "[`TaskLayer`]: crate::TaskLayer")]
    #[cfg_attr(not(feature = "http"), doc = "[`TaskLayer`]: crate#features")]
    #[must_use]
    pub fn current() -> Option<Self> {
        context::current().0.queue().cloned().map(Self::of)
    }

    /// Starts to drain the set now, in the background.
    ///
    /// Await the handle for a report, or drop it. A task of the set must not await it, because it would wait for
    /// itself. Other handles of the set can still add tasks.
    #[expect(clippy::must_use_candidate, reason = "the handle is optional")]
    pub fn drain(self) -> DrainHandle {
        self.queue.drain(None);
        DrainHandle::new(Arc::clone(&self.queue))
    }

    /// Runs a future with this set as the [current](Self::current) one, and drains the set when the future has
    /// completed. For transports other than HTTP.
    ///
    /// The set also drains if the future is dropped or panics. The set does not know when an answer has left; it drains
    /// as soon as the future has completed.
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
        /// Drains the set at the end, and when the future is dropped or panics.
        struct DrainOnDrop(TaskSet);

        impl Drop for DrainOnDrop {
            fn drop(&mut self) {
                self.0.queue.drain(None);
            }
        }

        // Dropped after the drain was spawned.
        let _request = RequestGuard::new(self.queue.shared());
        let drain = DrainOnDrop(self);
        let mut current = drain.0.context();
        let mut response = std::pin::pin!(response);
        std::future::poll_fn(move |context| {
            context::enter(&mut current, TaskId::UNASSIGNED, || response.as_mut().poll(context))
        })
        .await
    }

    /// The number of tasks that have not started.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether every task that was added has started.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Discards every task that has not started, and returns their number. The tasks end as
    /// [`DiscardReason::Cleared`](crate::DiscardReason::Cleared).
    ///
    /// Tasks that are added meanwhile are not discarded. Some hundred tasks are discarded at a time, so that adds do
    /// not wait for all of them. If the set drains meanwhile, its next tasks may start in between.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn clear(&self) -> usize {
        self.queue.end_all(|task| !task.has_started(), &Outcome::Discarded(DiscardReason::Cleared))
    }

    /// Stops the set when a started task fails, panics, times out or is aborted. The tasks after it, and tasks that are
    /// added later, end as [`DiscardReason::PreviousFailed`](crate::DiscardReason::PreviousFailed).
    pub fn stop_on_failure(&self) {
        self.queue.stop_on_failure();
    }

    /// The registry that owns the tasks.
    #[must_use]
    pub fn registry(&self) -> &TaskRegistry {
        &self.queue.registry
    }

    /// A handle that the queue has already counted.
    pub(crate) const fn counted(queue: Arc<SetQueue>) -> Self {
        Self { queue }
    }

    /// Makes one more handle of a queue.
    pub(crate) fn of(queue: Arc<SetQueue>) -> Self {
        queue.handle_made();
        Self { queue }
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
