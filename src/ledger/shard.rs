//! One shard of the ledger: its live tasks and sets, its counters and its history.

use std::{sync::Arc, time::Duration};

use crate::{
    ledger::{
        entries::Entries,
        finished::{Completed, FinishedTask},
        history::History,
        live::LiveTask,
        metrics::{CountersByName, NameCounters},
    },
    model::{Outcome, OutcomeCounts, OutcomeKind, RejectReason, SharedError, TaskName, TaskState},
    util::clock::Timestamp,
};

/// The state of a shard, whose sets are of type `S`.
pub(crate) struct ShardState<S> {
    /// Why nothing is admitted any more.
    pub(crate) closed: Option<RejectReason>,
    /// The live spawned tasks, by number.
    pub(crate) spawned: Entries<LiveTask>,
    /// The sets with live tasks, by number.
    pub(crate) sets: Entries<Arc<S>>,
    pub(crate) added: u64,
    pub(crate) pending: u64,
    pub(crate) running: u64,
    pub(crate) outcomes: OutcomeCounts,
    /// Ends that are counted, but not yet reported to the log and the observers.
    pub(crate) unreported: u64,
    /// The number of live tasks from which on each add checks whether a warning is due.
    pub(crate) high_water: u64,
    pub(crate) names: CountersByName,
    pub(crate) history: History,
}

impl<S> ShardState<S> {
    pub(crate) fn new(high_water: u64, history: History) -> Self {
        Self {
            closed: None,
            spawned: Entries::default(),
            sets: Entries::default(),
            added: 0,
            pending: 0,
            running: 0,
            outcomes: OutcomeCounts::default(),
            unreported: 0,
            high_water,
            names: CountersByName::default(),
            history,
        }
    }

    pub(crate) const fn live(&self) -> u64 {
        self.pending + self.running
    }

    pub(crate) const fn is_idle(&self) -> bool {
        self.live() + self.unreported == 0
    }

    /// Counts a task as added and pending. `Ok(true)` if the shard has reached its high-water mark.
    #[inline]
    pub(crate) fn admit(&mut self, name: TaskName) -> Result<bool, RejectReason> {
        if let Some(reason) = self.closed {
            return Err(reason);
        }
        self.added += 1;
        self.pending += 1;
        self.counters(name).pending += 1;
        Ok(self.live() >= self.high_water)
    }

    /// Counts a task that was refused but not handed back, as added and discarded. Returns the error that the history
    /// evicts.
    #[must_use = "drop it after releasing the lock"]
    pub(crate) fn refuse(&mut self, finished: FinishedTask) -> Option<SharedError> {
        self.added += 1;
        self.unreported += 1;
        self.counters(finished.identity.name).record(&finished);
        self.outcomes.count(finished.outcome().kind());
        self.history.push(finished)
    }

    #[inline]
    fn start(&mut self, name: TaskName) {
        self.pending -= 1;
        self.running += 1;
        let counters = self.counters(name);
        counters.pending -= 1;
        counters.running += 1;
    }

    /// Counts the start of an attempt after the first.
    pub(crate) fn retry(&mut self, name: TaskName) {
        let counters = self.counters(name);
        counters.retries += 1;
        counters.retrying -= 1;
    }

    /// Counts an attempt that another one follows, and its time.
    pub(crate) fn attempt_failed(&mut self, name: TaskName, ran_for: Duration) {
        let counters = self.counters(name);
        counters.record_attempt(ran_for);
        // If the task has ended meanwhile, its end has already taken it off.
        counters.retrying += 1;
    }

    /// Counts adds and first starts of a set, of which its account has kept count.
    #[inline]
    pub(crate) fn count_begun(&mut self, name: TaskName, added: u32, started: u32) {
        self.added += u64::from(added);
        self.pending = self.pending + u64::from(added) - u64::from(started);
        self.running += u64::from(started);
        let counters = self.counters(name);
        counters.pending += i64::from(added) - i64::from(started);
        counters.running += i64::from(started);
    }

    /// Counts and remembers the end of a task that was running and has completed. Returns the error that the history
    /// evicts.
    #[must_use = "drop it without the lock"]
    #[inline]
    pub(crate) fn complete(&mut self, completed: &Completed) -> Option<SharedError> {
        self.running -= 1;
        let counters = self.names.of(completed.identity.name);
        counters.running -= 1;
        counters.record_completed(completed);
        self.outcomes.count(OutcomeKind::Completed);
        self.history.push(completed.into())
    }

    /// Counts and remembers an end that is still to be reported: a call of
    /// [`Ledger::reported`](super::Ledger::reported) must follow. Returns the error that the history evicts.
    #[must_use = "drop it after releasing the lock"]
    pub(crate) fn finish(&mut self, task: &LiveTask, outcome: &Outcome, now: Timestamp) -> Option<SharedError> {
        let counters = self.names.of(task.identity.name);
        if task.has_started() {
            self.running -= 1;
            counters.running -= 1;
            counters.retrying -= i64::from(task.state() == TaskState::Retrying);
        } else {
            self.pending -= 1;
            counters.pending -= 1;
        }
        // A shutdown must not return, and the process must not exit, before the end is in the log.
        self.unreported += 1;
        let finished = task.finished(outcome.clone(), now);
        counters.record(&finished);
        self.outcomes.count(outcome.kind());
        self.history.push(finished)
    }

    #[inline]
    fn counters(&mut self, name: TaskName) -> &mut NameCounters {
        self.names.of(name)
    }

    #[inline]
    pub(crate) fn insert_spawned(&mut self, task: LiveTask) {
        self.spawned.insert(task.identity.id.number, task);
    }

    /// Starts an attempt of a spawned task if it may start, and returns whether it may. `None` if the task has ended.
    #[inline]
    pub(crate) fn start_spawned(
        &mut self,
        number: u64,
        now: Timestamp,
        may_start: impl FnOnce(&mut LiveTask) -> bool,
    ) -> Option<bool> {
        let task = self.spawned.get_mut(number)?;
        if !may_start(task) {
            return Some(false);
        }
        let name = task.identity.name;
        if task.start(now) {
            self.start(name);
        } else {
            self.retry(name);
        }
        Some(true)
    }

    /// Adds the numbers of the first listed sets from `first` on: see [`Entries::numbers_from`].
    pub(crate) fn set_numbers(&self, first: u64, numbers: &mut Vec<u64>) -> Option<u64> {
        self.sets.numbers_from(first, numbers)
    }

    /// The same for the spawned tasks.
    pub(crate) fn spawned_numbers(&self, first: u64, numbers: &mut Vec<u64>) -> Option<u64> {
        self.spawned.numbers_from(first, numbers)
    }
}
