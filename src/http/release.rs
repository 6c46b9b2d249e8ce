//! When a response has left: its body has ended, and the server has released every chunk.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    engine::{
        queue::SetQueue,
        shared::{Expiry, FLUSH_DELAY},
    },
    model::Ending,
};

/// One hold on a set, of the body or of a chunk that the server has not released.
pub(crate) struct Hold {
    queue: Arc<SetQueue>,
    drain_within: Duration,
}

impl Hold {
    /// The hold of the body, which the count starts with.
    pub(crate) const fn of_body(queue: Arc<SetQueue>, drain_within: Duration) -> Self {
        Self { queue, drain_within }
    }

    /// One more hold, of a chunk.
    pub(crate) fn of_chunk(queue: Arc<SetQueue>, drain_within: Duration) -> Self {
        queue.holds.add();
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
        if !self.queue.holds.is_one() {
            // A chunk that is released meanwhile does not release the set, because the body still holds it.
            let timer = &self.queue.shared().timer;
            if let Some(key) = timer.insert_after(self.drain_within, Expiry::Hold(Arc::clone(&self.queue))) {
                self.queue.holds.set_limit(key);
            }
        }
        self.release();
    }

    /// Releases the hold. After the last one, only [`FLUSH_DELAY`] remains.
    pub(crate) fn release(&self) {
        if !self.queue.holds.release() {
            return;
        }
        let timer = &self.queue.shared().timer;
        if let Some(key) = self.queue.holds.limit() {
            timer.remove(key);
        }
        let expiry = || Expiry::Hold(Arc::clone(&self.queue));
        if self.drain_within.is_zero() {
            self.queue.release();
        } else if self.drain_within < FLUSH_DELAY {
            timer.insert_after(self.drain_within, expiry());
        } else {
            timer.insert(expiry());
        }
    }
}

/// The same bytes, in a form that releases `hold` when the server drops them. Copies nothing.
pub(crate) fn releasing(chunk: Bytes, hold: Hold) -> Bytes {
    Bytes::from_owner(Chunk { bytes: chunk, hold })
}

/// The owner of a chunk's bytes.
struct Chunk {
    bytes: Bytes,
    hold: Hold,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.hold.release();
    }
}
