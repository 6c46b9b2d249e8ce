//! What has happened in a line and is not yet in the books: tasks that were added, have started, and have completed with
//! another behind them, are booked many at a time.
//!
//! # Invariants
//! 1. It is kept and booked under the line's lock, and a [`Transition`](crate::turn::Transition) books it first.
//! 2. Of a line with tasks the books know at least one that is live: what makes it the first, or the last, is booked at
//!    once. So nobody takes the registry for idle.
//! 3. The equation of the counters holds in the books all the same: an add that is not booked is missing on both sides, a
//!    start that is not booked counts as pending, and an end that is not booked still counts as live.

use std::sync::Arc;

use crate::{
    ledger::{finished::FinishedTask, shard::ShardState},
    model::BoxError,
};

/// How many ends wait at most: what fits the small pieces of memory that allocators keep at hand.
const ENDS: usize = 8;

/// How many adds wait at most.
const ADDS: u64 = 64;

#[derive(Default)]
pub(crate) struct SetAccount {
    added: u64,
    /// How many adds may wait, so that a crowd is noticed when it batched.
    room: u64,
    started: u64,
    /// Of tasks that completed.
    ended: Vec<FinishedTask>,
}

impl SetAccount {
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
    pub(crate) fn end(&mut self, ended: FinishedTask, queued: usize) {
        if self.ended.capacity() == 0 {
            self.ended.reserve_exact(queued.min(ENDS));
        }
        self.ended.push(ended);
    }
}

impl ShardState {
    /// ShardState the adds and the starts.
    pub(crate) const fn book_begun(&mut self, account: &mut SetAccount) {
        self.added += account.added;
        self.pending = self.pending + account.added - account.started;
        self.running += account.started;
        (account.added, account.started) = (0, 0);
    }

    /// Lets adds wait again, and no more than are missing to a crowd.
    pub(crate) fn make_room(&self, account: &mut SetAccount) {
        account.room = ADDS.min(self.warn_at.saturating_sub(self.live() + 1));
    }

    /// ShardState it all. What is forgotten goes to `forget`, to be dropped without the locks.
    pub(crate) fn book(&mut self, account: &mut SetAccount, mut forget: impl FnMut(Arc<BoxError>)) {
        self.book_begun(account);
        self.running -= account.ended.len() as u64;
        if account.ended.is_empty() {
            // As after each set of one: to drain nothing is not free.
            return;
        }
        for past in account.ended.drain(..) {
            if let Some(error) = self.remember(past) {
                forget(error);
            }
        }
    }
}
