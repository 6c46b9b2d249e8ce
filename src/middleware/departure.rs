use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Ending, timetable::Place};
use crate::{
    line::Line,
    sync::atomic::{AtomicUsize, Ordering},
};

/// How much longer to wait when the last chunk was released.
///
/// What the server still has to do takes it a moment, and has nothing that could tell: h2 releases a chunk when
/// it copies the last, short piece of it into its own buffer, just before the write of the same poll; and the end
/// of a stream, like an empty body, comes without a chunk. A few yields to the scheduler, which were tried
/// instead, are over too early far more often than a timer.
pub(crate) const DEFERRAL: Duration = Duration::from_millis(2);

/// A response on its way out. It has left when its body has ended and every chunk that the server was given has
/// been released by it.
pub(crate) struct Departure {
    line: Arc<Line>,
    launch_within: Duration,
    /// The body, until it has ended, and the chunks that the server has not released.
    held: AtomicUsize,
    /// Where the end of the wait is noted, if the body ended before the chunks were released.
    limit: OnceLock<Place>,
}

impl Departure {
    pub(crate) fn new(line: Arc<Line>, launch_within: Duration) -> Arc<Self> {
        Arc::new(Self { line, launch_within, held: AtomicUsize::new(1), limit: OnceLock::new() })
    }

    /// The same chunk, in a form that tells when it was released.
    pub(crate) fn watch(self: &Arc<Self>, chunk: Bytes) -> Bytes {
        // Relaxed: the chunk goes to the server after this, and comes back after that.
        self.held.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Chunk { bytes: chunk, departure: Arc::clone(self) })
    }

    /// The body has ended: from here on, whatever is held is held too long one day.
    pub(crate) fn body_ended(&self, ending: Ending) {
        if !self.line.depart(ending) {
            return;
        }
        if self.launch_within.is_zero() {
            self.line.left();
        } else if self.held.load(Ordering::Relaxed) > 1 {
            // Relaxed: what is released meanwhile finds the limit all the same, for the body is still counted.
            let limit = Instant::now().checked_add(self.launch_within);
            if let Some(place) = limit.and_then(|limit| self.line.registry.inner.timetable.until(limit, &self.line)) {
                // Set once, for a body ends once.
                let _first = self.limit.set(place);
            }
        }
        self.release();
    }

    fn release(&self) {
        // AcqRel: whoever brings it to zero sees the limit.
        if self.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            if let Some(limit) = self.limit.get() {
                self.line.registry.inner.timetable.strike(*limit);
            }
            last_bytes_left(&self.line, self.launch_within);
        }
    }
}

/// Nothing is held any more: what is left is the moment for which nothing could tell.
pub(crate) fn last_bytes_left(line: &Arc<Line>, launch_within: Duration) {
    let timetable = &line.registry.inner.timetable;
    if launch_within >= DEFERRAL {
        timetable.soon(line);
    } else if launch_within.is_zero() {
        line.left();
    } else {
        timetable.until(Instant::now() + launch_within, line);
    }
}

/// The owner of a chunk's bytes.
struct Chunk {
    bytes: Bytes,
    departure: Arc<Departure>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.departure.release();
    }
}
