//! What a task may be told about how it is run: plain data. `run.rs` and `attempts.rs` interpret it.

mod repeat;
mod retry;

use std::time::Duration;

pub use self::{repeat::RepeatPolicy, retry::RetryPolicy};

/// A share of a duration, without the panic of `mul_f64` at the upper end.
fn scaled(duration: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * share.clamp(0.0, 1.0)).unwrap_or(Duration::MAX)
}
