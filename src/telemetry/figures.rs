//! The figures of one profiled task, and the waker of its work.

use std::{
    hint::spin_loop,
    sync::{Arc, OnceLock},
    task::{Wake, Waker},
    time::Duration,
};

use crate::{
    model::{Identity, TaskProfile},
    util::{
        clock::real_nanos,
        cpu_time,
        loom::atomic::{AtomicU64, Ordering, fence},
    },
};

/// In place of a time: the figures are being written.
const CHANGING: u64 = 1;

/// How often a profile is read again. The runner may have lost its core between two writes.
const READ_AGAIN: usize = 100;

/// What is measured of a task, over all its attempts. Durations are nanoseconds; the times are those of
/// [`real_nanos`], or 0.
///
/// One runner at a time writes them, and `running_since` is [`CHANGING`] meanwhile: a [profile](Self::profile) that was
/// read between two writes is read again. Everything else is relaxed. It is the runtime that orders a wake-up before
/// the poll that follows.
pub(crate) struct TaskFigures {
    pub(crate) identity: Identity,
    is_closure: bool,
    counts_allocations: bool,
    polls: AtomicU64,
    slow_polls: AtomicU64,
    busy: AtomicU64,
    idle: AtomicU64,
    scheduled: AtomicU64,
    longest_poll: AtomicU64,
    allocated: AtomicU64,
    cpu: AtomicU64,
    /// When the poll or the call began that has not returned.
    running_since: AtomicU64,
    /// When the last poll returned, while its task waits.
    waiting_since: AtomicU64,
    /// When it was first woken since its last poll began.
    woken_at: AtomicU64,
    /// The waker of the tokio task that runs it, which never changes.
    runner: OnceLock<Waker>,
}

/// The wait between two polls, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) idle: u64,
    /// `None` if nothing has woken the task.
    pub(crate) scheduled: Option<u64>,
}

impl Wait {
    /// The wait up to `now`.
    fn of(waiting_since: u64, woken_at: u64, now: u64) -> Self {
        match (waiting_since, woken_at) {
            (0, _) => Self::default(),
            (since, 0) => Self { idle: now.saturating_sub(since), scheduled: None },
            (since, woken) => {
                // One that is woken inside its own poll waits for the runtime from the end of that poll on.
                let woken = woken.max(since);
                Self { idle: woken - since, scheduled: Some(now.saturating_sub(woken)) }
            }
        }
    }
}

impl TaskFigures {
    pub(crate) fn new(identity: Identity, is_closure: bool, counts_allocations: bool) -> Self {
        Self {
            identity,
            is_closure,
            counts_allocations,
            polls: AtomicU64::new(0),
            slow_polls: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            scheduled: AtomicU64::new(0),
            longest_poll: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            cpu: AtomicU64::new(0),
            running_since: AtomicU64::new(0),
            waiting_since: AtomicU64::new(0),
            woken_at: AtomicU64::new(0),
            runner: OnceLock::new(),
        }
    }

    pub(crate) const fn is_closure(&self) -> bool {
        self.is_closure
    }

    /// The waker for a poll of the work, which notes when it is called. The runner's own, if the runner is not the one
    /// of the first poll.
    pub(crate) fn waker(self: &Arc<Self>, runner: &Waker) -> Waker {
        if self.runner.get_or_init(|| runner.clone()).will_wake(runner) {
            Waker::from(Arc::clone(self))
        } else {
            runner.clone()
        }
    }

    /// A call begins.
    pub(crate) fn begin(&self, now: u64) {
        self.running_since.store(now, Ordering::Relaxed);
    }

    /// A poll begins. Returns the wait that is over.
    pub(crate) fn begin_poll(&self, now: u64) -> Wait {
        self.running_since.store(CHANGING, Ordering::Relaxed);
        fence(Ordering::Release);
        let wait = self.end_wait(now);
        self.running_since.store(now, Ordering::Release);
        wait
    }

