//! How long the tasks of a short time took: a small histogram.

use std::{cmp::Ordering, time::Duration};

use postlude::DurationHistogram;

/// Each power of two of nanoseconds is split into this many buckets, half as many as in [`DurationHistogram`].
const COLUMN_BITS: u32 = 3;

/// A histogram of durations, in the memory of its non-empty buckets. A quantile is at most 1/8 too high.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Durations {
    /// The number of each bucket and its count, in ascending order.
    buckets: Vec<(u16, u64)>,
}

impl From<&DurationHistogram> for Durations {
    fn from(histogram: &DurationHistogram) -> Self {
        let mut buckets: Vec<(u16, u64)> = Vec::new();
        for (bound, count) in histogram.buckets() {
            let bucket = bucket_of(bound);
            match buckets.last_mut() {
                Some((last, sum)) if *last == bucket => *sum += count,
                _ => buckets.push((bucket, count)),
            }
        }
        Self { buckets }
    }
}

impl Durations {
    /// The durations that were recorded since an `earlier` state of the same histogram.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut before = earlier.buckets.iter().peekable();
        let since = self.buckets.iter().map(|(bucket, count)| {
            while before.peek().is_some_and(|(other, _)| other < bucket) {
                before.next();
            }
            let known = before.peek().filter(|(other, _)| other == bucket).map_or(0, |(_, count)| *count);
            (*bucket, count.saturating_sub(known))
        });
        Self { buckets: since.filter(|(_, count)| *count > 0).collect() }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut sum = Vec::with_capacity(self.buckets.len().max(other.buckets.len()));
        let (mut one, mut two) = (self.buckets.iter().copied().peekable(), other.buckets.iter().copied().peekable());
        loop {
            let order = match (one.peek(), two.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((one, _)), Some((two, _))) => one.cmp(two),
            };
            let next = match order {
                Ordering::Less => one.next(),
                Ordering::Greater => two.next(),
                Ordering::Equal => one.next().zip(two.next()).map(|((bucket, one), (_, two))| (bucket, one + two)),
            };
            sum.extend(next);
        }
        self.buckets = sum;
    }

    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// The duration that a share `q` of the durations does not exceed; `None` without durations.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank of more than 2^53 may be off by some, and is not negative"
    )]
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = (q * self.count() as f64).ceil().max(1.0) as u64;
        let mut up_to = 0;
        let bucket = self.buckets.iter().find(|(_, count)| {
            up_to += count;
            up_to >= rank
        });
        bucket.map(|(bucket, _)| upper_bound(*bucket))
    }
}

/// The bucket of a duration: its power of two, and the next bits below it.
fn bucket_of(duration: Duration) -> u16 {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1 << COLUMN_BITS);
    let power = nanos.ilog2();
    let column = (nanos >> (power - COLUMN_BITS)) & ((1 << COLUMN_BITS) - 1);
    u16::try_from(u64::from(power) << COLUMN_BITS | column).unwrap_or(u16::MAX)
}

/// The longest duration of a bucket.
fn upper_bound(bucket: u16) -> Duration {
    let (power, column) = (u32::from(bucket) >> COLUMN_BITS, u64::from(bucket) & ((1 << COLUMN_BITS) - 1));
    let next = (1_u64 << COLUMN_BITS) + column + 1;
    let shift = power.saturating_sub(COLUMN_BITS);
    Duration::from_nanos(next.checked_shl(shift).unwrap_or(u64::MAX).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: &[u64]) -> Durations {
        let mut all = Durations::default();
        for millis in millis {
            all.add(&Durations { buckets: vec![(bucket_of(Duration::from_millis(*millis)), 1)] });
        }
        all
    }

    #[test]
    fn a_duration_is_in_a_bucket_that_is_at_most_an_eighth_longer() {
        for nanos in (4..46).flat_map(|power| [1_u64 << power, (1 << power) + 1, (3 << power) / 2, (2 << power) - 1]) {
            let bound = upper_bound(bucket_of(Duration::from_nanos(nanos)));
            let longer = bound.checked_sub(Duration::from_nanos(nanos)).expect("a bound is not shorter");
            assert!(longer <= Duration::from_nanos(nanos / 8), "{nanos} ns in a bucket up to {bound:?}");
            assert_eq!(upper_bound(bucket_of(bound)), bound);
        }
    }

    #[test]
    fn since_leaves_what_came_later_and_add_brings_it_back() {
        let earlier = of(&[1, 1, 5, 80]);
        let later = of(&[1, 1, 5, 80, 2, 80, 900]);
        let since = later.since(&earlier);
        assert_eq!(since, of(&[2, 80, 900]));
        let mut sum = earlier;
        sum.add(&since);
        assert_eq!(sum, later);
        assert_eq!(later.since(&later), Durations::default());
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_durations() {
        let durations = of(&[10, 20, 30, 40, 1000]);
        let bound = |millis| Some(upper_bound(bucket_of(Duration::from_millis(millis))));
        for (q, millis) in [(0.0, 10), (0.2, 10), (0.5, 30), (0.8, 40), (0.81, 1000), (1.0, 1000)] {
            assert_eq!(durations.quantile(q), bound(millis), "{q}");
        }
        assert_eq!(Durations::default().quantile(0.5), None);
    }
}
