//! Who lives, and what has been counted.
//!
//! The ledger is split into shards, each behind a lock of its own. A line (a set, or a spawned task, which
//! has a line to itself) belongs to one shard for life, and everything that happens to its tasks is booked
//! there, so that the books of each shard are right whenever its lock is free.
//!
//! # Invariants
//! 1. In each shard: added = pending + running + the sum of the outcomes.
//! 2. A line with live tasks is listed; the ledger's reference is the one that keeps them.
//! 3. Once a shard is closed, nothing is admitted to it.
//! 4. Lock order: a line's lock may be held when a shard's is taken, and either when one of the registry's own (of what is
//!    stuck, or never started) is; never the other way round. No foreign code (a future, its drop, a hook, a subscriber, a
//!    waker that is not our own tokio task's) runs under any.

use std::{collections::BTreeMap, sync::Arc, thread};

use tokio::sync::Notify;

use crate::{
    RejectReason, TaskId,
    books::{Books, Entry},
    history::{History, PIECE},
    line::Line,
    live::{Live, Past},
    metrics::{NameMetrics, TaskMetrics},
    sync::{
        Mutex, MutexGuard, StaticUsize,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

/// The number of live tasks at which the first warning is due.
const FIRST_WARNING: u64 = 10_000;

pub(crate) struct Ledger {
    shards: Box<[Shard]>,
    /// Live tasks, counted apart because a limit needs one number; unused without a limit.
    capacity: Option<u64>,
    live: AtomicU64,
    warn_at: AtomicU64,
    closed: AtomicBool,
    idle: Notify,
    waiters: AtomicUsize,
}

/// Aligned so that two shards never share a cache line, nor the pair that the processor fetches together.
#[repr(align(128))]
#[derive(Default)]
struct Shard {
    next: AtomicU64,
    books: Mutex<Books>,
}

thread_local! {
    /// Spreads the threads over the shards, so that two of them rarely meet in one.
    static SEAT: usize = {
        static NEXT: StaticUsize = StaticUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

impl Ledger {
    pub(crate) fn new(capacity: Option<u64>, remembered: usize) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let count = (2 * cores).next_power_of_two().min(64);
        let first = FIRST_WARNING / count as u64;
        let shard = |_| {
            let books = Books { warn_at: first, history: History::new(remembered), ..Books::default() };
            Shard { next: AtomicU64::new(1), books: Mutex::new(books) }
        };
        Self {
            shards: (0..count).map(shard).collect(),
            capacity,
            live: AtomicU64::new(0),
            warn_at: AtomicU64::new(FIRST_WARNING),
            closed: AtomicBool::new(false),
            idle: Notify::new(),
            waiters: AtomicUsize::new(0),
        }
    }

    /// A number for a new line, in the shard of this thread.
    #[inline]
    pub(crate) fn next_line(&self) -> u64 {
        let seat = SEAT.try_with(|seat| *seat).unwrap_or(0) & (self.shards.len() - 1);
        let count = self.shards.len() as u64;
        self.shards.get(seat).map_or(0, |shard| {
            // Relaxed: only uniqueness is asked of it.
            shard.next.fetch_add(1, Ordering::Relaxed) * count + seat as u64
        })
    }

    /// The books in which a line is kept, locked.
    #[expect(clippy::indexing_slicing, reason = "masked by the number of shards, a power of two")]
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    #[inline]
    pub(crate) fn books(&self, line: u64) -> MutexGuard<'_, Books> {
        self.shards[line as usize & (self.shards.len() - 1)].books.lock()
    }

    /// Takes a place within the capacity, which [`give_back`](Self::give_back) frees again.
    #[inline]
    pub(crate) fn reserve(&self) -> Result<(), RejectReason> {
        let Some(capacity) = self.capacity else {
            return Ok(());
        };
        // Relaxed: the number guards nothing but itself.
        self.live
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |live| (live < capacity).then_some(live + 1))
            .map(drop)
            .map_err(|_full| RejectReason::Capacity)
    }

    /// Whether no place is free.
    pub(crate) fn is_full(&self) -> bool {
        // Relaxed: as in `reserve`.
        self.capacity.is_some_and(|capacity| self.live.load(Ordering::Relaxed) >= capacity)
    }

    #[cfg(feature = "http")]
    pub(crate) const fn has_capacity(&self) -> bool {
        self.capacity.is_some()
    }

    #[inline]
    pub(crate) fn give_back(&self) {
        if self.capacity.is_some() {
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// To be called when an end that was not [quiet](Books::end) has been told, without a lock.
    pub(crate) fn told(&self, line: u64) {
        let mut books = self.books(line);
        books.untold -= 1;
        let idle = books.is_idle();
        drop(books);
        self.settled(idle);
    }

    /// To be called when nothing is left to be told of an end, without a lock: wakes whoever waits for idleness, if the end
    /// has left its shard idle.
    #[inline]
    pub(crate) fn settled(&self, idle: bool) {
        // Pairs with the increment in `wait_idle`: either that came before the end took the shard's lock, and
        // is seen here, or its look at the shard came after the end, and saw that.
        if idle && self.waiters.load(Ordering::SeqCst) > 0 {
            self.idle.notify_waiters();
        }
    }

    /// The live tasks, if their number has passed a mark that deserves a warning. For a shard that has
    /// become [crowded](Books::admit), without a lock.
    pub(crate) fn crowd(&self, line: u64) -> Option<u64> {
        let live = self.live();
        let mark = self.warn_at.load(Ordering::Relaxed);
        let passed = live >= mark;
        let next = if passed { mark.saturating_mul(2) } else { mark };
        // Each shard looks again when it has grown by its share of what is missing to the mark, so that all
        // together cannot pass it unseen.
        let share = next.saturating_sub(live) / self.shards.len() as u64;
        let mut books = self.books(line);
        books.warn_at = books.live() + share.max(1);
        drop(books);
        // Whoever moves the mark says so; a thread that passed it at the same time stays silent.
        let moved = passed && self.warn_at.compare_exchange(mark, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        moved.then_some(live)
    }

    /// The set listed under a line.
    pub(crate) fn set(&self, line: u64) -> Option<Arc<Line>> {
        match self.books(line).lines.get(&line) {
            Some(Entry::Set(set)) => Some(Arc::clone(set)),
            Some(Entry::Task(_)) | None => None,
        }
    }

    /// Calls `task` for each spawned task, under a lock, and returns the listed sets. The lock is held for one look at
    /// the numbers of all, and then for a few at a time; what ends meanwhile is left out.
    pub(crate) fn survey(&self, mut task: impl FnMut(&Live)) -> Vec<Arc<Line>> {
        let mut sets = Vec::new();
        for shard in &self.shards {
            let mut lines = Vec::new();
            shard.collect_lines(0, &mut lines);
            for few in lines.chunks(PIECE) {
                sets.reserve(few.len());
                let books = shard.books.lock();
                for entry in few.iter().filter_map(|line| books.lines.get(line)) {
                    match entry {
                        Entry::Task(live) => task(live),
                        Entry::Set(set) => sets.push(Arc::clone(set)),
                    }
                }
            }
        }
        sets
    }

    /// The numbers of the listed lines from `first` on, in order, and no more than `count`.
    pub(crate) fn lines_from(&self, first: u64, count: usize) -> Vec<u64> {
        let mut lines = Vec::new();
        for shard in &self.shards {
            shard.collect_lines(first, &mut lines);
        }
        if lines.len() > count {
            lines.select_nth_unstable(count);
            lines.truncate(count);
        }
        lines.sort_unstable();
        lines
    }

    /// Whether all that live are so.
    pub(crate) fn all_live(&self, mut is_so: impl FnMut(&Live) -> bool) -> bool {
        self.shards.iter().all(|shard| {
            let books = shard.books.lock();
            let mut sets = Vec::new();
            let all = books.lines.values().all(|entry| match entry {
                Entry::Task(live) => is_so(live),
                Entry::Set(set) => {
                    sets.push(Arc::clone(set));
                    true
                }
            });
            drop(books);
            all && sets.iter().all(|set| set.all_live(&mut is_so))
        })
    }

    /// How many outcomes are remembered.
    pub(crate) fn remembers(&self) -> usize {
        self.shards.first().map_or(0, |shard| shard.books.lock().history.room())
    }

    /// The outcomes that are remembered, in no order. The lock is held for a few at a time.
    pub(crate) fn history(&self) -> Vec<Past> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut end = Some(u64::MAX);
            while let Some(before) = end {
                all.reserve(PIECE);
                let books = shard.books.lock();
                let (piece, next) = books.history.piece(before);
                all.extend(piece.cloned());
                end = next;
            }
        }
        all
    }

    /// The end of a task, if it is remembered. The lock is held for a few at a time.
    pub(crate) fn remembered(&self, id: TaskId) -> Option<Past> {
        let mut end = Some(u64::MAX);
        while let Some(before) = end {
            let books = self.books(id.line);
            let (mut piece, next) = books.history.piece(before);
            if let Some(past) = piece.find(|past| past.identity.id == id) {
                return Some(past.clone());
            }
            end = next;
        }
        None
    }

    /// Live tasks; exact if nothing moves.
    pub(crate) fn live(&self) -> u64 {
        self.shards.iter().map(|shard| shard.books.lock().live()).sum()
    }

    /// Adds up the books into `metrics`.
    pub(crate) fn add_up(&self, metrics: &mut TaskMetrics) {
        let mut names: BTreeMap<&'static str, NameMetrics> = BTreeMap::new();
        for shard in &self.shards {
            let books = shard.books.lock();
            metrics.added += books.added;
            metrics.pending += books.pending;
            metrics.running += books.running;
            for (name, figures) in books.names.iter() {
                names.entry(name).or_default().absorb(figures);
            }
        }
        metrics.take_names(names);
    }

    pub(crate) fn close(&self) {
        // Release, here and below: pairs with the acquire in `is_closed`.
        self.closed.store(true, Ordering::Release);
        for shard in &self.shards {
            shard.books.lock().closed = true;
        }
    }

    /// For adds that are not [booked](crate::unbooked) at once.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Closes if nothing lives, with every shard locked, so that nothing slips in between.
    pub(crate) fn close_if_idle(&self) -> bool {
        let mut all: Vec<_> = self.shards.iter().map(|shard| shard.books.lock()).collect();
        let idle = all.iter().all(|books| books.is_idle());
        if idle {
            self.closed.store(true, Ordering::Release);
            for books in &mut all {
                books.closed = true;
            }
        }
        idle
    }

    fn is_idle(&self) -> bool {
        // All at once: looked at one after another, a task could hop from the next shard into the last.
        let all: Vec<_> = self.shards.iter().map(|shard| shard.books.lock()).collect();
        all.iter().all(|books| books.is_idle())
    }

    /// Waits until nothing lives, and every end was told.
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
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.is_idle() {
                return;
            }
            idle.await;
        }
    }
}

impl Shard {
    /// Adds the numbers of the listed lines from `first` on.
    fn collect_lines(&self, first: u64, lines: &mut Vec<u64>) {
        // Room for them is made without the lock.
        let count = self.books.lock().lines.len();
        lines.reserve(count);
        lines.extend(self.books.lock().lines.keys().filter(|line| **line >= first));
    }
}
