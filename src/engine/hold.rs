//! What keeps a set from draining while its response is on its way to the client.

use std::sync::OnceLock;

use crate::util::{
    delay_queue::Key,
    loom::atomic::{AtomicUsize, Ordering},
};

/// How many holds a set has: one of the response's body, and one of each chunk that the server has not released.
pub(crate) struct HoldCount {
    /// Starts with the hold of the body.
    count: AtomicUsize,
    /// Where the timer knows the end of the wait, if the body ended before the chunks were released.
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
        // Relaxed: the chunk goes to the server after this, and comes back after that.
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Releases a hold; whether it was the last one.
    pub(crate) fn release(&self) -> bool {
        // AcqRel: the last one to be released sees the limit.
        self.count.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether one hold is left.
    pub(crate) fn is_one(&self) -> bool {
        // Relaxed: nothing is read that the server has written.
        self.count.load(Ordering::Relaxed) == 1
    }

    /// Remembers where the timer knows the end of the wait. Set once, because a body ends once.
    pub(crate) fn set_limit(&self, key: Key) {
        let _first = self.limit.set(key);
    }

    pub(crate) fn limit(&self) -> Option<Key> {
        self.limit.get().copied()
    }
}
