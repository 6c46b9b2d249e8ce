//! Errors: rejected tasks, registries that can't be built, dead letters that can't be replayed.

use super::{id::TaskId, name::TaskName, outcome::DiscardReason};

/// Why a task, or an item, was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// The registry is at its capacity.
    #[error("the registry is at its capacity; try again when tasks have ended, or raise `capacity` on its builder")]
    Capacity,
    /// The batcher is at its capacity.
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
    /// A condition on the ending of the set's request returned `false`.
    #[error("a condition on the request's ending refused the set; to run the task anyway, spawn it on the registry")]
    Ending,
    /// An earlier task failed, in a set that stops on failure.
    #[error("an earlier task failed and the set stops on failure; to run the task anyway, spawn it on the registry")]
    PreviousFailed,
    /// The registry's [admission filter](crate::TaskRegistryBuilder::admit) refused the task. The filter's error is the
    /// source of the [`Rejected`](crate::Rejected) error.
    #[error("the registry's admission filter (`admit` on its builder) refused it")]
    Refused,
    /// Another live task has the same key, and the task's policy is to [skip](crate::UniquePolicy::skip).
    #[error("another live task of its name has the same key; add the task again when that one has ended")]
    Duplicate,
    /// No set is current at the place of the call.
    #[error(
        "no request is being handled here; put a `TaskLayer` around the handler, or move a clone of the `TaskSet` \
         into the tokio task or thread that adds the task"
    )]
    NoSet,
}

impl RejectReason {
    /// The discard reason of a task that is not handed back.
    pub(crate) const fn discard_reason(self) -> DiscardReason {
        match self {
            Self::Capacity | Self::BatcherFull => DiscardReason::Capacity,
            Self::Ending => DiscardReason::Ending,
            Self::PreviousFailed => DiscardReason::PreviousFailed,
            Self::Refused => DiscardReason::Refused,
            Self::Duplicate => DiscardReason::Duplicate,
            Self::Closed | Self::NoSet => DiscardReason::Closed,
            Self::RuntimeEnded => DiscardReason::RuntimeEnded,
        }
    }
}

/// Why a registry could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no tokio runtime to run tasks on.
    #[error(
        "no tokio runtime here: build the registry inside one, or pass its handle with `TaskRegistry::builder().handle(..)`"
    )]
    NoRuntime,
    /// The tokio runtime has no timer.
    #[error("the tokio runtime has no timer: build it with `enable_time()` or `enable_all()`")]
    NoTimer,
    /// A limit is zero, which would let no task run.
    #[error("`{name}` is zero, which would let no task run: leave it out for no limit, or set it to 1 or more")]
    #[non_exhaustive]
    ZeroLimit {
        /// The setting.
        name: &'static str,
    },
    /// A limit is above the highest possible one.
    #[error("`{name}` is {limit}, which is above the highest possible limit: leave it out for no limit")]
    #[non_exhaustive]
    HugeLimit {
        /// The setting.
        name: &'static str,
        /// The value of the setting.
        limit: usize,
    },
    /// A limit for the tasks of one name is zero.
    #[error("the `{setting}` of `{name}` is zero, which would let none of its tasks run: leave it out for no limit")]
    #[non_exhaustive]
    ZeroLimitOfName {
        /// The setting.
        setting: &'static str,
        /// The name of the tasks.
        name: TaskName,
    },
    /// The tasks of one name have two limits of the same kind.
    #[error("`{setting}` is set twice for `{name}`: keep one of both")]
    #[non_exhaustive]
    TwoLimitsOfName {
        /// The setting.
        setting: &'static str,
        /// The name of the tasks.
        name: TaskName,
    },
    /// A limit for the tasks of one name is above the highest possible one.
    #[error(
        "the `{setting}` of `{name}` is {limit}, which is above the highest possible limit: leave it out for no limit"
    )]
    #[non_exhaustive]
    HugeLimitOfName {
        /// The setting.
        setting: &'static str,
        /// The name of the tasks.
        name: TaskName,
        /// The value of the setting.
        limit: usize,
    },
    /// The burst of the rate of a name is too high.
    #[error("the burst of the `rate_limit` of `{name}` is {burst}, which is above the highest possible one")]
    #[non_exhaustive]
    HugeBurst {
        /// The name of the tasks.
        name: TaskName,
        /// The burst.
        burst: u32,
    },
    /// The time limit of the tasks of one name is zero, or the time within which they must start.
    #[error("the `{setting}` of `{name}` is zero, which would end each of its tasks: leave it out for no limit")]
    #[non_exhaustive]
    ZeroTimeOfName {
        /// The setting.
        setting: &'static str,
        /// The name of the tasks.
        name: TaskName,
    },
    /// The name of a limit or a policy could not be [interned](TaskName::intern), so that it stands for many.
    #[error(
        "`{setting}` is set for a name that `TaskName::intern` had no place for, as the log says: names have at most \
         128 bytes, and come from a closed set"
    )]
    #[non_exhaustive]
    OtherName {
        /// The setting.
        setting: &'static str,
    },
    /// The default timeout is zero, which would let no task finish.
    #[error("`default_timeout` is zero, which would let no task finish: leave it out for no limit")]
    ZeroTimeout,
    /// The time after which a poll is slow is zero, which would make every poll slow.
    #[error("the `slow_poll` of `profile` is zero, which would make every poll slow: leave it out for 100 ms")]
    ZeroSlowPoll,
    /// The operating system has not given the thread that looks for polls that do not return.
    #[error("no thread for the watchdog of `profile`: raise the limit of threads, or leave the profile out")]
    NoThread,
}

/// Why the limit of a name was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The name could not be [interned](TaskName::intern), so that it stands for many.
    #[error(
        "a limit can't be set for a name that `TaskName::intern` had no place for, as the log says: names have at most 128 \
         bytes, and come from a closed set"
    )]
    OtherName,
    /// A limit of zero would let no task run.
    #[error("a limit of zero would let no task of `{name}` run: to stop them for a while, use `pause`")]
    #[non_exhaustive]
    Zero {
        /// The name of the tasks.
        name: TaskName,
    },
}

/// Why a dead letter was not replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// There is no dead letter of this task.
    #[error("there is no dead letter of task {id}: it was replayed, discarded, or evicted by newer ones")]
    #[non_exhaustive]
    Unknown {
        /// The task.
        id: TaskId,
    },
    /// Another call is replaying it.
    #[error("task {id} is being replayed by another call")]
    #[non_exhaustive]
    InProgress {
        /// The task's id.
        id: TaskId,
    },
    /// The task was made from a single future or closure, which is consumed.
    #[error(
        "task {id} can't be made again: use `Task::retrying`, with a policy of one attempt if it should not be retried"
    )]
    #[non_exhaustive]
    NotReplayable {
        /// The task's id.
        id: TaskId,
    },
    /// The registry did not accept the task.
    #[error("task {id} was not accepted, and stays a dead letter: {reason}")]
    #[non_exhaustive]
    Rejected {
        /// The task's id.
        id: TaskId,
        /// Why the registry did not accept it.
        reason: RejectReason,
    },
}
