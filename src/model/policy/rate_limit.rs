//! How often tasks start.

use std::time::Duration;

/// How often tasks of a name may start, for
/// [`TaskRegistryBuilder::rate_limit`](crate::TaskRegistryBuilder::rate_limit).
///
/// # Default
/// - [`burst`](Self::burst): 1, or as many tasks as fall due within 10 ms
///
/// ```
/// use std::time::Duration;
/// use postlude::{RateLimit, Task, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), postlude::BuildError> {
/// let registry = TaskRegistry::builder().rate_limit("webhook", RateLimit::per_second(2)).build()?;
/// let start = tokio::time::Instant::now();
/// for _ in 0..5 {
///     registry.spawn(Task::new(async { /* call it */ }).named("webhook"));
/// }
/// registry.wait_idle().await;
/// assert_eq!(start.elapsed(), Duration::from_secs(2)); // one at once, then one every half a second
/// # Ok(())
/// # }
/// ```
///
/// The algorithm is the generic cell rate algorithm, in governor's version: a start takes one of `burst` places, of
/// which one becomes free again at each interval. So within any minute, `per_minute(100).burst(10)` starts up to 110
/// tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    tasks: u32,
    per: Duration,
    burst: Option<u32>,
}

/// Timers are no finer than a millisecond, and late by some. At a rate beyond that, what falls due meanwhile would be
/// lost without a burst.
const BURST_OF: Duration = Duration::from_millis(10);

impl RateLimit {
    /// This many tasks in each `period`.
    #[must_use]
    pub const fn new(tasks: u32, period: Duration) -> Self {
        Self { tasks, per: period, burst: None }
    }

    /// This many tasks a second.
    #[must_use]
    pub const fn per_second(tasks: u32) -> Self {
        Self::new(tasks, Duration::from_secs(1))
    }

    /// This many tasks a minute.
    #[must_use]
    pub const fn per_minute(tasks: u32) -> Self {
        Self::new(tasks, Duration::from_secs(60))
    }

    /// This many tasks an hour.
    #[must_use]
    pub const fn per_hour(tasks: u32) -> Self {
        Self::new(tasks, Duration::from_secs(60 * 60))
    }

    /// How many tasks may start at once when none has for a while.
    #[must_use]
    pub const fn burst(self, tasks: u32) -> Self {
        Self { burst: Some(tasks), ..self }
    }

    /// Whether it would let nothing start.
    pub(crate) fn is_zero(self) -> bool {
        self.tasks == 0 || self.per.is_zero() || self.burst == Some(0)
    }

    /// From one start to the next, when there is no place for a burst.
    pub(crate) fn interval(self) -> Duration {
        (self.per / self.tasks.max(1)).max(Duration::from_nanos(1))
    }

    /// How many may start at once; within what can be counted in nanoseconds.
    pub(crate) fn places(self) -> u32 {
        let interval = self.interval().as_nanos();
        let most = u128::from(u64::MAX) / 8 / interval;
        let wanted = self.burst.map_or_else(|| BURST_OF.as_nanos() / interval, u128::from);
        u32::try_from(wanted.clamp(1, most.max(1))).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_an_interval_and_a_number_of_places() {
        let table = [
            (RateLimit::per_second(2), Duration::from_millis(500), 1),
            (RateLimit::per_minute(100).burst(10), Duration::from_millis(600), 10),
            (RateLimit::per_hour(1), Duration::from_secs(3600), 1),
            (RateLimit::per_second(1000), Duration::from_millis(1), 10),
            (RateLimit::per_second(1000).burst(1), Duration::from_millis(1), 1),
            (RateLimit::per_second(u32::MAX), Duration::from_nanos(1), 10_000_000),
            // 73 years of it: more than anybody has seen a process live.
            (RateLimit::per_hour(1).burst(u32::MAX), Duration::from_secs(3600), 640_511),
        ];
        for (limit, interval, places) in table {
            assert_eq!((limit.interval(), limit.places()), (interval, places), "{limit:?}");
            assert!(!limit.is_zero());
        }
        for zero in [RateLimit::per_second(0), RateLimit::per_minute(5).burst(0)] {
            assert!(zero.is_zero());
        }
    }
}
