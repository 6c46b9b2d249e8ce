//! The steps to which delays are rounded: each has a queue, whose messages all wait for the same time.

use std::time::Duration;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The steps, in milliseconds. Each is at most twice the one before, so no delay is more than doubled, and most are less
/// than half as long again.
#[rustfmt::skip]
const STEPS: [u64; 44] = [
    50, 100, 200, 350, 500, 700,
    SECOND, 3 * SECOND / 2, 2 * SECOND, 3 * SECOND, 5 * SECOND, 7 * SECOND,
    10 * SECOND, 15 * SECOND, 20 * SECOND, 30 * SECOND, 45 * SECOND,
    MINUTE, 3 * MINUTE / 2, 2 * MINUTE, 3 * MINUTE, 5 * MINUTE, 7 * MINUTE,
    10 * MINUTE, 15 * MINUTE, 20 * MINUTE, 30 * MINUTE, 45 * MINUTE,
    HOUR, 3 * HOUR / 2, 2 * HOUR, 3 * HOUR, 4 * HOUR, 6 * HOUR, 8 * HOUR, 12 * HOUR, 18 * HOUR,
    DAY, 3 * DAY / 2, 2 * DAY, 4 * DAY, 7 * DAY, 14 * DAY, LONGEST,
];

/// The longest step.
const LONGEST: u64 = 28 * DAY;

/// The step of a delay, in milliseconds: the shortest that is not shorter; `None` if there is none.
pub(super) fn step(delay: Duration) -> Option<u64> {
    let millis = delay.as_nanos().div_ceil(1_000_000);
    STEPS.into_iter().find(|step| u128::from(*step) >= millis)
}

/// The step of a retry, in milliseconds: the longest, if the delay is longer; `None` if there is no delay.
pub(super) fn step_of_retry(delay: Duration) -> Option<u64> {
    (!delay.is_zero()).then(|| step(delay).unwrap_or(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_is_more_than_twice_the_one_before() {
        for pair in STEPS.windows(2) {
            assert!(pair[0] < pair[1] && pair[1] <= 2 * pair[0], "{pair:?}");
        }
    }

    #[test]
    fn a_delay_is_rounded_up_to_a_step() {
        for (millis, expected) in
            [(0, Some(50)), (50, Some(50)), (51, Some(100)), (15_001, Some(20_000)), (28 * DAY, Some(28 * DAY))]
        {
            assert_eq!(step(Duration::from_millis(millis)), expected, "{millis}");
        }
        assert_eq!(step(Duration::from_millis(28 * DAY) + Duration::from_nanos(1)), None);
        assert_eq!(step_of_retry(Duration::ZERO), None);
        assert_eq!(step_of_retry(Duration::MAX), Some(28 * DAY));
    }
}
