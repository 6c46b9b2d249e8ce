//! Histograms of durations.

use std::{fmt, time::Duration};

/// Each power of two of nanoseconds is split into this many buckets: a quantile is at most 1/16 too high.
const COLUMNS: usize = 1 << COLUMN_BITS;

const COLUMN_BITS: u32 = 4;

/// The longest duration with a bucket of its own: 2^46 ns, about 19 hours.
const MAX_VALUE_POWER: u32 = 46;

const LONGEST: u64 = (1 << MAX_VALUE_POWER) - 1;

/// The first row has the durations of less than 2^4 ns. Each other row has those of one power of two.
const ROWS: usize = (MAX_VALUE_POWER - COLUMN_BITS) as usize + 1;

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
#[derive(Clone)]
pub struct DurationHistogram {
    /// The rows that have a duration, in the order of their first one. The durations of a task take few powers of two,
    /// and there is a histogram for each name in each shard.
    rows: Vec<[u64; COLUMNS]>,
    /// For each row its place in `rows`, from 1; 0 if it has no duration.
    places: [u8; ROWS],
    /// The sum in nanoseconds: enough for five centuries.
    total: u64,
}

impl Default for DurationHistogram {
    fn default() -> Self {
        Self { rows: Vec::new(), places: [0; ROWS], total: 0 }
    }
}

/// The row and the column of a duration.
#[expect(clippy::cast_possible_truncation, reason = "both are small")]
const fn cell(nanos: u64) -> (usize, usize) {
    let nanos = if nanos > LONGEST { LONGEST } else { nanos };
    // Those of the first row have less bits than the others, and are made to have as many as its longest.
    let bits = u64::BITS - (nanos | (COLUMNS as u64 - 1)).leading_zeros();
    let row = bits - COLUMN_BITS;
    let column = nanos >> row.saturating_sub(1);
    (row as usize, column as usize % COLUMNS)
}

/// The longest duration of a cell, in nanoseconds.
const fn upper_bound(row: usize, column: usize) -> u64 {
    match row {
        0 => column as u64,
        row => (((COLUMNS + column + 1) as u64) << (row - 1)) - 1,
    }
}

impl DurationHistogram {
    /// In nanoseconds.
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64) {
        self.total = self.total.saturating_add(nanos);
        let (row, column) = cell(nanos);
        if let Some(count) = self.row(row).and_then(|row| row.get_mut(column)) {
            *count += 1;
        }
    }

    /// A row, which is made if it has no duration yet.
    #[inline]
    fn row(&mut self, row: usize) -> Option<&mut [u64; COLUMNS]> {
        let place = match *self.places.get(row)? {
            0 => self.add_row(row)?,
            place => place,
        };
        self.rows.get_mut(usize::from(place) - 1)
    }

    /// Makes a row. Returns its place.
    #[cold]
    fn add_row(&mut self, row: usize) -> Option<u8> {
        self.rows.reserve_exact(1);
        self.rows.push([0; COLUMNS]);
        let place = u8::try_from(self.rows.len()).ok()?;
        *self.places.get_mut(row)? = place;
        Some(place)
    }

    /// The sum of all durations.
    #[must_use]
    pub const fn total(&self) -> Duration {
        Duration::from_nanos(self.total)
    }

    pub(crate) fn absorb(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        for (row, counts) in other.rows() {
            for (sum, count) in self.row(row).into_iter().flatten().zip(counts) {
                *sum += count;
            }
        }
    }

    /// The rows that have a duration, the shortest first.
    fn rows(&self) -> impl Iterator<Item = (usize, &[u64; COLUMNS])> {
        self.places.iter().enumerate().filter_map(|(row, place)| {
            let counts = self.rows.get(usize::from(*place).checked_sub(1)?)?;
            Some((row, counts))
        })
    }

    /// The number of recorded durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.rows.iter().flatten().sum()
    }

    /// The non-empty buckets, the shortest durations first: the inclusive upper bound of the bucket, and the number of
    /// durations in it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.rows().flat_map(|(row, counts)| {
            let filled = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            filled.map(move |(column, count)| (Duration::from_nanos(upper_bound(row, column)), *count))
        })
    }

    /// The duration that a share `q` of the durations does not exceed: `quantile(0.5)` is the median. The value is at
    /// most 1/16 too high, and zero if the histogram is empty. `q` is clamped to 0 to 1.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank of more than 2^53 may be off by some, and is not negative"
    )]
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = (q.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut up_to = 0;
        let bucket = self.buckets().find(|(_, count)| {
            up_to += count;
            up_to >= rank
        });
        bucket.map(|(bound, _)| bound).unwrap_or_default()
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
        let powers = 10..MAX_VALUE_POWER;
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
    fn each_duration_is_in_a_bucket_that_is_at_most_a_sixteenth_longer() {
        let mut random = fastrand::Rng::with_seed(7);
        for power in 0..MAX_VALUE_POWER {
            for _ in 0..200 {
                let nanos = random.u64(1 << power..2 << power).min(LONGEST);
                let (row, column) = cell(nanos);
                let bound = upper_bound(row, column);
                assert!(bound >= nanos && bound - nanos <= nanos / 16, "{nanos} in {row}, {column}, up to {bound}");
                assert_eq!(cell(bound), (row, column));
                assert!(bound == LONGEST || cell(bound + 1) != (row, column), "{bound}");
            }
        }
        assert_eq!((cell(0), cell(15), cell(16), cell(u64::MAX)), ((0, 0), (0, 15), (1, 0), (ROWS - 1, 15)));
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_durations() {
        let mut random = fastrand::Rng::with_seed(8);
        for count in [1, 2, 3, 10, 1_000] {
            let mut duration = |_| {
                let power = random.u32(1..40);
                random.u64(..1 << power)
            };
            let mut durations: Vec<u64> = (0..count).map(&mut duration).collect();
            let (mut one, mut other) = (DurationHistogram::default(), DurationHistogram::default());
            durations
                .iter()
                .enumerate()
                .for_each(|(index, nanos)| if index % 3 == 0 { one.record(*nanos) } else { other.record(*nanos) });
            one.absorb(&other);
            durations.sort_unstable();
            for (q, percent) in [(-1.0, 0), (0.0, 0), (0.25, 25), (0.5, 50), (0.75, 75), (1.0, 100), (7.0, 100)] {
                let rank = (percent * durations.len()).div_ceil(100).max(1);
                let (row, column) = cell(durations[rank - 1]);
                assert_eq!(one.quantile(q), Duration::from_nanos(upper_bound(row, column)), "{q} of {count}");
            }
            assert_eq!((one.count(), one.total().as_nanos()), (count, durations.iter().map(|d| u128::from(*d)).sum()));
        }
    }

    #[test]
    fn an_empty_histogram_has_no_buckets() {
        let durations = DurationHistogram::default();
        assert_eq!((durations.buckets().count(), durations.count(), durations.total()), (0, 0, Duration::ZERO));
    }
}
