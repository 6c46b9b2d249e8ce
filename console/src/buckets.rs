//! The buckets of the histograms for Prometheus.

use std::{ops::RangeInclusive, time::Duration};

/// Each bound is the last nanosecond before one of these powers of two: from 262 µs to 73 min, each twice the one
/// before.
pub(crate) const OF_TASKS: RangeInclusive<u32> = 18..=42;

/// The same for polls: from 1 µs to 17 s.
pub(crate) const OF_POLLS: RangeInclusive<u32> = 10..=34;

/// The number of durations up to each bound, in seconds, that are above the bound before. The last bound is infinite.
/// `powers`: those of the bounds.
///
/// The counts are exact, because a bucket of [`DurationHistogram`](postlude::DurationHistogram) ends at each bound.
pub(crate) fn by_bound(powers: RangeInclusive<u32>, buckets: impl Iterator<Item = (Duration, u64)>) -> Vec<(f64, u64)> {
    let bounds: Vec<_> = powers.map(|power| Duration::from_nanos((1 << power) - 1)).collect();
    let seconds = bounds.iter().map(Duration::as_secs_f64);
    let mut counts: Vec<(f64, u64)> = seconds.chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
    for (end, count) in buckets {
        let index = bounds.partition_point(|bound| *bound < end);
        if let Some((_, sum)) = counts.get_mut(index) {
            *sum += count;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_separates_durations_to_the_nanosecond() {
        let around = |power| {
            let bound = 1_u64 << power;
            [bound - 2, bound - 1, bound, bound + 1].map(|nanos| (Duration::from_nanos(nanos), 1))
        };
        let counts = by_bound(OF_TASKS, OF_TASKS.flat_map(around));
        let numbers: Vec<u64> = counts.iter().map(|(_, count)| *count).collect();
        assert_eq!(numbers, [vec![2], vec![4; 24], vec![2]].concat());
        assert_eq!(counts[2].0, 0.001_048_575);
        assert_eq!(counts[24].0, 4_398.046_511_103);
        let counts = by_bound(OF_POLLS, OF_POLLS.flat_map(around));
        let numbers: Vec<u64> = counts.iter().map(|(_, count)| *count).collect();
        assert_eq!(numbers, [vec![2], vec![4; 24], vec![2]].concat());
        assert_eq!((counts[0].0, counts[24].0), (0.000_001_023, 17.179_869_183));
    }

    #[test]
    fn a_duration_above_all_bounds_counts_in_the_infinite_one() {
        let counts = by_bound(OF_TASKS, [(Duration::from_secs(24 * 60 * 60), 3)].into_iter());
        assert_eq!(counts.last(), Some(&(f64::INFINITY, 3)));
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 3);
    }
}
