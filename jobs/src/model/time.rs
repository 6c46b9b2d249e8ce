//! Times as the engines store them: milliseconds since the Unix epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The milliseconds of a duration. A duration beyond the range is the longest one.
pub(crate) fn millis(duration: Duration) -> i64 {
    // Half of the range, so that a sum with a point in time does not overflow.
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

/// The stored form of a point in time. A point before the epoch is the epoch.
pub(crate) fn to_millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// The point in time of a stored number.
pub(crate) fn from_millis(stored: i64) -> SystemTime {
    UNIX_EPOCH.checked_add(duration(stored)).unwrap_or(UNIX_EPOCH)
}

/// The duration of a stored number; zero for a negative one.
pub(crate) fn duration(stored: i64) -> Duration {
    Duration::from_millis(u64::try_from(stored).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_in_time_survives_being_stored() {
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(from_millis(to_millis(time)), time);
    }

    #[test]
    fn values_beyond_the_range_are_cut_off() {
        assert_eq!(millis(Duration::MAX), i64::MAX / 4);
        assert_eq!(to_millis(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(from_millis(-1), UNIX_EPOCH);
    }
}
