//! Histograms of durations.

use std::{fmt, time::Duration};

use histogram::Histogram;

/// Each power of two of nanoseconds is split into 2^4 buckets: a quantile is at most 1/16 too high.
const GROUPING_POWER: u8 = 4;

/// The longest duration with a bucket of its own: 2^46 ns, about 19 hours.
const MAX_VALUE_POWER: u8 = 46;

const LONGEST: u64 = (1 << MAX_VALUE_POWER) - 1;

/// A histogram of durations and their sum. See [`TaskMetrics::run_times`](crate::TaskMetrics::run_times) and
/// [`TaskMetrics::wait_times`](crate::TaskMetrics::wait_times).
///
/// The buckets are logarithmic with linear steps, as in HDR histograms: 16 buckets for each power of two of
/// nanoseconds, so the upper bound of a bucket is at most 1/16 above the durations in it. Each power of two is the
/// start of a bucket. A duration of more than 2^46 ns (about 19 hours) counts in the last bucket.
///
/// ```
/// use std::time::Duration;
/// use postlude::{Task, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// for seconds in [1, 2, 9] {
///     let work = tokio::time::sleep(Duration::from_secs(seconds));
///     registry.spawn(Task::new(work).named("report")).await;
/// }
/// let metrics = registry.metrics();
/// let run_times = metrics.run_times();
/// assert_eq!((run_times.count(), run_times.total().as_secs()), (3, 12));
/// assert_eq!(run_times.quantile(0.5).as_secs(), 2);
///
/// let five = Duration::from_secs(5);
/// let slow: u64 =
///     run_times.buckets().filter(|(bound, _)| *bound > five).map(|(_, count)| count).sum();
/// assert_eq!(slow, 1);
/// # }
/// ```
#[derive(Clone, Default)]
pub struct DurationHistogram {
    /// Allocated for the first duration.
    histogram: Option<Box<Histogram>>,
    /// The sum in nanoseconds: enough for five centuries.
    total: u64,
}

impl DurationHistogram {
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

    /// The sum of all durations.
    #[must_use]
    pub const fn total(&self) -> Duration {
        Duration::from_nanos(self.total)
    }

    pub(crate) fn absorb(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        if let (Some(other), Some(histogram)) = (other.histogram.as_deref(), self.histogram()) {
            // Fails only for another configuration or beyond 2^64 values.
            let _added = histogram.checked_add_assign(other);
        }
    }

    /// The number of recorded durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum()
    }

    /// The non-empty buckets, the shortest durations first: the inclusive upper bound of the bucket, and the number of
    /// durations in it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let buckets = self.histogram.iter().flat_map(|histogram| histogram.iter());
        buckets.filter(|bucket| bucket.count() > 0).map(|bucket| (Duration::from_nanos(bucket.end()), bucket.count()))
    }

    /// The duration that a share `q` of the durations does not exceed: `quantile(0.5)` is the median. The value is at
    /// most 1/16 too high, and zero if the histogram is empty. `q` is clamped to 0 to 1.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        let bucket =
            self.histogram.as_deref().and_then(|histogram| histogram.quantile(q.clamp(0.0, 1.0)).ok().flatten());
        bucket
            .and_then(|result| result.entries().values().next().map(|bucket| Duration::from_nanos(bucket.end())))
            .unwrap_or_default()
    }
}

impl fmt::Debug for DurationHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:?}, p99 {:?}", self.quantile(0.5), self.quantile(0.99))
    }
}

/// An object with the quantiles `p50`, `p90` and `p99`, in seconds.
#[cfg(feature = "serde")]
impl serde::Serialize for DurationHistogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;

        let mut map = serializer.serialize_map(Some(3))?;
        for (key, q) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            map.serialize_entry(key, &self.quantile(q).as_secs_f64())?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_end_at_the_last_nanosecond_before_each_power_of_two() {
        let mut durations = DurationHistogram::default();
        let powers = 10..u32::from(MAX_VALUE_POWER);
        for power in powers.clone() {
            let bound = 1_u64 << power;
            for nanos in [bound - 2, bound - 1, bound, bound + 1] {
                durations.record(nanos);
            }
        }
        for (index, power) in powers.enumerate() {
            let bound = Duration::from_nanos((1 << power) - 1);
            let up_to_it: u64 = durations.buckets().filter(|(end, _)| *end <= bound).map(|(_, count)| count).sum();
            assert_eq!(up_to_it, 4 * index as u64 + 2, "2^{power} ns");
        }
        assert_eq!(durations.count(), 4 * u64::from(MAX_VALUE_POWER - 10));
    }

    #[test]
    fn a_duration_beyond_the_last_bucket_counts_in_it() {
        let mut durations = DurationHistogram::default();
        durations.record(u64::MAX);
        let last = Duration::from_nanos(LONGEST);
        assert_eq!(durations.buckets().collect::<Vec<_>>(), [(last, 1)]);
        assert_eq!((durations.count(), durations.quantile(1.0)), (1, last));
    }

    #[test]
    fn an_empty_histogram_has_no_buckets() {
        let durations = DurationHistogram::default();
        assert_eq!((durations.buckets().count(), durations.count(), durations.total()), (0, 0, Duration::ZERO));
    }
}
