//! Holds: they keep a set from draining while its response is on its way to the client.

use std::sync::OnceLock;

use crate::util::{
    delay_queue::Key,
    loom::atomic::{AtomicUsize, Ordering},
};

/// The number of holds of a set: one for the response's body, and one for each chunk that the server has not released.
pub(crate) struct HoldCount {
    /// Starts at 1, the hold of the body.
    count: AtomicUsize,
    /// The timer's key for the end of the wait, if the body ended before the chunks were released.
    limit: OnceLock<Key>,
}

impl Default for HoldCount {
    fn default() -> Self {
        Self { count: AtomicUsize::new(1), limit: OnceLock::new() }
    }
}

impl HoldCount {
    /// Adds the hold of a chunk.
    pub(crate) fn add(&self) {
        // Relaxed: the chunk is handed to the server after this, so its release happens later.
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Releases a hold. Returns whether it was the last one.
    pub(crate) fn release(&self) -> bool {
        // AcqRel: the last release sees the limit.
        self.count.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether exactly one hold is left.
    pub(crate) fn is_one(&self) -> bool {
        // Relaxed: no data of other threads is read.
        self.count.load(Ordering::Relaxed) == 1
    }

    /// Stores the timer's key for the end of the wait. Called once, because a body ends once.
    pub(crate) fn set_limit(&self, key: Key) {
        let _first = self.limit.set(key);
    }

    pub(crate) fn limit(&self) -> Option<Key> {
        self.limit.get().copied()
    }
}
