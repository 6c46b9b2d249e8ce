//! The jobs that a worker holds: it has reserved them, and not settled them.

use std::{collections::HashMap, mem, pin::pin, sync::Arc};

use parking_lot::Mutex;
use postlude::{Progress, TaskId, TaskProgress};
use tokio::sync::Notify;

use crate::model::id::JobId;

/// A run of a job: its id, and the number of the reservation.
pub(crate) type RunKey = (JobId, i64);

#[derive(Default)]
pub(crate) struct HeldJobs {
    state: Mutex<State>,
    settled: Notify,
}

#[derive(Default)]
struct State {
    runs: HashMap<RunKey, Held>,
    /// How many of them have not begun to run, by name.
    not_started: HashMap<&'static str, usize>,
    /// How many of them have crashed a process before.
    crashed: usize,
}

struct Held {
    name: &'static str,
    task: Option<TaskId>,
    /// Tells the progress of the run, while it runs.
    progress: Option<Progress>,
    /// The progress that is stored.
    stored: Option<Arc<TaskProgress>>,
    is_started: bool,
    is_crashed: bool,
    is_lost: bool,
    /// The work has returned: only the settlement is missing.
    is_ended: bool,
}

impl State {
    /// Notes that a job begins to run, or will not.
    fn start(&mut self, name: &'static str) {
        if let Some(jobs) = self.not_started.get_mut(name) {
            *jobs -= 1;
        }
    }
}

impl HeldJobs {
    pub(crate) fn insert(&self, run: RunKey, name: &'static str, is_crashed: bool) {
        let mut state = self.state.lock();
        *state.not_started.entry(name).or_default() += 1;
        state.crashed += usize::from(is_crashed);
        let held = Held {
            name,
            task: None,
            progress: None,
            stored: None,
            is_started: false,
            is_crashed,
            is_lost: false,
            is_ended: false,
        };
        state.runs.insert(run, held);
    }

    pub(crate) fn set_task(&self, run: RunKey, task: TaskId) {
        if let Some(held) = self.state.lock().runs.get_mut(&run) {
            held.task = Some(task);
        }
    }

    /// Notes that a run has begun, or will not.
    pub(crate) fn started(&self, run: RunKey) {
        let mut state = self.state.lock();
        let Some(held) = state.runs.get_mut(&run) else { return };
        let name = held.name;
        if !mem::replace(&mut held.is_started, true) {
            state.start(name);
        }
    }

    /// Takes what tells the progress of a run.
    pub(crate) fn set_progress(&self, run: RunKey, progress: Progress) {
        if let Some(held) = self.state.lock().runs.get_mut(&run) {
            held.progress = Some(progress);
        }
    }

    /// The progress of the runs that have more than was last stored.
    pub(crate) fn new_progress(&self) -> Vec<(RunKey, Arc<TaskProgress>)> {
        let running: Vec<(RunKey, Progress)> = {
            let state = self.state.lock();
            let kept = state.runs.iter().filter(|(_, held)| !held.is_lost);
            kept.filter_map(|(run, held)| Some((*run, held.progress.clone()?))).collect()
        };
        // Not under the lock: the registry has locks of its own.
        let found = running.into_iter().filter_map(|(run, progress)| Some((run, progress.get()?)));
        let mut found: Vec<_> = found.collect();
        let state = self.state.lock();
        found.retain(|(run, progress)| {
            state.runs.get(run).is_some_and(|held| held.stored.as_ref().is_none_or(|stored| stored != progress))
        });
        found
    }

    /// Notes which progress of a run is stored.
    pub(crate) fn progress_stored(&self, run: RunKey, progress: Arc<TaskProgress>) {
        if let Some(held) = self.state.lock().runs.get_mut(&run) {
            held.stored = Some(progress);
        }
    }

    /// Notes that the lease of a run is lost; `false` if it was known.
    pub(crate) fn lose(&self, run: RunKey) -> bool {
        let mut state = self.state.lock();
        state.runs.get_mut(&run).is_some_and(|held| !mem::replace(&mut held.is_lost, true))
    }

