//! The account of a set: adds, starts and ends that are not counted in its shard yet.
//!
//! Most adds, starts and ends of a set do not lock the shard. They are counted here, and flushed when the shard is
//! locked for another reason, or read.
//!
//! # Invariants
//! 1. An account is changed and flushed under its queue's lock, and a transition flushes it first.
//! 2. If a set has live tasks, its shard counts at least one of them as live, because the first add and the last end
//!    are counted in the shard at once. So the registry never appears idle while a task is live.
//! 3. The equation of the counters always holds in the shard: an add that is not flushed is missing on both sides, a
//!    task whose start is not flushed counts as pending, and a task whose end is not flushed counts as live.

use std::sync::Arc;

use crate::{
    ledger::{Ledger, finished::FinishedTask, shard::ShardState},
    model::{RejectReason, SharedError},
};

/// The highest number of ends that are not flushed. Their buffer fits a small size class of common allocators.
const MAX_ENDED: usize = 8;

/// The highest number of adds that are not flushed.
const MAX_ADDED: u64 = 64;

#[derive(Default)]
pub(crate) struct SetAccount {
    added: u64,
    /// The number of adds that may be counted here, so that a high-water mark is noticed in time.
    max_added: u64,
    started: u64,
    /// The ends of tasks that completed.
    ended: Vec<FinishedTask>,
}

impl SetAccount {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.added == 0 && self.started == 0 && self.ended.is_empty()
    }

    /// Counts one more task of a set, and lists the set if it is not listed. `is_first`: no other task of the set is
    /// live. Returns `Ok(true)` if the shard has reached its high-water mark.
    ///
    /// # Errors
    /// If the registry is at its capacity or closed.
    #[inline]
    pub(crate) fn admit<S>(
        &mut self,
        ledger: &Ledger<S>,
        number: u64,
        set: &Arc<S>,
        is_first: bool,
        is_listed: &mut bool,
    ) -> Result<bool, RejectReason> {
        ledger.reserve()?;
        if !is_first && self.added < self.max_added && !ledger.is_closed() {
            self.added += 1;
            return Ok(false);
        }
        let mut shard = ledger.shard(number);
        self.flush_begun(&mut shard);
        let admitted = shard.admit();
        self.max_added = MAX_ADDED.min(shard.high_water.saturating_sub(shard.live() + 1));
        if admitted.is_err() {
            ledger.release();
        } else if !*is_listed {
            shard.insert_set(number, Arc::clone(set));
            *is_listed = true;
        }
        admitted
    }

    /// Counts a first start.
    #[inline]
    pub(crate) const fn start(&mut self) {
        self.started += 1;
    }

    /// Counts the end of a task that completed. `pending` is the number of tasks behind it.
    #[inline]
    pub(crate) fn finish(&mut self, finished: FinishedTask, pending: usize) {
        if self.ended.capacity() == 0 {
            self.ended.reserve_exact(pending.min(MAX_ENDED));
        }
        self.ended.push(finished);
    }

    /// Whether an end can be counted here, if `pending` tasks are behind it.
    #[inline]
    pub(crate) fn has_room(&self, pending: usize) -> bool {
        pending > 0 && self.ended.len() < MAX_ENDED
    }

    /// Counts everything in the shard. Calls `evicted` with errors that must be dropped after the locks are released.
    #[inline]
    pub(crate) fn flush<S>(&mut self, shard: &mut ShardState<S>, mut evicted: impl FnMut(SharedError)) {
        if self.is_empty() {
            return;
        }
        self.flush_begun(shard);
        shard.running -= self.ended.len() as u64;
        if self.ended.is_empty() {
            // The common case of a set with one task: an empty `drain` is not free.
            return;
        }
        for finished in self.ended.drain(..) {
            if let Some(error) = shard.remember(finished) {
                evicted(error);
            }
        }
    }

    #[inline]
    const fn flush_begun<S>(&mut self, shard: &mut ShardState<S>) {
        shard.added += self.added;
        shard.pending = shard.pending + self.added - self.started;
        shard.running += self.started;
        (self.added, self.started) = (0, 0);
    }
}