    /// A call has ended: what it took is counted.
    pub(crate) fn end(&self, since: u64, took: u64, allocated: u64) {
        // An abandoned closure may end after the next attempt has begun.
        let is_current =
            self.running_since.compare_exchange(since, CHANGING, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        fence(Ordering::Release);
        self.add_busy(took, allocated);
        if is_current {
            self.running_since.store(0, Ordering::Release);
        }
    }

    /// A poll has ended.
    pub(crate) fn end_poll(&self, since: u64, took: u64, allocated: u64, waits: bool) {
        self.running_since.store(CHANGING, Ordering::Relaxed);
        fence(Ordering::Release);
        self.waiting_since.store(if waits { since.saturating_add(took) } else { 0 }, Ordering::Relaxed);
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.longest_poll.fetch_max(took, Ordering::Relaxed);
        self.add_busy(took, allocated);
        self.running_since.store(0, Ordering::Release);
    }

    fn add_busy(&self, took: u64, allocated: u64) {
        self.busy.fetch_add(took, Ordering::Relaxed);
        if allocated > 0 {
            self.allocated.fetch_add(allocated, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_slow_poll(&self) {
        self.slow_polls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_cpu(&self, time: u64) {
        self.cpu.fetch_add(time, Ordering::Relaxed);
    }

    /// Whether a poll has returned, and none has begun since.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting_since.load(Ordering::Relaxed) != 0
    }

    /// The wait is over: it is counted, and returned.
    pub(crate) fn end_wait(&self, now: u64) -> Wait {
        let woken_at = self.woken_at.swap(0, Ordering::Relaxed);
        let wait = Wait::of(self.waiting_since.load(Ordering::Relaxed), woken_at, now);
        self.waiting_since.store(0, Ordering::Relaxed);
        if wait.idle > 0 {
            self.idle.fetch_add(wait.idle, Ordering::Relaxed);
        }
        if let Some(scheduled) = wait.scheduled {
            self.scheduled.fetch_add(scheduled, Ordering::Relaxed);
        }
        wait
    }

    /// The figures up to now, with the poll, the call or the wait that has not ended.
    pub(crate) fn profile(&self) -> TaskProfile {
        for _ in 0..READ_AGAIN {
            if let Some(profile) = self.consistent() {
                return profile;
            }
            spin_loop();
        }
        self.read(0)
    }

    /// `None` if a poll began or ended meanwhile.
    fn consistent(&self) -> Option<TaskProfile> {
        let running_since = self.running_since.load(Ordering::Acquire);
        let profile = self.read(running_since);
        fence(Ordering::Acquire);
        let is_same = running_since == self.running_since.load(Ordering::Relaxed)
            && profile.polls == self.polls.load(Ordering::Relaxed);
        (running_since != CHANGING && is_same).then_some(profile)
    }

    fn read(&self, running_since: u64) -> TaskProfile {
        let now = real_nanos();
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let running_for = (running_since != 0).then(|| now.saturating_sub(running_since));
        let wait = Wait::of(read(&self.waiting_since), read(&self.woken_at), now);
        let sum = |figure: &AtomicU64, more: u64| Duration::from_nanos(read(figure).saturating_add(more));
        TaskProfile {
            polls: read(&self.polls),
            slow_polls: read(&self.slow_polls),
            busy: sum(&self.busy, running_for.unwrap_or(0)),
            idle: sum(&self.idle, wait.idle),
            scheduled: sum(&self.scheduled, wait.scheduled.unwrap_or(0)),
            longest_poll: sum(&self.longest_poll, 0),
            allocated: self.counts_allocations.then(|| read(&self.allocated)),
            cpu: (self.is_closure && cpu_time::IS_KNOWN).then(|| sum(&self.cpu, 0)),
            polling_for: running_for.filter(|_| !self.is_closure).map(Duration::from_nanos),
        }
    }
}

impl Wake for TaskFigures {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken_at.load(Ordering::Relaxed) == 0 {
            // Of several that wake it at once, the first counts.
            let _later = self.woken_at.compare_exchange(0, real_nanos(), Ordering::Relaxed, Ordering::Relaxed);
        }
        if let Some(runner) = self.runner.get() {
            runner.wake_by_ref();
        }
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use std::thread;

    use super::*;
    use crate::{task::Task, util::clock::nanos};

    #[test]
    fn a_profile_that_is_read_while_polls_begin_and_end_counts_each_moment_once() {
        let figures = TaskFigures::new(Task::new(async {}).meta().identity(), false, false);
        let start = real_nanos();
        figures.begin_poll(start);
        let is_over = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut since = start;
                while is_over.load(Ordering::Relaxed) == 0 {
                    figures.end_poll(since, real_nanos() - since, 0, true);
                    since = real_nanos();
                    figures.begin_poll(since);
                }
            });
            let mut wrong = Vec::new();
            for _ in 0..10_000 {
                let before = real_nanos();
                let Some(profile) = figures.consistent() else { continue };
                let counted = start + nanos(profile.busy + profile.idle);
                let after = real_nanos();
                if !(before..=after).contains(&counted) {
                    wrong.push((before, counted, after, profile));
                }
            }
            is_over.store(1, Ordering::Relaxed);
            assert!(wrong.is_empty(), "{wrong:?}");
        });
    }

    #[test]
    fn a_wait_is_idle_until_it_is_woken_and_scheduled_after() {
        let wait = |since, woken, now| Wait::of(since, woken, now);
        for (since, woken, idle, scheduled) in [
            (0, 0, 0, None),        // the first poll
            (0, 7, 0, None),        // woken inside a poll that has not returned
            (10, 0, 90, None),      // polled without being woken
            (10, 30, 20, Some(70)), // woken while it waits
            (10, 4, 0, Some(90)),   // woken inside its own poll
            (100, 100, 0, Some(0)),
        ] {
            assert_eq!(wait(since, woken, 100), Wait { idle, scheduled }, "{since}, {woken}");
        }
    }
}
