//! A histogram of durations.

use std::{fmt, time::Duration};

use histogram::Histogram;

/// Each power of two of nanoseconds is split into 2^4 buckets: a quantile is at most 1/16 too high.
const GROUPING_POWER: u8 = 4;

/// The longest duration with a bucket of its own: 2^46 ns, about 19 hours.
const MAX_VALUE_POWER: u8 = 46;

const LONGEST: u64 = (1 << MAX_VALUE_POWER) - 1;

/// The powers of two of nanoseconds before which Prometheus' buckets end: from 262 µs to 73 min, each twice the
/// one before.
#[cfg(feature = "prometheus")]
const BOUND_POWERS: [u8; 25] =
    [18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42];

/// Durations: a histogram, in nanoseconds, which takes no room until the first, and their sum.
#[derive(Clone, Default)]
pub(crate) struct Durations {
    histogram: Option<Box<Histogram>>,
    /// All of them added up, in nanoseconds: enough for five centuries.
    total: u64,
}

impl Durations {
    fn histogram(&mut self) -> Option<&mut Histogram> {
        if self.histogram.is_none() {
            self.make_histogram();
        }
        self.histogram.as_deref_mut()
    }

    #[cold]
    fn make_histogram(&mut self) {
        self.histogram = Histogram::new(GROUPING_POWER, MAX_VALUE_POWER).ok().map(Box::new);
    }

    /// In nanoseconds.
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64) {
        self.total = self.total.saturating_add(nanos);
        if let Some(histogram) = self.histogram() {
            // A value within the range always has a bucket.
            let _recorded = histogram.increment(nanos.min(LONGEST));
        }
    }

    pub(crate) const fn total(&self) -> Duration {
        Duration::from_nanos(self.total)
    }

    pub(crate) fn absorb(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        if let (Some(other), Some(histogram)) = (other.histogram.as_deref(), self.histogram()) {
            // Refused only for another configuration or beyond 2^64 values.
            let _added = histogram.checked_add_assign(other);
        }
    }

    /// How many there were up to each of the bounds, in seconds, and not up to the one before: what Prometheus' buckets
    /// are made of. The last bound is infinite.
    ///
    /// Each bound is the last nanosecond before a power of two, which is where a bucket of the histogram ends: so the
    /// counts are exact.
    #[cfg(feature = "prometheus")]
    pub(crate) fn by_bound(&self) -> Vec<(f64, u64)> {
        let ends = BOUND_POWERS.map(|power| (1_u64 << power) - 1);
        let seconds = ends.iter().map(|end| Duration::from_nanos(*end).as_secs_f64());
        let mut counts: Vec<(f64, u64)> = seconds.chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
        for bucket in self.histogram.iter().flat_map(|histogram| histogram.iter()) {
            let place = ends.partition_point(|end| *end < bucket.end());
            if let Some((_, count)) = counts.get_mut(place) {
                *count += bucket.count();
            }
        }
        counts
    }

    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let bucket =
            self.histogram.as_deref().and_then(|histogram| histogram.quantile(q.clamp(0.0, 1.0)).ok().flatten());
        bucket
            .and_then(|result| result.entries().values().next().map(|bucket| Duration::from_nanos(bucket.end())))
            .unwrap_or_default()
    }
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:?}, p99 {:?}", self.quantile(0.5), self.quantile(0.99))
    }
}

#[cfg(all(test, feature = "prometheus"))]
mod tests {
    use super::*;

    #[test]
    fn a_bound_parts_the_durations_to_the_nanosecond() {
        let mut durations = Durations::default();
        for power in BOUND_POWERS {
            let bound = 1_u64 << power;
            for nanos in [bound - 2, bound - 1, bound, bound + 1] {
                durations.record(nanos);
            }
        }
        let counts: Vec<u64> = durations.by_bound().into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [vec![2], vec![4; BOUND_POWERS.len() - 1], vec![2]].concat());
        assert_eq!(durations.by_bound()[2].0, 0.001_048_575);
    }

    #[test]
    fn what_is_longer_than_can_be_told_is_counted_as_beyond_the_last_bound() {
        let mut durations = Durations::default();
        durations.record(u64::MAX);
        assert_eq!(durations.by_bound().last(), Some(&(f64::INFINITY, 1)));
    }
}
