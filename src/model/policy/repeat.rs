//! How often a task is repeated.

use std::time::Duration;

use super::jitter::scaled;

/// How often something is repeated: see [`TaskRegistry::spawn_every`](crate::TaskRegistry::spawn_every).
///
/// A bare `Duration` is a policy too: that period, and nothing else.
///
/// ```
/// use std::time::Duration;
/// use postlude::RepeatPolicy;
///
/// // Each hour, the first time in five minutes, and each time up to a minute late.
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

/// The shortest period: the timer counts in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

impl RepeatPolicy {
    /// The time from one run's start to the next one's. The first run starts at once, unless told otherwise.
    ///
    /// A period under a millisecond counts as one.
    pub fn every(period: Duration) -> Self {
        Self { period: period.max(SHORTEST), first_after: Duration::ZERO, jitter: Duration::ZERO }
    }

    /// How long to wait before the first run.
    pub fn first_after(mut self, delay: Duration) -> Self {
        self.first_after = delay;
        self
    }

    /// Starts each run later by up to this much, drawn evenly anew each time, so that many processes do not all start at the
    /// same moment. The beat itself stays where it is.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// When the run after one that ended `now` is due, counted like `now` from the moment of `spawn_every`: at the next beat
    /// that is not past. `last` is the beat of the run that ended; `None` before the first.
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

    /// How much later than its beat a run starts; `random` is drawn evenly from 0 to 1.
    pub(crate) fn lateness(&self, random: f64) -> Duration {
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
    fn missed_beats_are_skipped_and_the_beat_is_kept() {
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
        assert_eq!(huge.jitter(Duration::MAX).lateness(2.0), Duration::MAX);
    }
}
