use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    engine::queue::Line,
    http::timetable::{Place, Timetable},
    model::Ending,
    util::loom::atomic::{AtomicUsize, Ordering},
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
    pub(crate) line: Arc<Line>,
    pub(crate) launch_within: Duration,
}

/// What a line knows of the departure of its response.
pub(crate) struct Held {
    /// The chunks that the server has not released, and one more for the body, until it has ended and that was noted.
    count: AtomicUsize,
    /// Where the end of the wait is noted, if the body ended before the chunks were released.
    limit: OnceLock<Place>,
}

impl Default for Held {
    fn default() -> Self {
        Self { count: AtomicUsize::new(1), limit: OnceLock::new() }
    }
}

impl Departure {
    /// The same chunk, in a form that tells when it was released.
    pub(crate) fn watch(self, chunk: Bytes) -> Bytes {
        // Relaxed: the chunk goes to the server after this, and comes back after that.
        self.line.held.count.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Chunk { bytes: chunk, departure: self })
    }

    /// The body has ended: from here on, whatever is held is held too long one day.
    pub(crate) fn body_ended(self, timetable: &Timetable, ending: Ending) {
        if !self.line.depart(ending) {
            return;
        }
        if self.launch_within.is_zero() {
            self.line.left();
        } else if self.launch_within < DEFERRAL {
            self.wait(timetable);
        } else if let Err(departure) = timetable.leave_to_next_turn(self) {
            departure.wait(timetable);
        }
    }

    fn wait(&self, timetable: &Timetable) {
        if !self.is_released() {
            // What is released meanwhile finds the limit all the same, for the body is still counted.
            let limit = self.limit(Instant::now());
            self.wait_until(limit.and_then(|limit| timetable.until(limit, &self.line)));
        }
        self.release();
    }

    /// Whether only the body is still counted.
    pub(crate) fn is_released(&self) -> bool {
        // Relaxed: nothing is read that the server has written.
        self.line.held.count.load(Ordering::Relaxed) == 1
    }

    /// The end of the wait for a body that ends now.
    pub(crate) fn limit(&self, now: Instant) -> Option<Instant> {
        now.checked_add(self.launch_within)
    }

    /// Remembers where its limit is noted. Before the [release](Self::release) of what the body counts.
    pub(crate) fn wait_until(&self, noted: Option<Place>) {
        if let Some(place) = noted {
            // Set once, for a body ends once.
            let _first = self.line.held.limit.set(place);
        }
    }

    /// Counts the body, or a chunk, no longer. Where nothing is held any more, what is left is the moment for which
    /// nothing could tell.
    pub(crate) fn release(&self) {
        // AcqRel: whoever brings it to zero sees where the limit is noted.
        if self.line.held.count.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let timetable = &self.line.registry.inner.timetable;
        if let Some(place) = self.line.held.limit.get() {
            timetable.strike(*place);
        }
        if self.launch_within >= DEFERRAL {
            timetable.soon(&self.line);
        } else if self.launch_within.is_zero() {
            self.line.left();
        } else {
            timetable.until(Instant::now() + self.launch_within, &self.line);
        }
    }
}

/// The owner of a chunk's bytes.
struct Chunk {
    bytes: Bytes,
    departure: Departure,
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
