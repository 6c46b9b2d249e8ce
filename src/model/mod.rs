//! The data model: ids, outcomes, reports, policies and errors. Plain data.

mod ages;
mod by_name;
mod discards;
#[cfg(feature = "http")]
mod ending;
mod error;
mod event;
mod id;
mod key;
mod name;
mod name_limit;
#[cfg(not(feature = "http"))]
mod no_ending;
mod outcome;
mod page;
mod policy;
mod profile;
mod report;

#[cfg(feature = "http")]
pub use self::ending::Ending;
#[cfg(not(feature = "http"))]
pub(crate) use self::no_ending::Ending;
pub(crate) use self::policy::MAX_LIMIT;
#[cfg(feature = "rate-limit")]
pub use self::policy::RateLimit;
#[cfg(feature = "cron")]
pub(crate) use self::policy::ScheduleStep;
#[cfg(feature = "signal")]
pub use self::policy::ServePolicy;
#[cfg(feature = "cron")]
pub use self::policy::{Schedule, ScheduleError};
pub use self::{
    ages::TaskAges,
    discards::DiscardCounts,
    error::{BuildError, LimitError, RejectReason, ReplayError},
    event::TaskEvent,
    id::{ParseIdError, SetId, TaskId},
    key::TaskKey,
    name::TaskName,
    name_limit::NameLimit,
    outcome::{BoxError, DiscardReason, DrainReport, Outcome, OutcomeCounts, OutcomeKind},
    page::Page,
    policy::{BatchPolicy, NamePolicy, Priority, RepeatPolicy, RetryPolicy, UniquePolicy},
    profile::{NameProfile, Profile, TaskProfile},
    report::{Attempt, DeadLetter, ShutdownReport, TaskInfo, TaskProgress, TaskReport, TaskState, TaskStatus},
};
pub(crate) use self::{
    by_name::ByName,
    id::{Identity, SEATS, next_number},
    key::KeyOfName,
    outcome::{Cause, SharedError},
    policy::IfLive,
    profile::AllocationProbe,
};
