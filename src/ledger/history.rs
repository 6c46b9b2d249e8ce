//! The history of one shard.

use crate::{ledger::finished::FinishedTask, model::SharedError, util::panic::drop_catching};

/// How many outcomes or entries are read under one lock.
pub(crate) const CHUNK: usize = 128;

/// The outcomes that one shard remembers: a ring buffer, which grows up to its capacity.
///
/// Each shard has the capacity of the whole registry's history, so that the last outcomes are remembered even if all of
/// them ended in one shard.
#[derive(Default)]
pub(crate) struct History {
    capacity: usize,
    ring: Vec<FinishedTask>,
    /// The index at which the next outcome is written.
    next: usize,
    written: u64,
}

impl History {
    pub(crate) const fn new(capacity: usize) -> Self {
        Self { capacity, ring: Vec::new(), next: 0, written: 0 }
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Records a finished task and returns the evicted error. Drop it after releasing the lock: its `Drop` is user
    /// code.
    #[inline(always)]
    pub(crate) fn push(&mut self, mut finished: FinishedTask) -> Option<SharedError> {
        if self.capacity == 0 {
            return finished.take_error();
        }
        let mut evicted = None;
        match self.ring.get_mut(self.next) {
            Some(slot) => {
                evicted = slot.take_error();
                *slot = finished;
            }
            None => self.ring.push(finished),
        }
        self.next += 1;
        if self.next == self.capacity {
            self.next = 0;
        }
        self.written += 1;
        evicted
    }

    /// Up to `CHUNK` outcomes that were written before `end`, the latest first, and the `end` of the next chunk. Chunks
    /// are short, because they are read under the lock.
    pub(crate) fn chunk(&self, end: u64) -> (impl Iterator<Item = &FinishedTask>, Option<u64>) {
        let oldest = self.written - self.ring.len() as u64;
        let end = end.min(self.written).max(oldest);
        let begin = end.saturating_sub(CHUNK as u64).max(oldest);
        let newest_first = (begin..end).rev().filter_map(move |number| {
            let back = usize::try_from(self.written - number).unwrap_or(usize::MAX);
            self.ring.get((self.next + self.ring.len()).checked_sub(back)? % self.ring.len())
        });
        (newest_first, (begin > oldest).then_some(begin))
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.ring.drain(..).for_each(drop_catching);
    }
}
