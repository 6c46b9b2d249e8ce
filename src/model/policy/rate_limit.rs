//! How often the tasks of a name may start.

use std::time::Duration;

/// Feature `rate-limit`.
/// How often tasks of a name may start, for
/// [`TaskRegistryBuilder::rate_limit`](crate::TaskRegistryBuilder::rate_limit).
///
/// # Default
/// - [`burst`](Self::burst): the number of tasks that the rate allows in 10 ms, and at least 1
///
/// ```
/// use std::time::Duration;
/// use postlude::{RateLimit, Task, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), postlude::BuildError> {
/// let limit = RateLimit::per_second(2);
/// let registry = TaskRegistry::builder().rate_limit("webhook", limit).build()?;
/// let start = tokio::time::Instant::now();
/// for _ in 0..5 {
///     registry.spawn(Task::new(async { /* call it */ }).named("webhook"));
/// }
/// registry.wait_idle().await;
/// assert_eq!(start.elapsed(), Duration::from_secs(2)); // one at once, then one every 500 ms
/// # Ok(())
/// # }
/// ```
///
/// The algorithm is the generic cell rate algorithm, as implemented by governor: each start takes one of `burst` cells,
/// and one cell is refilled at each interval. So within any minute, `per_minute(100).burst(10)` starts up to 110 tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    tasks: u32,
    per: Duration,
    burst: Option<u32>,
}

/// Timers have a resolution of a millisecond and fire late. At higher rates, starts that fall due in between would be
/// lost without a burst.
const BURST_OF: Duration = Duration::from_millis(10);

impl RateLimit {
    /// Up to `tasks` starts in each `period`.
    #[must_use]
    pub const fn new(tasks: u32, period: Duration) -> Self {
        Self { tasks, per: period, burst: None }
    }

    /// Up to `tasks` starts per second.
    #[must_use]
    pub const fn per_second(tasks: u32) -> Self {
        Self::new(tasks, Duration::from_secs(1))
    }

    /// Up to `tasks` starts per minute.
    #[must_use]
    pub const fn per_minute(tasks: u32) -> Self {
        Self::new(tasks, Duration::from_secs(60))
    }

    /// Up to `tasks` starts per hour.
    #[must_use]
    pub const fn per_hour(tasks: u32) -> Self {
        Self::new(tasks, Duration::from_secs(60 * 60))
    }

    /// How many tasks may start at once after a time without starts.
    #[must_use]
    pub const fn burst(self, tasks: u32) -> Self {
        Self { burst: Some(tasks), ..self }
    }

    /// Whether the limit would let no task start.
    pub(crate) fn is_zero(self) -> bool {
        self.tasks == 0 || self.per.is_zero() || self.burst == Some(0)
    }

    /// The time from one start to the next when the burst is used up.
    pub(crate) fn interval(self) -> Duration {
        (self.per / self.tasks.max(1)).max(Duration::from_nanos(1))
    }

    /// The highest burst, in which `burst * interval` fits in nanoseconds: 73 years of starts.
    pub(crate) fn max_burst(self) -> u32 {
        let starts = u128::from(u64::MAX) / 8 / self.interval().as_nanos();
        u32::try_from(starts.max(1)).unwrap_or(u32::MAX)
    }

    /// The burst, if it is too high.
    pub(crate) fn huge_burst(self) -> Option<u32> {
        self.burst.filter(|burst| *burst > self.max_burst())
    }

    /// How many tasks may start at once.
    pub(crate) fn cells(self) -> u32 {
        let default = || u32::try_from(BURST_OF.as_nanos() / self.interval().as_nanos()).unwrap_or(u32::MAX);
        self.burst.unwrap_or_else(default).clamp(1, self.max_burst())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_an_interval_and_a_number_of_cells() {
        let table = [
            (RateLimit::per_second(2), Duration::from_millis(500), 1),
            (RateLimit::per_minute(100).burst(10), Duration::from_millis(600), 10),
            (RateLimit::per_hour(1), Duration::from_secs(3600), 1),
            (RateLimit::per_second(1000), Duration::from_millis(1), 10),
            (RateLimit::per_second(1000).burst(1), Duration::from_millis(1), 1),
            (RateLimit::per_second(u32::MAX), Duration::from_nanos(1), 10_000_000),
        ];
        for (limit, interval, cells) in table {
            assert_eq!((limit.interval(), limit.cells()), (interval, cells), "{limit:?}");
            assert!(!limit.is_zero());
        }
        let most = RateLimit::per_hour(1).burst(640_511);
        assert_eq!((most.cells(), most.huge_burst()), (640_511, None));
        assert_eq!(most.burst(640_512).huge_burst(), Some(640_512));
        for zero in [RateLimit::per_second(0), RateLimit::per_minute(5).burst(0)] {
            assert!(zero.is_zero());
        }
    }
}
