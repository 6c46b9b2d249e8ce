//! Random delays.

use std::time::Duration;

/// A share of a duration, without the panic of `mul_f64` at the upper end.
pub(super) fn scaled(duration: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * share.clamp(0.0, 1.0)).unwrap_or(Duration::MAX)
}