    /// Notes that the work of a run has returned.
    pub(crate) fn ended(&self, run: RunKey) {
        if let Some(held) = self.state.lock().runs.get_mut(&run) {
            held.is_ended = true;
        }
    }

    /// How many jobs of a name have not returned.
    pub(crate) fn running(&self, name: &str) -> usize {
        self.state.lock().runs.values().filter(|held| held.name == name && !held.is_ended).count()
    }

    pub(crate) fn task(&self, run: RunKey) -> Option<TaskId> {
        self.state.lock().runs.get(&run)?.task
    }

    pub(crate) fn is_lost(&self, run: RunKey) -> bool {
        self.state.lock().runs.get(&run).is_some_and(|held| held.is_lost)
    }

    pub(crate) fn remove(&self, run: RunKey) {
        let mut state = self.state.lock();
        if let Some(held) = state.runs.remove(&run) {
            if !held.is_started {
                state.start(held.name);
            }
            state.crashed -= usize::from(held.is_crashed);
        }
        let is_empty = state.runs.is_empty();
        drop(state);
        if is_empty {
            self.settled.notify_waiters();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().runs.len()
    }

    /// How many jobs, of the names for which `counts` holds, have not begun to run.
    pub(crate) fn not_started(&self, counts: impl Fn(&'static str) -> bool) -> usize {
        let not_started = self.state.lock().not_started.clone();
        not_started.into_iter().filter(|(name, jobs)| *jobs > 0 && counts(name)).map(|(_, jobs)| jobs).sum()
    }

    /// Whether the worker holds a job that has crashed a process before. Such a job runs alone.
    pub(crate) fn has_crashed(&self) -> bool {
        self.state.lock().crashed > 0
    }

    pub(crate) fn all(&self) -> Vec<RunKey> {
        self.state.lock().runs.keys().copied().collect()
    }

    /// The runs whose lease is not lost.
    pub(crate) fn kept(&self) -> Vec<RunKey> {
        let state = self.state.lock();
        state.runs.iter().filter(|(_, held)| !held.is_lost).map(|(run, _)| *run).collect()
    }

    /// The runs of some jobs.
    pub(crate) fn runs_of(&self, ids: &[JobId]) -> Vec<RunKey> {
        self.state.lock().runs.keys().filter(|(id, _)| ids.contains(id)).copied().collect()
    }

    /// Waits until the worker holds no job. Call it only when nothing more is reserved.
    pub(crate) async fn all_settled(&self) {
        loop {
            let mut settled = pin!(self.settled.notified());
            settled.as_mut().enable();
            if self.len() == 0 {
                return;
            }
            settled.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u128) -> RunKey {
        (JobId::from_u128(number), 1)
    }

    #[test]
    fn counts_what_has_not_started_and_what_has_crashed() {
        let held = HeldJobs::default();
        held.insert(run(1), "mail", true);
        held.insert(run(2), "report", false);
        assert_eq!((held.len(), held.not_started(|_| true), held.has_crashed()), (2, 2, true));
        assert_eq!(held.not_started(|name| name == "mail"), 1);
        held.started(run(1));
        held.started(run(1));
        assert_eq!(held.not_started(|_| true), 1);
        assert_eq!((held.running("mail"), held.running("report")), (1, 1));
        held.ended(run(1));
        assert_eq!((held.running("mail"), held.running("report")), (0, 1));
        held.remove(run(1));
        held.remove(run(2));
        held.remove(run(2));
        assert_eq!((held.len(), held.not_started(|_| true), held.has_crashed()), (0, 0, false));
    }

    #[test]
    fn a_run_is_lost_once() {
        let held = HeldJobs::default();
        held.insert(run(1), "mail", false);
        assert!(held.lose(run(1)));
        assert!(!held.lose(run(1)));
        assert!(held.is_lost(run(1)) && held.kept().is_empty());
        assert!(!held.lose(run(2)));
    }
}
