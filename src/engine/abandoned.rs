//! Work that may still run although its task's outcome was counted.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::{
    ledger::live::LiveTask,
    model::{Identity, Outcome, TaskId, TaskName},
    util::{
        clock::Timestamp,
        loom::{
            Mutex, MutexGuard,
            atomic::{AtomicUsize, Ordering},
        },
        panic::catch_panic,
    },
};

/// How long the runner of a stopped task may take to drop the work, on a runtime with nothing else to do, before the
/// task counts as stuck.
pub(crate) const DROPPED_WITHIN: Duration = Duration::from_millis(50);

/// The same on a busy runtime, or one that may be: a worker that gets no core for a while drops the tasks in its queue
/// later than others drop theirs.
pub(crate) const DROPPED_AT_LAST: Duration = Duration::from_secs(1);

/// Tasks that were ended by a caller, and whose work has not been dropped yet.
///
/// Most entries exist only until the runner drops the future. Tasks whose entries remain are stuck.
#[derive(Default)]
pub(crate) struct Abandoned {
    tasks: Mutex<Tasks>,
    /// The number of stopped tasks whose runner does not know of the end yet. Runners of spawned tasks read it at each
    /// poll.
    stopped: AtomicUsize,
    emptied: Notify,
}

#[derive(Default)]
struct Tasks {
    /// Very many may be stopped at once: no insertion moves them all.
    entries: BTreeMap<TaskId, Entry>,
    /// When a runner has last dropped a stopped task.
    last_drop: Option<Timestamp>,
    /// When the latest of those that were dropped was stopped.
    latest_dropped: Option<Timestamp>,
}

impl Tasks {
    /// Whether a task still runs after it was told to stop. Of a future it is not known whether it is inside a poll or
    /// waits for its turn to be dropped. The runtime drops tasks about in the order in which they were stopped. So a
    /// task has had its time if one that was stopped long after it was dropped, or if it was stopped for `within`, and
    /// `had_time`: no others were being dropped.
    fn is_stuck(&self, entry: &Entry, now: Timestamp, within: Duration, had_time: bool) -> bool {
        let was_overtaken = || self.latest_dropped.is_some_and(|latest| latest.since(entry.since) >= DROPPED_AT_LAST);
        entry.has_started && (entry.is_running || had_time && now.since(entry.since) >= within || was_overtaken())
    }
}

struct Entry {
    identity: Identity,
    since: Timestamp,
    /// The counted outcome; `None` if only an attempt was ended, and not the task.
    outcome: Option<Outcome>,
    /// The number of parts that have not been dropped: the tokio task that runs it, and closures on their threads.
    parts: u32,
    /// Whether the task was stopped and its runner does not know of it yet.
    is_stopped: bool,
    /// Whether a part is known to run: inside a poll, or on a thread.
    is_running: bool,
    /// Whether it had started. Otherwise no work can still run.
    has_started: bool,
}

impl Entry {
    const fn new(identity: Identity, since: Timestamp) -> Self {
        Self { identity, since, outcome: None, parts: 0, is_stopped: false, is_running: false, has_started: false }
    }
}

