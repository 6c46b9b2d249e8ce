//! When a response has left: its body has ended, and the server has released every chunk.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    engine::{
        hold::HoldLimit,
        set_queue::SetQueue,
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

    /// The body has ended: from here on, only the chunks hold the set.
    pub(crate) fn body_ended(&self, ending: Ending) {
        let holds = &self.queue.holds;
        if !self.queue.hold(ending) {
            return self.remove_limit();
        }
        if self.drain_within.is_zero() {
            self.remove_limit();
            return self.queue.release();
        }
        if !holds.is_one() && !holds.body_ended() {
            // A chunk that is released meanwhile does not release the set, because the body still holds it.
            HoldLimit::start(&self.queue, self.drain_within);
        }
        self.release();
    }

    /// Releases the hold. After the last one, only [`FLUSH_DELAY`] remains.
    pub(crate) fn release(&self) {
        if !self.queue.holds.release() {
            return;
        }
        self.remove_limit();
        let timer = &self.queue.shared().timer;
        let expiry = || Expiry::Hold(Arc::clone(&self.queue));
        if self.drain_within.is_zero() {
            self.queue.release();
        } else if self.drain_within < FLUSH_DELAY {
            timer.insert_after(self.drain_within, expiry());
        } else {
            timer.insert(expiry());
        }
    }

    fn remove_limit(&self) {
        if let Some(key) = self.queue.holds.take_limit() {
            self.queue.shared().timer.remove(key);
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
