//! The ledger: live tasks, counters and history.
//!
//! The ledger is split into shards, each with a lock of its own. A set or a spawned task belongs to one shard, which
//! never changes, and is counted there. So the counters of each shard are consistent whenever its lock is free.
//!
//! # Invariants
//! 1. In each shard: added = pending + running + the sum of the outcomes.
//! 2. A set with live tasks is listed. The ledger's reference keeps it alive.
//! 3. Once a shard is closed, nothing is admitted to it.
//! 4. Lock order: first a queue's lock, then a shard's lock, then the lock of the abandoned work. No foreign code (a
//!    future, its drop, a hook, a subscriber, a waker that is not tokio's) runs under any of them.

pub(crate) mod account;
pub(crate) mod dead_letters;
pub(crate) mod entries;
pub(crate) mod finished;
pub(crate) mod history;
pub(crate) mod live;
pub(crate) mod losses;
pub(crate) mod metrics;
pub(crate) mod oldest;
pub(crate) mod shard;

use std::{collections::BTreeMap, pin::pin, sync::Arc, thread};

use tokio::sync::Notify;

use self::{
    finished::FinishedTask,
    history::{CHUNK, History},
    live::LiveTask,
    metrics::{NameMetrics, TaskMetrics},
    shard::ShardState,
};
use crate::{
    model::{RejectReason, SEATS, TaskId, TaskName},
    util::loom::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

/// For how many names the lock of a shard is held at a time, when the counters are read.
const NAMES_PER_LOOK: usize = 64;

/// How many spawned tasks are looked at for the ages of the oldest ones, in all shards together.
const FIRST_SPAWNED: usize = 65_536;

/// The same of one shard, at least.
const LEAST_OF_SHARD: usize = 4_096;

/// The number of live tasks at which the first warning is logged.
const FIRST_WARNING: u64 = 10_000;

/// The live tasks and the counters of a registry, whose sets are of type `S`.
pub(crate) struct Ledger<S> {
    shards: Box<[Shard<S>]>,
    /// The highest number of live tasks; `None` without a limit.
    capacity: Option<u64>,
    /// The number of live tasks. One number for all shards, because the capacity needs it; unused without a capacity.
    live: AtomicU64,
    warn_at: AtomicU64,
    closed: AtomicBool,
    runtime_ended: AtomicBool,
    idle: Notify,
    waiters: AtomicUsize,
}

/// Aligned so that two shards never share a cache line, nor a pair of lines that the processor prefetches together.
#[repr(align(128))]
struct Shard<S> {
    state: Mutex<ShardState<S>>,
}

impl<S> Ledger<S> {
    pub(crate) fn new(capacity: Option<u64>, history: usize) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let count = (2 * cores).next_power_of_two().min(SEATS);
        let high_water = FIRST_WARNING / count as u64;
        let shard = |_| {
            let state = ShardState::new(high_water, History::new(history));
            Shard { state: Mutex::new(state) }
        };
        Self {
            shards: (0..count).map(shard).collect(),
            capacity,
            live: AtomicU64::new(0),
            warn_at: AtomicU64::new(FIRST_WARNING),
            closed: AtomicBool::new(false),
            runtime_ended: AtomicBool::new(false),
            idle: Notify::new(),
            waiters: AtomicUsize::new(0),
        }
    }

    /// Locks the shard of a set or spawned task.
    #[expect(clippy::indexing_slicing, reason = "masked by the number of shards, a power of two")]
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits matter")]
    #[inline]
    pub(crate) fn shard(&self, number: u64) -> MutexGuard<'_, ShardState<S>> {
        self.shards[number as usize & (self.shards.len() - 1)].state.lock()
    }

    /// Takes a slot within the capacity. [`release`](Self::release) frees it.
    #[inline]
    pub(crate) fn reserve(&self) -> Result<(), RejectReason> {
        let Some(capacity) = self.capacity else {
            return Ok(());
        };
        // Relaxed: the number protects no other data.
        self.live
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |live| (live < capacity).then_some(live + 1))
            .map(drop)
            .map_err(|_full| RejectReason::Capacity)
    }

    #[inline]
    pub(crate) fn release(&self) {
        if self.capacity.is_some() {
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether no slot is free.
    pub(crate) fn is_full(&self) -> bool {
        // Relaxed: as in `reserve`.
        self.capacity.is_some_and(|capacity| self.live.load(Ordering::Relaxed) >= capacity)
    }

    /// The highest number of live tasks; `None` without a limit.
    pub(crate) const fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    /// The number of free slots; `usize::MAX` without a capacity.
    pub(crate) fn free_slots(&self) -> usize {
        // Relaxed: as in `reserve`.
        let free = |capacity: u64| capacity.saturating_sub(self.live.load(Ordering::Relaxed));
        self.capacity.map_or(usize::MAX, |capacity| usize::try_from(free(capacity)).unwrap_or(usize::MAX))
    }

    #[cfg(feature = "http")]
    pub(crate) const fn has_capacity(&self) -> bool {
        self.capacity.is_some()
    }

    /// Notes that the log and the observers were notified of an end. Returns whether the shard is idle now.
    pub(crate) fn reported(&self, number: u64) -> bool {
        let mut shard = self.shard(number);
        shard.unreported -= 1;
        shard.is_idle()
    }

    /// Whether a task waits for idleness. Called after an end that has left its shard idle.
    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        // Pairs with the increment in `wait_idle`: either the increment happened before the end took the shard's lock,
        // and is seen here, or `wait_idle` locked the shard after the end, and saw the end.
        self.waiters.load(Ordering::SeqCst) > 0
    }

    /// Wakes the tasks that wait for idleness. Never call this under a lock, because it runs their wakers.
    pub(crate) fn wake_waiters(&self) {
        self.idle.notify_waiters();
    }

    /// The number of live tasks, if it has passed a high-water mark. Called without a lock, when a shard has reached
    /// its own [high-water mark](ShardState::admit).
    pub(crate) fn passed_high_water(&self, number: u64) -> Option<u64> {
        let live = self.live();
        let mark = self.warn_at.load(Ordering::Relaxed);
        let next = if live >= mark { mark.saturating_mul(2) } else { mark };
        // Each shard checks again when it has grown by its share of the difference, so that all shards together can't
        // pass the mark unnoticed.
        let share = next.saturating_sub(live) / self.shards.len() as u64;
        let mut shard = self.shard(number);
        shard.high_water = shard.live() + share.max(1);
        drop(shard);
        // If several threads pass the mark at once, the one that moves it warns.
        let moved =
            live >= mark && self.warn_at.compare_exchange(mark, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        moved.then_some(live)
    }

    /// The listed set with this number.
    pub(crate) fn set(&self, number: u64) -> Option<Arc<S>> {
        self.shard(number).sets.get(number).map(Arc::clone)
    }

    /// Calls `task` for each spawned task, under a lock, and returns the listed sets.
    pub(crate) fn survey(&self, mut task: impl FnMut(&LiveTask)) -> Vec<Arc<S>> {
        let mut sets = Vec::new();
        let mut walk = Walk::default();
        while self.step(&mut walk, &mut task, &mut sets) > 0 {}
        sets
    }

    /// Goes on with a walk over everything that is listed: calls `task` for a few spawned tasks, under a lock, and adds
    /// a few sets to `sets`. Returns how many it has looked at; none at the end. What is listed or ends meanwhile may
    /// be left out.
    pub(crate) fn step(&self, walk: &mut Walk, task: impl FnMut(&LiveTask), sets: &mut Vec<Arc<S>>) -> usize {
        while walk.numbers.is_empty() {
            let Some(shard) = self.shards.get(walk.next_shard) else {
                return 0;
            };
            walk.numbers = shard.numbers_from(0, usize::MAX);
            walk.next_shard += 1;
        }
        let few = walk.numbers.split_off(walk.numbers.len().saturating_sub(CHUNK));
        if let Some(shard) = walk.next_shard.checked_sub(1).and_then(|current| self.shards.get(current)) {
            shard.look_at(&few, task, sets);
        }
        few.len()
    }

    /// Calls `task` for the listed spawned tasks that were added first, under a lock that is held for a few of them at
    /// a time: for `FIRST_SPAWNED` of all shards together, and some more if the shards are many.
    pub(crate) fn look_at_first_spawned(&self, mut task: impl FnMut(&LiveTask)) {
        let count = (FIRST_SPAWNED / self.shards.len()).max(LEAST_OF_SHARD);
        for shard in &self.shards {
            let mut numbers = shard.read_numbers(ShardState::spawned_numbers, 0, count);
            if numbers.len() > count {
                numbers.select_nth_unstable(count);
                numbers.truncate(count);
            }
            for few in numbers.chunks(CHUNK) {
                shard.look_at(few, &mut task, &mut Vec::new());
            }
        }
    }

    /// The listed sets.
    pub(crate) fn sets(&self) -> Vec<Arc<S>> {
        let mut sets = Vec::new();
        for shard in &self.shards {
            for few in shard.read_numbers(ShardState::set_numbers, 0, usize::MAX).chunks(CHUNK) {
                shard.look_at(few, |_| (), &mut sets);
            }
        }
        sets
    }

    /// The same in pieces, of those shards in which a task is pending: each piece is looked at when it is asked for.
    pub(crate) fn survey_pending<T>(
        &self,
        mut task: impl FnMut(&LiveTask) -> Option<T>,
    ) -> impl Iterator<Item = (Vec<T>, Vec<Arc<S>>)> {
        let has_pending = |shard: &&Shard<S>| shard.state.lock().pending > 0;
        let pieces = self.shards.iter().filter(has_pending).flat_map(|shard| {
            let numbers = shard.numbers_from(0, usize::MAX);
            (0..numbers.len()).step_by(CHUNK).map(move |begin| {
                let few = numbers.iter().skip(begin).take(CHUNK).copied().collect::<Vec<_>>();
                (shard, few)
            })
        });
        pieces.map(move |(shard, few)| {
            let (mut found, mut sets) = (Vec::new(), Vec::new());
            shard.look_at(&few, |live| found.extend(task(live)), &mut sets);
            (found, sets)
        })
    }

    /// Some of the listed sets: all of them, if no more than `count` sets and spawned tasks are live in each shard.
    pub(crate) fn some_sets(&self, count: usize) -> Vec<Arc<S>> {
        let mut sets = Vec::new();
        for shard in &self.shards {
            let state = shard.state.lock();
            sets.extend(state.sets.values().take(count).map(Arc::clone));
        }
        sets
    }

    /// The lowest numbers of listed sets and spawned tasks from `first` on, in order, at most `count` of them.
    pub(crate) fn numbers_from(&self, first: u64, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        for shard in &self.shards {
            numbers.extend(shard.numbers_from(first, count));
        }
        if numbers.len() > count {
            numbers.select_nth_unstable(count);
            numbers.truncate(count);
        }
        numbers.sort_unstable();
        numbers
    }

    /// The capacity of the history.
    pub(crate) fn history_capacity(&self) -> usize {
        self.shards.first().map_or(0, |shard| shard.state.lock().history.capacity())
    }

    /// The remembered outcomes, in no order. The lock is held for `CHUNK` of them at a time.
    pub(crate) fn history(&self) -> Vec<FinishedTask> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut end = Some(u64::MAX);
            while let Some(before) = end {
                all.reserve(CHUNK);
                let state = shard.state.lock();
                let (chunk, next) = state.history.chunk(before);
                all.extend(chunk.cloned());
                end = next;
            }
        }
        all
    }

    /// Calls `look` for the latest outcomes that are remembered of each shard, up to `count` of each, under a lock that
    /// is held for a few at a time.
    pub(crate) fn look_at_latest(&self, count: usize, mut look: impl FnMut(&FinishedTask)) {
        for shard in &self.shards {
            let mut end = Some(u64::MAX);
            for _ in 0..count.div_ceil(CHUNK) {
                let Some(before) = end else { break };
                let state = shard.state.lock();
                let (chunk, next) = state.history.chunk(before);
                chunk.for_each(&mut look);
                end = next;
            }
        }
    }

    /// The record of a task that has ended, if it is remembered. The lock is held for `CHUNK` records at a time.
    pub(crate) fn finished(&self, id: TaskId) -> Option<FinishedTask> {
        let mut end = Some(u64::MAX);
        while let Some(before) = end {
            let shard = self.shard(id.number);
            let (mut chunk, next) = shard.history.chunk(before);
            if let Some(finished) = chunk.find(|finished| finished.identity.id == id) {
                return Some(finished.clone());
            }
            end = next;
        }
        None
    }

    /// The number of live tasks. Exact only if no task is added or ends meanwhile.
    pub(crate) fn live(&self) -> u64 {
        self.shards.iter().map(|shard| shard.state.lock().live()).sum()
    }

    /// Adds the counters of all shards to `metrics`. The lock is held for a few names at a time.
    pub(crate) fn sum(&self, metrics: &mut TaskMetrics) {
        let mut names: BTreeMap<TaskName, NameMetrics> = BTreeMap::new();
        for shard in &self.shards {
            for first in (0..).step_by(NAMES_PER_LOOK) {
                let state = shard.state.lock();
                if first == 0 {
                    metrics.absorb(state.added, state.pending, state.running, &state.outcomes);
                }
                let few = state.names.chunk(first, NAMES_PER_LOOK);
                for (name, counters) in few {
                    names.entry(*name).or_default().absorb(counters);
                }
                if few.len() < NAMES_PER_LOOK {
                    break;
                }
            }
        }
        metrics.take_names(names);
    }

    pub(crate) fn close(&self) {
        // Release, here and below: pairs with the acquire in `is_closed`.
        self.closed.store(true, Ordering::Release);
        for shard in &self.shards {
            shard.state.lock().closed.get_or_insert(RejectReason::Closed);
        }
    }

    /// Closes because the runtime has ended, also if a shutdown has closed before.
    pub(crate) fn close_with_runtime(&self) {
        // Release: pairs with the acquire in `has_runtime_ended`.
        self.runtime_ended.store(true, Ordering::Release);
        self.closed.store(true, Ordering::Release);
        for shard in &self.shards {
            shard.state.lock().closed = Some(RejectReason::RuntimeEnded);
        }
    }

    pub(crate) fn has_runtime_ended(&self) -> bool {
        self.runtime_ended.load(Ordering::Acquire)
    }

    /// Whether nothing is admitted any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Closes the ledger if no task is live. All shards are locked, so that no task is added in between.
    pub(crate) fn close_if_idle(&self) -> bool {
        let mut all: Vec<_> = self.shards.iter().map(|shard| shard.state.lock()).collect();
        let idle = all.iter().all(|shard| shard.is_idle());
        if idle {
            self.closed.store(true, Ordering::Release);
            for shard in &mut all {
                shard.closed.get_or_insert(RejectReason::Closed);
            }
        }
        idle
    }

    pub(crate) fn is_idle(&self) -> bool {
        // All shards are locked at once. Otherwise a task that ends in one shard could have added another one to a
        // shard that was already checked.
        let all: Vec<_> = self.shards.iter().map(|shard| shard.state.lock()).collect();
        all.iter().all(|shard| shard.is_idle())
    }

    /// Waits until no task is live and every end was reported.
    pub(crate) async fn wait_idle(&self) {
        struct Waiting<'a>(&'a AtomicUsize);

        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }

        self.waiters.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiters);
        loop {
            let mut idle = pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.is_idle() {
                return;
            }
            idle.await;
        }
    }
}