impl Abandoned {
    /// Adds a task that was ended by a caller. Its runner calls [`dropped`](Self::dropped) after dropping the work.
    pub(crate) fn insert_stopped(&self, task: &LiveTask, outcome: &Outcome, now: Timestamp, is_running: bool) {
        let identity = task.identity;
        let mut tasks = self.tasks.lock();
        let entry = tasks.entries.entry(identity.id).or_insert_with(|| Entry::new(identity, now));
        entry.outcome = Some(outcome.clone());
        entry.parts += 1;
        entry.is_stopped = true;
        entry.is_running |= is_running;
        entry.has_started |= task.has_started();
        // Relaxed: the runner is woken after this, and reads it in the poll that follows.
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds an abandoned closure, if `check_running` returns `true` under the lock. The closure calls
    /// [`returned`](Self::returned) at its end.
    pub(crate) fn insert_running(&self, identity: Identity, now: Timestamp, check_running: impl FnOnce() -> bool) {
        let mut tasks = self.tasks.lock();
        // Under the lock, so that the call of `returned` that follows finds the entry.
        if check_running() {
            let entry = tasks.entries.entry(identity.id).or_insert_with(|| Entry::new(identity, now));
            entry.parts += 1;
            entry.is_running = true;
            entry.has_started = true;
        }
    }

    /// Notes that the runner of a task has dropped the work. If the task was stopped, returns its outcome.
    pub(crate) fn dropped(&self, id: TaskId) -> Option<Outcome> {
        let now = Timestamp::now();
        let mut tasks = self.tasks.lock();
        let entry = tasks.entries.get_mut(&id).filter(|entry| entry.is_stopped)?;
        entry.is_stopped = false;
        let (outcome, since) = (entry.outcome.clone(), entry.since);
        self.stopped.fetch_sub(1, Ordering::Relaxed);
        tasks.last_drop = tasks.last_drop.max(Some(now));
        tasks.latest_dropped = tasks.latest_dropped.max(Some(since));
        self.part_is_over(tasks, id);
        outcome
    }

    /// Notes that a part of the work was dropped.
    pub(crate) fn returned(&self, id: TaskId) {
        self.part_is_over(self.tasks.lock(), id);
    }

    fn part_is_over(&self, mut tasks: MutexGuard<'_, Tasks>, id: TaskId) {
        let mut removed = None;
        if let Some(entry) = tasks.entries.get_mut(&id) {
            entry.parts -= 1;
            if entry.parts == 0 {
                removed = tasks.entries.remove(&id);
            }
        }
        let is_empty = tasks.entries.is_empty();
        drop(tasks);
        drop(removed);
        if is_empty {
            // The wakers may be foreign code, if a waiting task runs on another executor than tokio's.
            drop(catch_panic(|| self.emptied.notify_waiters()));
        }
    }

    /// Whether the task was stopped and its runner does not know of it yet.
    #[inline]
    pub(crate) fn is_stopped(&self, id: TaskId) -> bool {
        self.stopped.load(Ordering::Relaxed) > 0
            && self.tasks.lock().entries.get(&id).is_some_and(|entry| entry.is_stopped)
    }

    /// The outcome of a task that was ended while its work still runs.
    pub(crate) fn outcome(&self, id: TaskId) -> Option<Outcome> {
        self.tasks.lock().entries.get(&id)?.outcome.clone()
    }

    /// The number of stuck tasks of each name.
    pub(crate) fn by_name(&self) -> FxHashMap<TaskName, u64> {
        let mut names = FxHashMap::default();
        self.look_at_stuck(|entry| *names.entry(entry.identity.name).or_default() += 1);
        names
    }

    /// The first `limit` stuck tasks, since when each has been stopped, and how many more there are.
    pub(crate) fn stuck(&self, limit: usize) -> (Vec<(Identity, Timestamp)>, usize) {
        let (mut named, mut more) = (Vec::new(), 0);
        self.look_at_stuck(|entry| {
            if named.len() < limit {
                named.push((entry.identity, entry.since));
            } else {
                more += 1;
            }
        });
        (named, more)
    }

    /// Whether the work of an ended task has not been dropped.
    pub(crate) fn has(&self, id: TaskId) -> bool {
        self.tasks.lock().entries.contains_key(&id)
    }

    fn look_at_stuck(&self, look: impl FnMut(&Entry)) {
        let now = Timestamp::now();
        let tasks = self.tasks.lock();
        let had_time = tasks.last_drop.is_none_or(|last| now.since(last) >= DROPPED_AT_LAST);
        tasks.entries.values().filter(|entry| tasks.is_stuck(entry, now, DROPPED_AT_LAST, had_time)).for_each(look);
    }

    /// The first `limit` that are stuck, and how many more there are. `had_time`: all have had the time to be dropped.
    pub(crate) fn list(&self, limit: usize, had_time: bool) -> (Vec<Identity>, usize) {
        let now = Timestamp::now();
        let tasks = self.tasks.lock();
        let mut stuck = tasks.entries.values().filter(|entry| tasks.is_stuck(entry, now, DROPPED_WITHIN, had_time));
        let named = stuck.by_ref().take(limit).map(|entry| entry.identity).collect();
        (named, stuck.count())
    }

    /// How many have not been dropped.
    pub(crate) fn not_dropped(&self) -> usize {
        self.tasks.lock().entries.len()
    }

    /// Waits until no entry is left.
    pub(crate) async fn wait_empty(&self) {
        loop {
            let mut emptied = pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.tasks.lock().entries.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use std::panic::Location;

    use tokio::time::advance;

    use super::*;

    fn stop(abandoned: &Abandoned, number: u64) -> TaskId {
        let (id, now) = (TaskId { number, index: 0 }, Timestamp::now());
        let identity = Identity { id, name: "task".into(), location: Location::caller(), added: now };
        let mut task = LiveTask::new(identity);
        task.start(now);
        abandoned.insert_stopped(&task, &Outcome::Aborted, now, false);
        id
    }

    fn stuck(abandoned: &Abandoned, had_time: bool) -> [usize; 2] {
        let by_name = abandoned.by_name().values().map(|count| usize::try_from(*count).unwrap()).sum::<usize>();
        assert_eq!(by_name, abandoned.stuck(10).0.len());
        [by_name, abandoned.list(10, had_time).0.len()]
    }

    /// A worker that gets no core for a while drops the tasks in its queue later than another worker drops others.
    #[tokio::test(start_paused = true)]
    async fn a_task_is_not_stuck_while_others_are_dropped_unless_long_overtaken() {
        let abandoned = Abandoned::default();
        stop(&abandoned, 1);
        for number in 2..10 {
            advance(Duration::from_millis(100)).await;
            abandoned.dropped(stop(&abandoned, number));
            assert_eq!(stuck(&abandoned, false), [0, 0]);
        }
        advance(Duration::from_millis(200)).await;
        abandoned.dropped(stop(&abandoned, 10));
        assert_eq!(stuck(&abandoned, false), [1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_is_stuck_when_no_other_is_being_dropped() {
        let abandoned = Abandoned::default();
        let id = stop(&abandoned, 1);
        assert_eq!(stuck(&abandoned, true), [0, 0]);
        advance(DROPPED_WITHIN).await;
        // A shutdown has looked whether others are dropped; the metrics have not.
        assert_eq!(stuck(&abandoned, true), [0, 1]);
        advance(DROPPED_AT_LAST).await;
        assert_eq!(stuck(&abandoned, false), [1, 0]);
        abandoned.dropped(id);
        assert_eq!(stuck(&abandoned, true), [0, 0]);
    }
}
