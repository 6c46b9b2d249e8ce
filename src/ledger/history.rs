//! The last outcomes of one shard.

use std::mem;

use crate::{ledger::finished::FinishedTask, model::SharedError, util::panic::drop_catching};

/// How many outcomes, or entries, are read under one lock.
pub(crate) const PIECE: usize = 128;

/// The outcomes that one shard remembers: a ring, which takes room only as it fills.
///
/// Each shard has room for as many as the registry remembers, so that together they remember its last ones, whichever
/// shard they ended in.
#[derive(Default)]
pub(crate) struct History {
    room: usize,
    ring: Vec<FinishedTask>,
    /// Where the next one goes.
    next: usize,
    written: u64,
}

impl History {
    pub(crate) const fn new(room: usize) -> Self {
        Self { room, ring: Vec::new(), next: 0, written: 0 }
    }

    pub(crate) const fn room(&self) -> usize {
        self.room
    }

    /// Records a finished task and returns the evicted error. Drop it after releasing the lock: its `Drop` is user code.
    #[inline]
    pub(crate) fn push(&mut self, finished: FinishedTask) -> Option<SharedError> {
        if self.room == 0 {
            return finished.into_error();
        }
        let mut evicted = None;
        match self.ring.get_mut(self.next) {
            Some(slot) => evicted = mem::replace(slot, finished).into_error(),
            None => self.ring.push(finished),
        }
        self.next += 1;
        if self.next == self.room {
            self.next = 0;
        }
        self.written += 1;
        evicted
    }

    /// Some of what was written before `end`, the latest first, and where to go on. Short, for it is read under the
    /// lock.
    pub(crate) fn piece(&self, end: u64) -> (impl Iterator<Item = &FinishedTask>, Option<u64>) {
        let oldest = self.written - self.ring.len() as u64;
        let end = end.min(self.written).max(oldest);
        let begin = end.saturating_sub(PIECE as u64).max(oldest);
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
