//! Every way in which a task can be refused, and how it is handed back.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{BoxError, DiscardReason, Outcome, Task};

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
    name: &'static str,
    reason: RejectReason,
    /// What the registry's rule said.
    #[source]
    refusal: Option<Arc<BoxError>>,
    /// Locked by nobody: it makes the error `Sync`, as `?` wants it.
    task: Mutex<Task>,
}

impl Rejected {
    pub(crate) fn new(task: Task, reason: RejectReason) -> Self {
        Self { name: task.name(), reason, refusal: None, task: Mutex::new(task) }
    }

    pub(crate) fn refused(task: Task, refusal: BoxError) -> Self {
        Self { refusal: Some(Arc::new(refusal)), ..Self::new(task, RejectReason::Refused) }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// What becomes of the task if it is not handed back.
    pub(crate) const fn outcome(&self) -> Outcome {
        Outcome::Discarded(self.reason.discard_reason())
    }

    pub(crate) fn into_parts(self) -> (Task, Option<Arc<BoxError>>) {
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

/// Why a task was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// As many tasks are live as the registry's capacity allows.
    #[error("the registry is at its capacity; try again when tasks have ended, or raise `capacity` on its builder")]
    Capacity,
    /// The registry was shut down.
    #[error(
        "the registry is shut down; add the task to another registry, or keep its data for the next start of the service"
    )]
    Closed,
    /// A condition on the ending of the set's request said no.
    #[error(
        "a condition on the request's ending said no to the set; spawn the task on the registry if it is to run all the same"
    )]
    Ending,
    /// A task failed in a set that stops on failure.
    #[error(
        "a task before it failed and the set stops on failure; spawn the task on the registry if it is to run all the same"
    )]
    PreviousFailed,
    /// The registry's [rule](crate::TaskRegistryBuilder::admit) said no; the error that it gave is the source of this
    /// one.
    #[error("a rule of the registry (`admit` on its builder) refused it")]
    Refused,
    /// Called where no set is current.
    #[error(
        "no request is being handled here; put a `TaskLayer` around the handler, or move a clone of the `TaskSet` \
         into the tokio task or thread that adds"
    )]
    NoSet,
}

impl RejectReason {
    /// What becomes of a task that is not handed back.
    pub(crate) const fn discard_reason(self) -> DiscardReason {
        match self {
            Self::Capacity => DiscardReason::Capacity,
            Self::Ending => DiscardReason::Ending,
            Self::PreviousFailed => DiscardReason::PreviousFailed,
            Self::Refused => DiscardReason::Refused,
            Self::Closed | Self::NoSet => DiscardReason::Closed,
        }
    }
}
