//! The jobs that a worker holds: it has reserved them, and not settled them.

use std::{collections::HashMap, pin::pin};

use parking_lot::Mutex;
use postlude::TaskId;
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
    /// How many of them have not begun to run.
    not_started: usize,
    /// How many of them have crashed a process before.
    crashed: usize,
}

#[derive(Clone, Copy, Default)]
struct Held {
    task: Option<TaskId>,
    is_started: bool,
    is_crashed: bool,
    is_lost: bool,
}

impl HeldJobs {
    pub(crate) fn insert(&self, run: RunKey, is_crashed: bool) {
        let mut state = self.state.lock();
        state.not_started += 1;
        state.crashed += usize::from(is_crashed);
        state.runs.insert(run, Held { is_crashed, ..Held::default() });
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
        if !std::mem::replace(&mut held.is_started, true) {
            state.not_started -= 1;
        }
    }

    /// Notes that the lease of a run is lost; `false` if it was known.
    pub(crate) fn lose(&self, run: RunKey) -> bool {
        let mut state = self.state.lock();
        state.runs.get_mut(&run).is_some_and(|held| !std::mem::replace(&mut held.is_lost, true))
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
            state.not_started -= usize::from(!held.is_started);
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

    pub(crate) fn not_started(&self) -> usize {
        self.state.lock().not_started
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
        held.insert(run(1), true);
        held.insert(run(2), false);
        assert_eq!((held.len(), held.not_started(), held.has_crashed()), (2, 2, true));
        held.started(run(1));
        held.started(run(1));
        assert_eq!(held.not_started(), 1);
        held.remove(run(1));
        held.remove(run(2));
        held.remove(run(2));
        assert_eq!((held.len(), held.not_started(), held.has_crashed()), (0, 0, false));
    }

    #[test]
    fn a_run_is_lost_once() {
        let held = HeldJobs::default();
        held.insert(run(1), false);
        assert!(held.lose(run(1)));
        assert!(!held.lose(run(1)));
        assert!(held.is_lost(run(1)) && held.kept().is_empty());
        assert!(!held.lose(run(2)));
    }
}
