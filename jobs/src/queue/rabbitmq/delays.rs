//! The ranges of delays: each has a queue, whose jobs wait until workers find them due.

use std::time::{Duration, SystemTime};

use crate::model::time::to_millis;

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;
const DAY: u32 = 24 * HOUR;

/// The longest delay of each range, in seconds. Each is about three times the one before.
pub(super) const RANGES: [u32; 14] =
    [1, 3, 10, 30, 90, 5 * MINUTE, 15 * MINUTE, 45 * MINUTE, 2 * HOUR, 6 * HOUR, 18 * HOUR, 2 * DAY, 6 * DAY, LONGEST];

/// The range of all longer delays, too.
pub(super) const LONGEST: u32 = 18 * DAY;

/// A delay that is longer than the calendar ends after 1,000 years.
const FOR_EVER: Duration = Duration::from_secs(1_000 * 365 * 24 * 3600);

/// When a job is due, in milliseconds, and the range of delays to which it belongs now. `None` if it is due.
pub(super) fn wait_until(due: SystemTime) -> Option<(i64, u32)> {
    let now = SystemTime::now();
    let delay = due.duration_since(now).ok().filter(|delay| !delay.is_zero())?;
    // Rounded up: no job is early.
    Some((to_millis(due).saturating_add(1), range(delay)))
}

/// When a job is due that has to wait for this long.
pub(super) fn due_after(delay: Duration) -> SystemTime {
    let now = SystemTime::now();
    now.checked_add(delay).or_else(|| now.checked_add(FOR_EVER)).unwrap_or(now)
}

fn range(delay: Duration) -> u32 {
    RANGES.into_iter().find(|range| Duration::from_secs((*range).into()) >= delay).unwrap_or(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_is_more_than_four_times_the_one_before() {
        for pair in RANGES.windows(2) {
            assert!(pair[0] < pair[1] && pair[1] <= 4 * pair[0], "{pair:?}");
        }
    }

    #[test]
    fn a_delay_belongs_to_the_first_range_that_is_as_long() {
        for (millis, expected) in [(1, 1), (1_000, 1), (1_001, 3), (15_000, 30), (u64::MAX, LONGEST)] {
            assert_eq!(range(Duration::from_millis(millis)), expected, "{millis}");
        }
    }

    #[test]
    fn what_is_due_does_not_wait() {
        let now = SystemTime::now();
        assert_eq!(wait_until(now - Duration::from_secs(1)), None);
        let (due, range) = wait_until(now + Duration::from_secs(60)).unwrap();
        assert!(due > to_millis(now) + 60_000 - 1 && range == 90, "{due}");
    }

    #[test]
    fn the_longest_delay_is_a_time() {
        assert!(due_after(Duration::MAX) > SystemTime::now() + Duration::from_secs(LONGEST.into()));
    }
}
