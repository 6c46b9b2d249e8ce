//! What a task may be told about how it is run: plain data. `run.rs`, `attempts.rs`, `batcher.rs`, `admission.rs` and `rate` interpret it.

mod batch;
mod priority;
#[cfg(feature = "rate-limit")]
mod rate_limit;
mod repeat;
mod retry;

use std::time::Duration;

#[cfg(feature = "rate-limit")]
pub use self::rate_limit::RateLimit;
pub use self::{batch::BatchPolicy, priority::Priority, repeat::RepeatPolicy, retry::RetryPolicy};

/// A share of a duration, without the panic of `mul_f64` at the upper end.
fn scaled(duration: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * share.clamp(0.0, 1.0)).unwrap_or(Duration::MAX)
}
