//! The books of one shard of the ledger: its lines, and what has been counted.

use std::{sync::Arc, time::Duration};

use rustc_hash::FxHashMap;

use crate::{
    engine::queue::SetQueue,
    ledger::{
        finished::FinishedTask,
        history::History,
        live::{LiveTask, Stage},
        metrics::{CountersByName, NameCounters},
    },
    model::{BoxError, Outcome, RejectReason},
    util::clock::Timestamp,
};

#[derive(Default)]
pub(crate) struct ShardState {
    pub(crate) closed: bool,
    pub(crate) lines: FxHashMap<u64, Entry>,
    pub(crate) added: u64,
    pub(crate) pending: u64,
    pub(crate) running: u64,
    /// Finish, and not yet told to the log and the observers.
    pub(crate) untold: u64,
    pub(crate) warn_at: u64,
    pub(crate) names: CountersByName,
    pub(crate) history: History,
}

pub(crate) enum Entry {
    Set(Arc<SetQueue>),
    Task(LiveTask),
}

impl ShardState {
    pub(crate) const fn live(&self) -> u64 {
        self.pending + self.running
    }

    pub(crate) const fn is_idle(&self) -> bool {
        self.live() + self.untold == 0
    }

    /// Counts a task as added and pending. `Ok(true)` if the shard has become crowded.
    #[inline]
    pub(crate) const fn admit(&mut self) -> Result<bool, RejectReason> {
        if self.closed {
            return Err(RejectReason::Closed);
        }
        self.added += 1;
        self.pending += 1;
        Ok(self.live() >= self.warn_at)
    }

    /// Counts a task that was refused but not handed back: added and discarded in one.
    #[must_use = "to be dropped without the lock"]
    pub(crate) fn refuse(&mut self, past: FinishedTask) -> Option<Arc<BoxError>> {
        self.added += 1;
        self.untold += 1;
        self.figures(past.identity.name).record(&past);
        self.history.note(past)
    }

    #[inline]
    pub(crate) const fn start(&mut self) {
        self.pending -= 1;
        self.running += 1;
    }

    /// Counts the start of an attempt after the first.
    pub(crate) fn retry(&mut self, name: &'static str) {
        self.figures(name).retries += 1;
    }

    /// Counts the time of an attempt that will be followed by another.
    pub(crate) fn attempt_failed(&mut self, name: &'static str, ran_for: Duration) {
        self.figures(name).record_attempt(ran_for);
    }

    /// Counts and remembers an end. Unless it is `quiet`, it is then to be [told](Ledger::told). What it returns is
    /// forgotten.
    #[must_use = "to be dropped without the lock"]
    #[inline]
    pub(crate) fn end(
        &mut self,
        live: &LiveTask,
        outcome: &Outcome,
        now: Timestamp,
        quiet: bool,
    ) -> Option<Arc<BoxError>> {
        *match live.stage() {
            Stage::Pending => &mut self.pending,
            Stage::Running => &mut self.running,
        } -= 1;
        // An end is one only when it was told: a shutdown must not return, and the process exit, before.
        self.untold += u64::from(!quiet);
        self.remember(live.past(outcome.clone(), now))
    }

    /// Notes an end in the figures and in the history; returns what that forgets.
    #[inline]
    pub(crate) fn remember(&mut self, past: FinishedTask) -> Option<Arc<BoxError>> {
        self.figures(past.identity.name).record(&past);
        self.history.note(past)
    }

    #[inline]
    pub(crate) fn figures(&mut self, name: &'static str) -> &mut NameCounters {
        self.names.of(name)
    }

    pub(crate) fn list_set(&mut self, line: u64, set: Arc<SetQueue>) {
        self.lines.insert(line, Entry::Set(set));
    }

    #[inline]
    pub(crate) fn list_spawned(&mut self, live: LiveTask) {
        self.lines.insert(live.identity.id.line, Entry::Task(live));
    }

    pub(crate) fn is_listed(&self, line: u64) -> bool {
        self.lines.contains_key(&line)
    }

    #[inline]
    pub(crate) fn spawned(&mut self, line: u64) -> Option<&mut LiveTask> {
        match self.lines.get_mut(&line) {
            Some(Entry::Task(task)) => Some(task),
            Some(Entry::Set(_)) | None => None,
        }
    }

    /// Starts an attempt of a task, unless it has ended.
    #[inline]
    pub(crate) fn start_spawned(&mut self, line: u64, now: Timestamp) -> bool {
        let Some(task) = self.spawned(line) else {
            return false;
        };
        let name = task.identity.name;
        if task.start(now) {
            self.start();
        } else {
            self.retry(name);
        }
        true
    }

    /// Strikes a line off the list. What is returned must be dropped without the lock.
    #[inline]
    pub(crate) fn strike(&mut self, line: u64) -> Option<Entry> {
        let struck = self.lines.remove(&line);
        // The map keeps the room of its fullest hour: give most of it back when most of it is empty.
        if self.lines.capacity() > 1024 && self.lines.len() < self.lines.capacity() / 8 {
            self.lines.shrink_to(self.lines.len() * 2);
        }
        struck
    }

    /// Strikes a set off.
    pub(crate) fn strike_set(&mut self, line: u64) -> Option<Arc<SetQueue>> {
        match self.strike(line) {
            Some(Entry::Set(set)) => Some(set),
            Some(Entry::Task(_)) | None => None,
        }
    }

    /// Strikes a spawned task off; `None` if it has already ended. The end is still to be counted.
    #[inline]
    pub(crate) fn take_spawned(&mut self, line: u64) -> Option<LiveTask> {
        match self.strike(line)? {
            Entry::Task(task) => Some(task),
            // A number belongs to one line for good, and this one is asked for by a spawned task's.
            set @ Entry::Set(_) => {
                self.lines.insert(line, set);
                None
            }
        }
    }
}
