//! The words: ids, outcomes, reports, policies, errors. Plain data.

#[cfg(feature = "http")]
mod ending;
mod error;
mod event;
mod id;
mod name;
mod outcome;
mod policy;
mod report;

#[cfg(feature = "http")]
pub use self::ending::Ending;
#[cfg(feature = "rate-limit")]
pub use self::policy::RateLimit;
pub use self::{
    error::{BuildError, RejectReason, ReplayError},
    event::TaskEvent,
    id::{SetId, TaskId},
    outcome::{BoxError, DiscardReason, Outcome},
    policy::{BatchPolicy, Priority, RepeatPolicy, RetryPolicy},
    report::{Attempt, DeadLetter, DrainReport, ShutdownReport, TaskInfo, TaskReport, TaskState, TaskStatus},
};
pub(crate) use self::{
    id::Identity,
    name::{UNNAMED, name_or_unnamed},
    outcome::Chain,
};

/// Without HTTP, no request ends.
#[cfg(not(feature = "http"))]
#[derive(Clone, Copy)]
pub(crate) enum Ending {}
