//! Why something was not done, and what to do about it.

use super::{id::TaskId, name::TaskName, outcome::DiscardReason};

/// Why a task, or an item, was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// As many tasks are live as the registry's capacity allows.
    #[error("the registry is at its capacity; try again when tasks have ended, or raise `capacity` on its builder")]
    Capacity,
    /// As many items wait or are being handled as a batcher's capacity allows.
    #[error("the batcher is at its capacity; wait with `push`, try again later, or raise `capacity` in its policy")]
    BatcherFull,
    /// The registry was shut down.
    #[error(
        "the registry is shut down; add the task to another registry, or keep its data for the next start of the service"
    )]
    Closed,
    /// The tokio runtime on which the registry runs its tasks has ended.
    #[error(
        "the registry's tokio runtime has ended; build a registry in the runtime that is to run the task, or give the \
         registry a runtime that lives as long as the process"
    )]
    RuntimeEnded,
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
            Self::Capacity | Self::BatcherFull => DiscardReason::Capacity,
            Self::Ending => DiscardReason::Ending,
            Self::PreviousFailed => DiscardReason::PreviousFailed,
            Self::Refused => DiscardReason::Refused,
            Self::Closed | Self::NoSet => DiscardReason::Closed,
            Self::RuntimeEnded => DiscardReason::RuntimeEnded,
        }
    }
}

/// Why a registry could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no runtime to run tasks on.
    #[error(
        "no tokio runtime here: build the registry inside one, or pass its handle with `TaskRegistry::builder().handle(..)`"
    )]
    NoRuntime,
    /// The runtime can't wait for a time.
    #[error("the tokio runtime has no timer: build it with `enable_time()` or `enable_all()`")]
    NoTimer,
    /// A limit of zero would let nothing run.
    #[error("`{name}` is zero, which would let no task run: leave it out for no limit, or set it to 1 or more")]
    #[non_exhaustive]
    ZeroLimit {
        /// The setting.
        name: &'static str,
    },
    /// A limit that cannot be counted to.
    #[error("`{name}` is {limit}, more than can be counted to : leave it out for no limit")]
    #[non_exhaustive]
    HugeLimit {
        /// The setting.
        name: &'static str,
        /// What it was set to.
        limit: usize,
    },
    /// A limit of zero for the tasks of a name.
    #[error("the `{setting}` of `{name}` is zero, which would let none of its tasks run: leave it out for no limit")]
    #[non_exhaustive]
    ZeroLimitOfName {
        /// The setting.
        setting: &'static str,
        /// The tasks' name.
        name: TaskName,
    },
    /// Two limits of one sort for the tasks of a name.
    #[error("`{setting}` was called twice for `{name}`: keep the call that is meant")]
    #[non_exhaustive]
    TwoLimitsOfName {
        /// The setting.
        setting: &'static str,
        /// The tasks' name.
        name: TaskName,
    },
    /// A timeout of zero would let no task finish.
    #[error("`default_timeout` is zero, which would let no task finish: leave it out for no limit")]
    ZeroTimeout,
}

/// Why a dead letter was not replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// There is no letter of this task.
    #[error("there is no dead letter of task {id}: it was replayed, discarded, or displaced by newer ones")]
    #[non_exhaustive]
    Unknown {
        /// The task.
        id: TaskId,
    },
    /// Another call is replaying it.
    #[error("task {id} is being replayed by another call")]
    #[non_exhaustive]
    InProgress {
        /// The task.
        id: TaskId,
    },
    /// The task was made from one future or closure, which is gone.
    #[error("task {id} can't be made again: make it with `Task::retrying`, if only with one attempt")]
    #[non_exhaustive]
    NotReplayable {
        /// The task.
        id: TaskId,
    },
    /// The registry does not accept it.
    #[error("task {id} was not accepted again, and stays a dead letter: {reason}")]
    #[non_exhaustive]
    Rejected {
        /// The task.
        id: TaskId,
        /// Why.
        reason: RejectReason,
    },
}
