//! Policies: plain data on how tasks are run, which the engine interprets.

mod batch;
#[cfg(feature = "serde")]
mod deserialize;
mod jitter;
mod of_name;
mod priority;
#[cfg(feature = "rate-limit")]
mod rate_limit;
mod repeat;
mod retry;
#[cfg(feature = "cron")]
mod schedule;
#[cfg(feature = "signal")]
mod serve;
mod unique;

/// The highest number in a limit: the maximum of tokio's semaphores.
pub(crate) const MAX_LIMIT: usize = usize::MAX >> 3;

#[cfg(feature = "rate-limit")]
pub use self::rate_limit::RateLimit;
#[cfg(feature = "cron")]
pub(crate) use self::schedule::ScheduleStep;
#[cfg(feature = "cron")]
pub use self::schedule::{Schedule, ScheduleError};
#[cfg(feature = "signal")]
pub use self::serve::ServePolicy;
pub(crate) use self::unique::IfLive;
pub use self::{
    batch::BatchPolicy, of_name::NamePolicy, priority::Priority, repeat::RepeatPolicy, retry::RetryPolicy,
    unique::UniquePolicy,
};
