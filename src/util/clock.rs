//! Timestamps of one word, on tokio's clock.

use std::{num::NonZeroU64, sync::OnceLock, time::Duration};

use tokio::time::Instant;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How far the origin lies before the first use, because the paused clock of a runtime may be behind the real clock.
const HEAD_START: Duration = Duration::from_secs(24 * 60 * 60);

/// A point in time with a resolution of a nanosecond, for five centuries. Half the size of an [`Instant`], which
/// matters because each live and each remembered task holds up to three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(NonZeroU64);

impl Timestamp {
    /// The last moment that can be represented.
    pub(crate) const LAST: Self = Self(NonZeroU64::MAX);

    pub(crate) fn now() -> Self {
        Self::of(Instant::now)
    }

    /// The time that `now` returns.
    #[inline]
    pub(crate) fn of(now: impl FnOnce() -> Instant) -> Self {
        let origin = origin();
        Self::after_origin(nanos(now().saturating_duration_since(*origin)))
    }

    /// `None` for the last timestamp: a time that can't be represented.
    pub(crate) fn to_instant(self) -> Option<Instant> {
        (self != Self::LAST).then(|| origin().checked_add(Duration::from_nanos(self.0.get()))).flatten()
    }

    const fn after_origin(nanos: u64) -> Self {
        match NonZeroU64::new(nanos) {
            Some(nanos) => Self(nanos),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// The time since `earlier`; zero if `earlier` is later.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// Like [`since`](Self::since), in nanoseconds.
    pub(crate) const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.get().saturating_sub(earlier.0.get())
    }

    /// The timestamp `duration` later, or the last one that can be represented.
    pub(crate) const fn plus(self, duration: Duration) -> Self {
        Self::after_origin(self.0.get().saturating_add(nanos(duration)))
    }
}

/// The time of the real clock, also if the clock of the runtime is paused; in nanoseconds, and never 0.
#[expect(clippy::disallowed_methods, reason = "the paused clock does not fit here")]
#[inline]
pub(crate) fn real_nanos() -> u64 {
    nanos(std::time::Instant::now().saturating_duration_since(origin().into_std())).max(1)
}

/// Uses the real clock, because the clock of a runtime may be paused and far ahead.
#[expect(clippy::disallowed_methods, reason = "the paused clock does not fit here")]
fn origin() -> &'static Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(|| {
        let now = std::time::Instant::now();
        now.checked_sub(HEAD_START).unwrap_or(now).into()
    })
}

/// A duration in nanoseconds, saturating.
pub(crate) const fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(NANOS_PER_SECOND).saturating_add(duration.subsec_nanos() as u64)
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timestamps_follow_the_clock_to_the_nanosecond() {
        let early = Timestamp::now();
        let step = Duration::new(3, 7);
        tokio::time::advance(step).await;
        // Paused timers are rounded to milliseconds, but the clock is not.
        assert_eq!(Timestamp::now().since(early), step);
        assert_eq!(early.plus(step), Timestamp::now());
        assert_eq!(Timestamp::now().to_instant(), Some(Instant::now()));
        assert_eq!(early.since(Timestamp::now()), Duration::ZERO);
    }

    #[test]
    fn plus_saturates_at_the_last_timestamp() {
        let last = Timestamp::now().plus(Duration::MAX);
        assert_eq!(last, Timestamp::now().plus(Duration::MAX));
        assert_eq!(last.to_instant(), None);
        assert!(last.since(Timestamp::now()) > Duration::from_secs(60 * 60 * 24 * 365 * 500));
    }
}
