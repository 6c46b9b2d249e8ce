//! What is live, and what has been counted.

use std::{mem, sync::Arc, task::Waker, time::Duration};

use histogram::Histogram;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use tokio::{sync::Notify, time::Instant};

use super::{SHARDS, set::Set};

/// The longest duration that the histograms tell apart: 2^46 ns, as in postlude.
const LONGEST: u64 = (1 << 46) - 1;
/// Tasks for which a map keeps room when it is empty.
const ROOM: usize = 1024;

/// A part of the books; a task stays in one. Two shards share no cache line.
#[repr(align(128))]
pub(super) struct Shard {
    books: Mutex<Books>,
    idle: Arc<Notify>,
}

pub(super) struct Books {
    /// The last number that was given away. In steps of the number of shards, so that it tells its shard.
    last: u64,
    tasks: FxHashMap<u64, Live>,
    sets: FxHashMap<u64, Arc<Set>>,
    /// Of the tasks that are listed; the others are pending.
    running: u64,
    counts: Counts,
    waited: Histogram,
    ran: Histogram,
    /// All that is in `ran`, added up: for an average.
    total: u64,
    pub(super) is_awaited: bool,
}

/// A spawned task.
pub(super) struct Live {
    added: Instant,
    started: Option<Instant>,
    /// Once it had to wait for something.
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Completed,
    Panicked,
    Aborted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(super) completed: u64,
    pub(super) panicked: u64,
    pub(super) aborted: u64,
}

impl Shard {
    pub(super) fn new(index: u64, idle: Arc<Notify>) -> Self {
        let histogram = Histogram::new(4, 46).unwrap();
        let books = Books {
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
        Self { books: Mutex::new(books), idle }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock()
    }

    pub(super) fn add(&self, added: Instant) -> u64 {
        let mut books = self.books.lock();
        let number = books.number();
        books.tasks.insert(number, Live { added, started: None, waker: None });
        number
    }

    /// `false` if it was aborted before.
    pub(super) fn start(&self, number: u64) -> bool {
        let now = Instant::now();
        let mut books = self.books.lock();
        let Some(task) = books.tasks.get_mut(&number) else {
            return false;
        };
        task.started = Some(now);
        books.running += 1;
        true
    }

    pub(super) fn is_live(&self, number: u64) -> bool {
        self.books.lock().tasks.contains_key(&number)
    }

    /// Leaves what wakes a task that waits for something. `false` if it was aborted meanwhile.
    pub(super) fn leave(&self, number: u64, waker: &Waker) -> bool {
        self.books.lock().tasks.get_mut(&number).map(|task| task.waker.get_or_insert_with(|| waker.clone())).is_some()
    }

    /// Counts the end of a task; `None` if it had ended.
    pub(super) fn end(&self, number: u64, outcome: Outcome) -> Option<Live> {
        let now = Instant::now();
        let mut books = self.books.lock();
        let task = books.tasks.remove(&number)?;
        if books.tasks.is_empty() && books.tasks.capacity() > ROOM {
            books.tasks = FxHashMap::default();
        }
        if let Some(started) = task.started {
            books.running -= 1;
            books.time(started - task.added, now - started);
        }
        books.counts.count(outcome);
        self.settle(books);
        Some(task)
    }

    pub(super) fn list_set(&self, set: Arc<Set>) -> u64 {
        let mut books = self.books.lock();
        let number = books.number();
        books.sets.insert(number, set);
        number
    }

    /// Strikes a set off, and counts what became of its tasks.
    pub(super) fn end_set(&self, number: u64, count: impl FnOnce(&mut Books)) {
        let mut books = self.books.lock();
        let struck = books.sets.remove(&number);
        count(&mut books);
        self.settle(books);
        drop(struck);
    }

    /// Wakes those who wait for the last end, if this was it.
    fn settle(&self, mut books: MutexGuard<'_, Books>) {
        let was_awaited = books.is_idle() && mem::take(&mut books.is_awaited);
        drop(books);
        if was_awaited {
            self.idle.notify_waiters();
        }
    }

    pub(super) fn list(&self, now: Instant) -> Vec<(u64, Duration, Option<Duration>)> {
        let books = self.books.lock();
        let tasks = books.tasks.iter();
        tasks.map(|(number, task)| (*number, now - task.added, task.started.map(|started| now - started))).collect()
    }

    pub(super) fn counts(&self) -> Counts {
        self.books.lock().counts
    }
}

impl Books {
    pub(super) fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.sets.is_empty()
    }

    /// Counts the end of a set's task.
    pub(super) fn count(&mut self, outcome: Outcome, waited: Duration, ran: Duration) {
        self.counts.count(outcome);
        self.time(waited, ran);
    }

    fn time(&mut self, waited: Duration, ran: Duration) {
        let (waited, ran) = (nanoseconds(waited), nanoseconds(ran));
        self.total += ran;
        self.waited.increment(waited).unwrap();
        self.ran.increment(ran).unwrap();
    }

    const fn number(&mut self) -> u64 {
        self.last += SHARDS as u64;
        self.last
    }
}

impl Live {
    pub(super) fn wake(self) {
        if let Some(waker) = self.waker {
            waker.wake();
        }
    }
}

impl Counts {
    const fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Completed => &mut self.completed,
            Outcome::Panicked => &mut self.panicked,
            Outcome::Aborted => &mut self.aborted,
        } += 1;
    }

    pub(super) const fn plus(self, other: Self) -> Self {
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