/// Adds some of the numbers of a kind of entries from a number on, and returns the number to go on from.
type ReadNumbers<S> = fn(&ShardState<S>, u64, &mut Vec<u64>) -> Option<u64>;

/// How far a walk over everything that is listed has come.
#[derive(Default)]
pub(crate) struct Walk {
    next_shard: usize,
    /// What is left of the shard before that.
    numbers: Vec<u64>,
}

impl<S> Shard<S> {
    /// The numbers of the listed sets and spawned tasks from `first` on: the first `count` of each, and some more. The
    /// lock is held for a part of them at a time.
    fn numbers_from(&self, first: u64, count: usize) -> Vec<u64> {
        let mut numbers = self.read_numbers(ShardState::set_numbers, first, count);
        numbers.extend(self.read_numbers(ShardState::spawned_numbers, first, count));
        numbers
    }

    /// The same for one of the two kinds.
    fn read_numbers(&self, read: ReadNumbers<S>, first: u64, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut from = Some(first);
        while let Some(first) = from.filter(|_| numbers.len() < count) {
            // Room for a common part is made without the lock.
            numbers.reserve(CHUNK);
            from = read(&self.state.lock(), first, &mut numbers);
        }
        numbers
    }

    /// Calls `task` for the spawned tasks of a few numbers, under the lock, and adds the sets among them.
    fn look_at(&self, few: &[u64], mut task: impl FnMut(&LiveTask), sets: &mut Vec<Arc<S>>) {
        sets.reserve(few.len());
        let state = self.state.lock();
        for number in few {
            match state.spawned.get(*number) {
                Some(live) => task(live),
                None => sets.extend(state.sets.get(*number).map(Arc::clone)),
            }
        }
    }
}
