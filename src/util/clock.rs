//! When something happened to a task: one word, on tokio's clock.

use std::{num::NonZeroU64, sync::OnceLock, time::Duration};

use tokio::time::Instant;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How long before its first use the count begins: a runtime's clock that is paused may be that much behind the real one.
const HEAD_START: Duration = Duration::from_secs(24 * 60 * 60);

/// A moment, to the nanosecond: half the size of an [`Instant`], of which each live and each remembered task would hold
/// three. It counts for five centuries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(NonZeroU64);

impl Timestamp {
    /// The last moment that can be represented.
    pub(crate) const LAST: Self = Self(NonZeroU64::MAX);

    pub(crate) fn now() -> Self {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        let begin = BEGIN.get_or_init(begin);
        Self::after_begin(nanos(Instant::now().saturating_duration_since(*begin)))
    }

    const fn after_begin(nanos: u64) -> Self {
        match NonZeroU64::new(nanos) {
            Some(nanos) => Self(nanos),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// How long after `earlier` it is; zero if it is before.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// The same, in nanoseconds.
    pub(crate) const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.get().saturating_sub(earlier.0.get())
    }

    /// The moment so much later, or the last that can be told.
    pub(crate) const fn plus(self, duration: Duration) -> Self {
        Self::after_begin(self.0.get().saturating_add(nanos(duration)))
    }
}

/// By the real clock: that of a runtime may be paused, and days ahead.
#[expect(clippy::disallowed_methods, reason = "no paused clock is wanted here")]
fn begin() -> Instant {
    let now = std::time::Instant::now();
    now.checked_sub(HEAD_START).unwrap_or(now).into()
}

/// A duration in nanoseconds, or as many as can be told.
pub(crate) const fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(NANOS_PER_SECOND).saturating_add(duration.subsec_nanos() as u64)
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn moments_are_as_far_apart_as_the_clock_says_to_the_nanosecond() {
        let early = Timestamp::now();
        let step = Duration::new(3, 7);
        tokio::time::advance(step).await;
        // A paused timer is rounded to its milliseconds; the clock is not.
        assert_eq!(Timestamp::now().since(early), step);
        assert_eq!(early.plus(step), Timestamp::now());
        assert_eq!(early.since(Timestamp::now()), Duration::ZERO);
    }

    #[test]
    fn what_is_later_than_can_be_told_is_the_last_moment() {
        let last = Timestamp::now().plus(Duration::MAX);
        assert_eq!(last, Timestamp::now().plus(Duration::MAX));
        assert!(last.since(Timestamp::now()) > Duration::from_secs(60 * 60 * 24 * 365 * 500));
    }
}
