//! Live tasks and counts.

use std::{
    mem,
    panic::Location,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

use histogram::Histogram;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use tokio::{sync::Notify, time::Instant};

use crate::{registry::SHARDS, set::Set};

/// The longest duration that the histograms tell apart: 2^46 ns, as in postlude.
const LONGEST: u64 = (1 << 46) - 1;
/// Tasks for which a map keeps room when it is empty.
const ROOM: usize = 1024;
/// Ends that a shard remembers.
const REMEMBERED: usize = 1024;

/// A part of the state; a task stays in one. Two shards share no cache line.
#[repr(align(128))]
pub(crate) struct Shard {
    state: Mutex<ShardState>,
    /// Changed under the lock.
    is_open: AtomicBool,
    idle: Arc<Notify>,
}

pub(crate) struct ShardState {
    /// The last number given. In steps of the number of shards, so that a number tells its shard.
    last: u64,
    tasks: FxHashMap<u64, Live>,
    sets: FxHashMap<u64, Arc<Set>>,
    /// Of `tasks`; the others are pending.
    running: u64,
    names: Vec<Figures>,
    /// Where `names` has a name.
    indexes: FxHashMap<&'static str, usize>,
    /// The name that was counted last.
    last_name: usize,
    /// The last ends, a ring.
    ends: Vec<End>,
    next_end: usize,
    pub(crate) is_awaited: bool,
}

/// What is counted of the tasks of one name.
struct Figures {
    name: &'static str,
    counts: Counts,
    waited: Histogram,
    ran: Histogram,
    /// The sum of `ran`, for an average.
    total: u64,
}

/// What tells a task from another.
#[derive(Clone, Copy)]
pub(crate) struct Label {
    pub(crate) name: &'static str,
    pub(crate) location: &'static Location<'static>,
}

/// How a task has ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The number of the task, or of its set.
    pub number: u64,
    /// The index in its set, from 1; 0 for a spawned task.
    pub index: u64,
    /// The name of the task.
    pub name: &'static str,
    /// Where it was added.
    pub location: &'static Location<'static>,
    /// When it was added.
    pub added: Instant,
    /// When it started, if it has.
    pub started: Option<Instant>,
    /// When it ended.
    pub ended: Instant,
    /// How it ended.
    pub outcome: Outcome,
}

/// A spawned task.
pub(crate) struct Live {
    label: Label,
    added: Instant,
    started: Option<Instant>,
    /// Present once the task had to wait.
    waker: Option<Waker>,
}

/// How a task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Ran to its end.
    Completed,
    /// Panicked.
    Panicked,
    /// Was aborted, or dropped by the runtime.
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
        let state = ShardState {
            last: index,
            tasks: FxHashMap::default(),
            sets: FxHashMap::default(),
            running: 0,
            names: Vec::new(),
            indexes: FxHashMap::default(),
            last_name: 0,
            ends: Vec::new(),
            next_end: 0,
            is_awaited: false,
        };
        Self { state: Mutex::new(state), is_open: AtomicBool::new(true), idle }
    }

    /// Whether tasks are accepted.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Accepts no more tasks.
    pub(crate) fn close(&self) {
        let _state = self.state.lock();
        self.is_open.store(false, Ordering::Release);
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, ShardState> {
        self.state.lock()
    }

    /// `None` if it is closed.
    #[inline]
    pub(crate) fn add(&self, label: Label, added: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        self.is_open().then_some(())?;
        let number = state.number();
        state.tasks.insert(number, Live { label, added, started: None, waker: None });
        Some(number)
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
        state.running -= u64::from(task.started.is_some());
        let (Live { added, started, .. }, Label { name, location }) = (&task, task.label);
        let (added, started) = (*added, *started);
        state.end(End { number, index: 0, name, location, added, started, ended: now, outcome });
        self.unlock_and_notify(state);
        Some(task)
    }

    /// `None` if it is closed.
    #[inline]
    pub(crate) fn insert_set(&self, set: &Arc<Set>) -> Option<u64> {
        let mut state = self.state.lock();
        self.is_open().then_some(())?;
        let number = state.number();
        state.sets.insert(number, Arc::clone(set));
        Some(number)
    }

    /// Removes a set that has drained, and counts the ends of its tasks that are not counted yet. The caller drops it
    /// without its lock.
    #[inline]
    pub(crate) fn end_set(&self, number: u64, ends: &mut Vec<End>) -> Option<Arc<Set>> {
        let mut state = self.state.lock();
        let removed = state.sets.remove(&number);
        ends.drain(..).for_each(|end| state.end(end));
        self.unlock_and_notify(state);
        removed
    }

    /// Counts ends of a listed set.
    #[inline]
    pub(crate) fn count(&self, ends: &mut Vec<End>) {
        let mut state = self.state.lock();
        ends.drain(..).for_each(|end| state.end(end));
    }

    pub(crate) fn set(&self, number: u64) -> Option<Arc<Set>> {
        self.state.lock().sets.get(&number).map(Arc::clone)
    }

    pub(crate) fn sets(&self) -> Vec<Arc<Set>> {
        self.state.lock().sets.values().map(Arc::clone).collect()
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

    /// The counts of the tasks of a name, or of all.
    pub(crate) fn counts(&self, name: Option<&str>) -> Counts {
        let state = self.state.lock();
        let of_name = state.names.iter().filter(|figures| name.is_none_or(|name| figures.name == name));
        of_name.fold(Counts::default(), |sum, figures| sum.plus(figures.counts))
    }

    /// The ends that are remembered, in no order.
    pub(crate) fn ends(&self) -> Vec<End> {
        self.state.lock().ends.clone()
    }
}

impl ShardState {
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.sets.is_empty()
    }

    /// Counts and remembers an end.
    #[inline]
    pub(crate) fn end(&mut self, end: End) {
        let figures = self.figures(end.name);
        figures.counts.count(end.outcome);
        if let Some(started) = end.started {
            let (waited, ran) = (nanoseconds(started - end.added), nanoseconds(end.ended - started));
            figures.total += ran;
            figures.waited.increment(waited).unwrap();
            figures.ran.increment(ran).unwrap();
        }
        match self.ends.get_mut(self.next_end) {
            Some(slot) => *slot = end,
            None => self.ends.push(end),
        }
        self.next_end = (self.next_end + 1) % REMEMBERED;
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "an index is given with its name")]
    fn figures(&mut self, name: &'static str) -> &mut Figures {
        if !self.names.get(self.last_name).is_some_and(|figures| ptr::eq(figures.name, name)) {
            self.find_name(name);
        }
        &mut self.names[self.last_name]
    }

    #[cold]
    fn find_name(&mut self, name: &'static str) {
        self.last_name = *self.indexes.entry(name).or_insert(self.names.len());
        if self.last_name == self.names.len() {
            let histogram = Histogram::new(4, 46).unwrap();
            let waited = histogram.clone();
            self.names.push(Figures { name, counts: Counts::default(), waited, ran: histogram, total: 0 });
        }
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
    pub(crate) const fn count(&mut self, outcome: Outcome) {
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
