//! When batches are handled, and how many items they hold.

use std::time::Duration;

/// When the items of a [`Batcher`](crate::Batcher) are handled, and how many it holds.
///
/// # Default
/// [`max_items`](Self::max_items) 100, [`max_delay`](Self::max_delay) 1 s, [`capacity`](Self::capacity) 10,000.
///
/// ```
/// use std::time::Duration;
/// use postlude::BatchPolicy;
///
/// let policy = BatchPolicy::default().max_items(500).max_delay(Duration::from_millis(200));
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a policy does nothing until it is given to a batcher"]
pub struct BatchPolicy {
    pub(crate) max_items: usize,
    pub(crate) max_delay: Duration,
    pub(crate) capacity: usize,
}

impl Default for BatchPolicy {
    fn default() -> Self {
        Self { max_items: 100, max_delay: Duration::from_secs(1), capacity: 10_000 }
    }
}

impl BatchPolicy {
    /// The number of items at which a batch is full and is handled at once. Zero counts as 1, and no batch is larger
    /// than the capacity.
    pub fn max_items(mut self, items: usize) -> Self {
        self.max_items = items;
        self
    }

    /// The longest time that the first item of a batch waits for others. With zero it does not wait: a batch holds the
    /// items that were pushed before its task started. With `Duration::MAX` a batch waits until it is full, flushed, or
    /// a shutdown begins.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// The highest number of items at a time, whether they wait, are being handled, or are between two attempts. Zero
    /// counts as 1.
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items;
        self
    }

    /// The same policy with its sizes clamped to valid values, up to `most`.
    pub(crate) fn within(self, most: usize) -> Self {
        let capacity = self.capacity.clamp(1, most);
        Self { max_items: self.max_items.clamp(1, capacity), capacity, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_sizes_are_clamped_to_the_nearest_valid_ones() {
        let table = [
            // (max_items, capacity, expected)
            (0, 0, (1, 1)),
            (0, 5, (1, 5)),
            (5, 0, (1, 1)),
            (5, 5, (5, 5)),
            (6, 5, (5, 5)),
            (5, 6, (5, 6)),
            (usize::MAX, usize::MAX, (100, 100)),
        ];
        for (max_items, capacity, expected) in table {
            let policy = BatchPolicy { max_items, capacity, ..BatchPolicy::default() }.within(100);
            assert_eq!((policy.max_items, policy.capacity), expected, "{max_items} of {capacity}");
        }
    }
}
