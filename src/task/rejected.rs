//! Errors that hand back a task or an item that was not accepted.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;

use crate::{
    model::{BoxError, Outcome, RejectReason, SharedError, TaskName},
    task::Task,
};

/// A task that was not accepted, and why.
///
/// It holds the task: [`into_task`](Self::into_task) returns it, so that it can be added again, to this or another
/// registry. The data that the task has captured can't be taken out: to do the work in another way, keep a copy.
///
/// ```
/// use std::time::Duration;
/// use postlude::{RejectReason, Task, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// registry.shutdown(Duration::ZERO).await;
///
/// let rejected = registry.try_spawn(Task::new(async {}).named("mail")).unwrap_err();
/// assert_eq!(rejected.reason(), RejectReason::Closed);
/// assert_eq!(rejected.into_task().name(), "mail");
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[error("task `{name}` was not accepted: {reason}")]
pub struct Rejected {
    name: TaskName,
    reason: RejectReason,
    /// The error of the registry's admission filter.
    #[source]
    refusal: Option<SharedError>,
    /// Never locked: the mutex makes the error `Sync`, which `BoxError` requires.
    task: Mutex<Task>,
}

impl Rejected {
    pub(crate) fn new(task: Task, reason: RejectReason) -> Self {
        Self { name: task.name(), reason, refusal: None, task: Mutex::new(task) }
    }

    pub(crate) fn refused(task: Task, refusal: BoxError) -> Self {
        Self { refusal: Some(Arc::from(refusal)), ..Self::new(task, RejectReason::Refused) }
    }

    /// The name of the task.
    #[must_use]
    pub const fn name(&self) -> TaskName {
        self.name
    }

    /// The outcome of the task if it is not handed back.
    pub(crate) const fn outcome(&self) -> Outcome {
        Outcome::Discarded(self.reason.discard_reason())
    }

    pub(crate) fn into_parts(self) -> (Task, Option<SharedError>) {
        (self.task.into_inner(), self.refusal)
    }

    /// Why it was not accepted.
    #[must_use]
    pub const fn reason(&self) -> RejectReason {
        self.reason
    }

    /// The task, unchanged.
    pub fn into_task(self) -> Task {
        self.task.into_inner()
    }
}

/// An item that a [`Batcher`](crate::Batcher) did not accept, and why. It holds the item.
#[derive(thiserror::Error)]
#[error("an item was not accepted by the batcher `{name}`: {reason}")]
pub struct RejectedItem<T> {
    name: TaskName,
    reason: RejectReason,
    #[source]
    refusal: Option<SharedError>,
    item: Mutex<T>,
}

impl<T> RejectedItem<T> {
    pub(crate) const fn new(name: TaskName, reason: RejectReason, item: T) -> Self {
        Self { name, reason, refusal: None, item: Mutex::new(item) }
    }

    /// The item of a new batch whose task was not accepted.
    pub(crate) fn with_task(rejected: Rejected, item: T) -> Self {
        let (name, reason) = (rejected.name, rejected.reason);
        Self { refusal: rejected.refusal, ..Self::new(name, reason, item) }
    }

    /// Why it was not accepted.
    #[must_use]
    pub const fn reason(&self) -> RejectReason {
        self.reason
    }

    /// The item.
    pub fn into_item(self) -> T {
        self.item.into_inner()
    }
}

impl<T> fmt::Debug for RejectedItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectedItem").field("name", &self.name).field("reason", &self.reason).finish_non_exhaustive()
    }
}
