//! What keeps a set from draining while its response is on its way to the client.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    engine::{limit::Expiry, queue::SetQueue, shared::FLUSH_DELAY},
    model::Ending,
    util::{
        delay_queue::Key,
        loom::atomic::{AtomicUsize, Ordering},
    },
};

/// One hold on a set, of the body or of a chunk that the server has not released.
pub(crate) struct Hold {
    queue: Arc<SetQueue>,
    drain_within: Duration,
}

/// How many holds a set has.
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

impl Hold {
    /// The hold of the body, which the count starts with.
    pub(crate) const fn of_body(queue: Arc<SetQueue>, drain_within: Duration) -> Self {
        Self { queue, drain_within }
    }

    /// One more hold, of a chunk.
    pub(crate) fn of_chunk(queue: Arc<SetQueue>, drain_within: Duration) -> Self {
        // Relaxed: the chunk goes to the server after this, and comes back after that.
        queue.holds.count.fetch_add(1, Ordering::Relaxed);
        Self { queue, drain_within }
    }

    /// The body has ended: from here on, the wait for the chunks has a limit.
    pub(crate) fn body_ended(&self, ending: Ending) {
        if !self.queue.hold(ending) {
            return;
        }
        if self.drain_within.is_zero() {
            return self.queue.release();
        }
        if !self.is_last() {
            // A chunk that is released meanwhile does not release the set, because the body still holds it.
            let timer = &self.queue.registry.shared.timer;
            if let Some(key) = timer.insert_after(self.drain_within, Expiry::Hold(Arc::clone(&self.queue))) {
                // Set once, because a body ends once.
                let _first = self.queue.holds.limit.set(key);
            }
        }
        self.release();
    }

    /// Whether no other hold is left.
    fn is_last(&self) -> bool {
        // Relaxed: nothing is read that the server has written.
        self.queue.holds.count.load(Ordering::Relaxed) == 1
    }

    /// Releases the hold. After the last one, only [`FLUSH_DELAY`] remains.
    pub(crate) fn release(&self) {
        // AcqRel: the last one to be released sees the limit.
        if self.queue.holds.count.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let timer = &self.queue.registry.shared.timer;
        if let Some(key) = self.queue.holds.limit.get() {
            timer.remove(*key);
        }
        if self.drain_within.is_zero() {
            self.queue.release();
        } else if self.drain_within < FLUSH_DELAY {
            timer.insert_after(self.drain_within, Expiry::Hold(Arc::clone(&self.queue)));
        } else {
            timer.insert(Expiry::Hold(Arc::clone(&self.queue)));
        }
    }
}
