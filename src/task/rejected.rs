//! Every way in which a task can be refused, and how it is handed back.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;

use crate::{
    model::{BoxError, Outcome, RejectReason, SharedError, TaskName},
    task::Task,
};

/// A task that was not accepted, and why.
///
/// It holds the task: [`into_task`](Self::into_task) gives it back, to be added again, here or to another
/// registry. What the task has captured stays in it: to do the work in another way, keep a copy of the data.
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
    /// What the registry's rule said.
    #[source]
    refusal: Option<SharedError>,
    /// Locked by nobody: it makes the error `Sync`, as `?` wants it.
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

    /// What becomes of the task if it is not handed back.
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

    /// The task, as it was.
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

    /// For the reason for which the task of a new batch was not accepted.
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
