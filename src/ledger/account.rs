//! What has happened in a line and is not yet in the books: tasks that were added, have started, and have completed with
//! another behind them, are booked many at a time.
//!
//! # Invariants
//! 1. It is kept and booked under the line's lock, and a [`Turn`](crate::turn::Turn) books it first.
//! 2. Of a line with tasks the books know at least one that is live: what makes it the first, or the last, is booked at
//!    once. So nobody takes the registry for idle.
//! 3. The equation of the counters holds in the books all the same: an add that is not booked is missing on both sides, a
//!    start that is not booked counts as pending, and an end that is not booked still counts as live.

use std::sync::Arc;

use crate::{
    ledger::{finished::Past, shard::Books},
    model::BoxError,
};

/// How many ends wait at most: what fits the small pieces of memory that allocators keep at hand.
const ENDS: usize = 8;

/// How many adds wait at most.
const ADDS: u64 = 64;

#[derive(Default)]
pub(crate) struct Unbooked {
    added: u64,
    /// How many adds may wait, so that a crowd is noticed when it gathers.
    room: u64,
    started: u64,
    /// Of tasks that completed.
    ended: Vec<Past>,
}

impl Unbooked {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.added == 0 && self.started == 0 && self.ended.is_empty()
    }

    /// Notes an add; `false` if it has to be booked.
    #[inline]
    pub(crate) const fn add(&mut self) -> bool {
        if self.added >= self.room {
            return false;
        }
        self.added += 1;
        true
    }

    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.ended.len() < ENDS
    }

    /// Notes a start.
    #[inline]
    pub(crate) const fn start(&mut self) {
        self.started += 1;
    }

    /// Notes that a task has completed. As many as are queued may follow.
    #[inline]
    pub(crate) fn end(&mut self, ended: Past, queued: usize) {
        if self.ended.capacity() == 0 {
            self.ended.reserve_exact(queued.min(ENDS));
        }
        self.ended.push(ended);
    }
}

impl Books {
    /// Books the adds and the starts.
    pub(crate) const fn book_begun(&mut self, unbooked: &mut Unbooked) {
        self.added += unbooked.added;
        self.pending = self.pending + unbooked.added - unbooked.started;
        self.running += unbooked.started;
        (unbooked.added, unbooked.started) = (0, 0);
    }

    /// Lets adds wait again, and no more than are missing to a crowd.
    pub(crate) fn make_room(&self, unbooked: &mut Unbooked) {
        unbooked.room = ADDS.min(self.warn_at.saturating_sub(self.live() + 1));
    }

    /// Books it all. What is forgotten goes to `forget`, to be dropped without the locks.
    pub(crate) fn book(&mut self, unbooked: &mut Unbooked, mut forget: impl FnMut(Arc<BoxError>)) {
        self.book_begun(unbooked);
        self.running -= unbooked.ended.len() as u64;
        if unbooked.ended.is_empty() {
            // As after each set of one: to drain nothing is not free.
            return;
        }
        for past in unbooked.ended.drain(..) {
            if let Some(error) = self.remember(past) {
                forget(error);
            }
        }
    }
}
