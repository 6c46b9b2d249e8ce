//! How often a task is repeated.

use std::time::Duration;

use super::jitter::scaled;

/// How often a task is repeated: see [`TaskRegistry::spawn_every`](crate::TaskRegistry::spawn_every).
///
/// A `Duration` converts into a policy with that period.
///
/// ```
/// use std::time::Duration;
/// use postlude::RepeatPolicy;
///
/// // Every hour, first after five minutes, and up to a minute late each time.
/// let policy = RepeatPolicy::every(Duration::from_secs(3600))
///     .first_after(Duration::from_secs(300))
///     .jitter(Duration::from_secs(60));
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a policy does nothing until it is given to `spawn_every`"]
pub struct RepeatPolicy {
    period: Duration,
    first_after: Duration,
    jitter: Duration,
}

/// The shortest period, because tokio's timer counts in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

impl RepeatPolicy {
    /// Repeats with `period` between the starts of two runs. The first run starts at once, unless
    /// [`first_after`](Self::first_after) is set.
    ///
    /// A period shorter than a millisecond counts as one millisecond.
    pub fn every(period: Duration) -> Self {
        Self { period: period.max(SHORTEST), first_after: Duration::ZERO, jitter: Duration::ZERO }
    }

    /// The time to wait before the first run.
    pub fn first_after(mut self, delay: Duration) -> Self {
        self.first_after = delay;
        self
    }

    /// Delays the start of each run by a random time up to `jitter`, so that many processes do not start at the same
    /// moment. The delays do not add up: they do not shift the schedule.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// When the next run is due after one that ended at `now`: at the next beat that has not passed. `last` is the beat
    /// of the run that ended, or `None` before the first. All times count from the call of `spawn_every`.
    pub(crate) fn next_beat(&self, last: Option<Duration>, now: Duration) -> Duration {
        let Some(last) = last else { return self.first_after };
        let next = last.saturating_add(self.period);
        if next >= now {
            return next;
        }
        let missed = (now - next).as_nanos().div_ceil(self.period.as_nanos());
        let skipped = missed.saturating_mul(self.period.as_nanos());
        u64::try_from(skipped).map_or(Duration::MAX, |nanos| next.saturating_add(Duration::from_nanos(nanos)))
    }

    /// The jitter of one run; `random` is uniform between 0 and 1.
    pub(crate) fn random_jitter(&self, random: f64) -> Duration {
        scaled(self.jitter, random)
    }
}

impl From<Duration> for RepeatPolicy {
    fn from(period: Duration) -> Self {
        Self::every(period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn missed_beats_are_skipped_and_the_schedule_is_kept() {
        let policy = RepeatPolicy::every(10 * SECOND).first_after(3 * SECOND);
        for (last, now, next) in [
            (None, 0, 3),
            (None, 99, 3),
            (Some(3), 3, 13),
            (Some(3), 12, 13),
            (Some(3), 13, 13),
            (Some(3), 14, 23),
            (Some(3), 23, 23),
            (Some(3), 1_000_004, 1_000_013),
        ] {
            let next_beat = policy.next_beat(last.map(|last| last * SECOND), now * SECOND);
            assert_eq!(next_beat, next * SECOND, "after {last:?}, at {now}");
        }
    }

    #[test]
    fn odd_periods_neither_panic_nor_spin() {
        let zero = RepeatPolicy::every(Duration::ZERO);
        assert_eq!(zero.next_beat(Some(Duration::ZERO), Duration::ZERO), Duration::from_millis(1));
        let huge = RepeatPolicy::every(Duration::MAX);
        assert_eq!(huge.next_beat(Some(SECOND), 2 * SECOND), Duration::MAX);
        assert_eq!(zero.next_beat(Some(Duration::ZERO), Duration::MAX), Duration::MAX);
        assert_eq!(huge.jitter(Duration::MAX).random_jitter(2.0), Duration::MAX);
    }
}
