//! Live tasks and counts.

use std::{mem, sync::Arc, task::Waker, time::Duration};

use histogram::Histogram;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use tokio::{sync::Notify, time::Instant};

use crate::{registry::SHARDS, set::Set};

/// The longest duration that the histograms tell apart: 2^46 ns, as in postlude.
const LONGEST: u64 = (1 << 46) - 1;
/// Tasks for which a map keeps room when it is empty.
const ROOM: usize = 1024;

/// A part of the state; a task stays in one. Two shards share no cache line.
#[repr(align(128))]
pub(crate) struct Shard {
    state: Mutex<ShardState>,
    idle: Arc<Notify>,
}

pub(crate) struct ShardState {
    /// The last number given. In steps of the number of shards, so that a number tells its shard.
    last: u64,
    tasks: FxHashMap<u64, Live>,
    sets: FxHashMap<u64, Arc<Set>>,
    /// Of `tasks`; the others are pending.
    running: u64,
    counts: Counts,
    waited: Histogram,
    ran: Histogram,
    /// The sum of `ran`, for an average.
    total: u64,
    pub(crate) is_awaited: bool,
}

/// A spawned task.
pub(crate) struct Live {
    added: Instant,
    started: Option<Instant>,
    /// Present once the task had to wait.
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Completed,
    Panicked,
    Aborted,
}

/// How tasks have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ran to their end.
    pub completed: u64,
    /// Panicked.
    pub panicked: u64,
    /// Were aborted, or dropped by the runtime.
    pub aborted: u64,
}

impl Shard {
    pub(crate) fn new(index: u64, idle: Arc<Notify>) -> Self {
        let histogram = Histogram::new(4, 46).unwrap();
        let state = ShardState {
            last: index,
            tasks: FxHashMap::default(),
            sets: FxHashMap::default(),
            running: 0,
            counts: Counts::default(),
            waited: histogram.clone(),
            ran: histogram,
            total: 0,
            is_awaited: false,
        };
        Self { state: Mutex::new(state), idle }
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, ShardState> {
        self.state.lock()
    }

    #[inline]
    pub(crate) fn add(&self, added: Instant) -> u64 {
        let mut state = self.state.lock();
        let number = state.number();
        state.tasks.insert(number, Live { added, started: None, waker: None });
        number
    }

    /// `false` if it was aborted before.
    #[inline]
    pub(crate) fn start(&self, number: u64) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(task) = state.tasks.get_mut(&number) else {
            return false;
        };
        task.started = Some(now);
        state.running += 1;
        true
    }

    #[inline]
    pub(crate) fn is_live(&self, number: u64) -> bool {
        self.state.lock().tasks.contains_key(&number)
    }

    /// Keeps the waker of a task that waits. `false` if the task was aborted meanwhile.
    #[inline]
    pub(crate) fn insert_waker(&self, number: u64, waker: &Waker) -> bool {
        self.state.lock().tasks.get_mut(&number).map(|task| task.waker.get_or_insert_with(|| waker.clone())).is_some()
    }

    /// Counts the end of a task; `None` if it had ended.
    #[inline]
    pub(crate) fn end(&self, number: u64, outcome: Outcome) -> Option<Live> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let task = state.tasks.remove(&number)?;
        if state.tasks.is_empty() && state.tasks.capacity() > ROOM {
            state.tasks = FxHashMap::default();
        }
        if let Some(started) = task.started {
            state.running -= 1;
            state.time(started - task.added, now - started);
        }
        state.counts.count(outcome);
        self.unlock_and_notify(state);
        Some(task)
    }

    #[inline]
    pub(crate) fn insert_set(&self, set: Arc<Set>) -> u64 {
        let mut state = self.state.lock();
        let number = state.number();
        state.sets.insert(number, set);
        number
    }

    /// Removes a set, and counts the ends of its tasks.
    #[inline]
    pub(crate) fn end_set(&self, number: u64, count: impl FnOnce(&mut ShardState)) {
        let mut state = self.state.lock();
        let removed = state.sets.remove(&number);
        count(&mut state);
        self.unlock_and_notify(state);
        drop(removed);
    }

    /// Unlocks, and notifies if this was the last end and somebody waits for it.
    #[inline]
    fn unlock_and_notify(&self, mut state: MutexGuard<'_, ShardState>) {
        let was_awaited = state.is_idle() && mem::take(&mut state.is_awaited);
        drop(state);
        if was_awaited {
            self.idle.notify_waiters();
        }
    }

    pub(crate) fn list(&self, now: Instant) -> Vec<(u64, Duration, Option<Duration>)> {
        let state = self.state.lock();
        let tasks = state.tasks.iter();
        tasks.map(|(number, task)| (*number, now - task.added, task.started.map(|started| now - started))).collect()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().counts
    }
}

impl ShardState {
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.sets.is_empty()
    }

    /// Counts the end of a set's task.
    #[inline]
    pub(crate) fn count(&mut self, outcome: Outcome, waited: Duration, ran: Duration) {
        self.counts.count(outcome);
        self.time(waited, ran);
    }

    #[inline]
    fn time(&mut self, waited: Duration, ran: Duration) {
        let (waited, ran) = (nanoseconds(waited), nanoseconds(ran));
        self.total += ran;
        self.waited.increment(waited).unwrap();
        self.ran.increment(ran).unwrap();
    }

    #[inline]
    const fn number(&mut self) -> u64 {
        self.last += SHARDS as u64;
        self.last
    }
}

impl Live {
    #[inline]
    pub(crate) fn wake(self) {
        if let Some(waker) = self.waker {
            waker.wake();
        }
    }
}

impl Counts {
    #[inline]
    const fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Completed => &mut self.completed,
            Outcome::Panicked => &mut self.panicked,
            Outcome::Aborted => &mut self.aborted,
        } += 1;
    }

    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            completed: self.completed + other.completed,
            panicked: self.panicked + other.panicked,
            aborted: self.aborted + other.aborted,
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    (duration.as_secs() * 1_000_000_000 + u64::from(duration.subsec_nanos())).min(LONGEST)
}
