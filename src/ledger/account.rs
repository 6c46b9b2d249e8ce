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

use std::{cell::Cell, sync::Arc};

use crate::{
    ledger::{Ledger, finished::Completed, shard::ShardState},
    model::{RejectReason, SharedError, TaskName},
    util::rare::Rare,
};

/// The highest number of ends that are not flushed. Their buffer fits a small size class of common allocators.
const MAX_ENDED: usize = 8;

/// The highest number of adds that are not flushed.
const MAX_ADDED: u32 = 64;

#[derive(Default)]
pub(crate) struct SetAccount {
    added: u32,
    /// The number of adds that may be counted here, so that a high-water mark is noticed in time.
    max_added: u32,
    /// The adds and starts of one name: of all, in most sets.
    begun: Begun,
    /// Those of other names.
    others: Rare<Vec<Begun>>,
    /// The ends of tasks that completed. One word, because most sets have one task, whose end is counted at once.
    ended: Rare<Ended>,
}

type Ended = Vec<Completed>;

/// How many tasks of a name were added, and how many have started.
struct Begun {
    name: TaskName,
    added: u32,
    started: u32,
}

impl Default for Begun {
    fn default() -> Self {
        Self::none_of(TaskName::UNNAMED)
    }
}

impl Begun {
    const fn none_of(name: TaskName) -> Self {
        Self { name, added: 0, started: 0 }
    }

    const fn is_none(&self) -> bool {
        self.added == 0 && self.started == 0
    }
}

thread_local! {
    /// The buffer of the ends that this thread has flushed last. Most sets that drain on one thread need it one after
    /// another, and an allocation would cost them as much as the locks that an account saves.
    static BUFFER: Cell<Option<Box<Ended>>> = const { Cell::new(None) };
}

/// A buffer for the ends of a set.
#[inline(never)]
fn take_buffer() -> Box<Ended> {
    // On a thread that is ending, the thread-local is gone.
    let kept = BUFFER.try_with(Cell::take).ok().flatten();
    kept.unwrap_or_else(|| Box::new(Vec::with_capacity(MAX_ENDED)))
}

/// Keeps an empty buffer for the next set.
#[inline]
fn keep_buffer(buffer: Box<Ended>) {
    let _on_an_ending_thread = BUFFER.try_with(|kept| kept.set(Some(buffer)));
}

impl SetAccount {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.begun.is_none() && self.ended.is_none()
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
        name: TaskName,
        set: &Arc<S>,
        is_first: bool,
        is_listed: &mut bool,
    ) -> Result<bool, RejectReason> {
        ledger.reserve()?;
        if !is_first && self.added < self.max_added && !ledger.is_closed() {
            self.added += 1;
            self.begun(name).added += 1;
            return Ok(false);
        }
        let mut shard = ledger.shard(number);
        self.flush_begun(&mut shard);
        let admitted = shard.admit(name);
        let below_mark = shard.high_water.saturating_sub(shard.live() + 1);
        self.max_added = u32::try_from(below_mark).map_or(MAX_ADDED, |below_mark| below_mark.min(MAX_ADDED));
        if admitted.is_err() {
            ledger.release();
        } else if !*is_listed {
            shard.sets.insert(number, Arc::clone(set));
            *is_listed = true;
        }
        admitted
    }

    /// Counts a first start.
    #[inline]
    pub(crate) fn start(&mut self, name: TaskName) {
        self.begun(name).started += 1;
    }

    /// Counts the end of a task that completed.
    #[inline]
    pub(crate) fn complete(&mut self, completed: Completed) {
        self.ended.get_or_insert_with(take_buffer).push(completed);
    }

    /// Whether an end can be counted here, if `pending` tasks are behind it.
    #[inline]
    pub(crate) fn has_room(&self, pending: usize) -> bool {
        pending > 0 && self.ended.as_ref().is_none_or(|ended| ended.len() < MAX_ENDED)
    }

    /// Counts everything in the shard. Calls `evicted` with errors that must be dropped after the locks are released.
    #[inline]
    pub(crate) fn flush<S>(&mut self, shard: &mut ShardState<S>, evicted: impl FnMut(SharedError)) {
        if self.is_empty() {
            return;
        }
        self.flush_begun(shard);
        if let Some(ended) = self.ended.take() {
            Self::flush_ended(ended, shard, evicted);
        }
    }

    #[inline(never)]
    fn flush_ended<S>(mut ended: Box<Ended>, shard: &mut ShardState<S>, mut evicted: impl FnMut(SharedError)) {
        for completed in ended.drain(..) {
            if let Some(error) = shard.complete(&completed) {
                evicted(error);
            }
        }
        keep_buffer(ended);
    }

    #[inline]
    fn flush_begun<S>(&mut self, shard: &mut ShardState<S>) {
        if self.begun.is_none() {
            return;
        }
        let Begun { name, added, started } = self.begun;
        shard.count_begun(name, added, started);
        self.begun = Begun::none_of(name);
        self.added = 0;
        if let Some(others) = &mut *self.others {
            Self::flush_others(others, shard);
        }
    }

    #[inline(never)]
    fn flush_others<S>(others: &mut Vec<Begun>, shard: &mut ShardState<S>) {
        for Begun { name, added, started } in others.drain(..) {
            shard.count_begun(name, added, started);
        }
    }

    /// The adds and starts of a name.
    #[inline]
    fn begun(&mut self, name: TaskName) -> &mut Begun {
        if self.begun.is_none() {
            self.begun = Begun::none_of(name);
        }
        if self.begun.name.is_same(name) { &mut self.begun } else { self.begun_other(name) }
    }

    #[expect(clippy::indexing_slicing, reason = "the index of one that was found or pushed")]
    fn begun_other(&mut self, name: TaskName) -> &mut Begun {
        let others = self.others.get_or_insert_default();
        let index = others.iter().position(|other| other.name.is_same(name)).unwrap_or(others.len());
        if index == others.len() {
            others.push(Begun::none_of(name));
        }
        &mut others[index]
    }
}
