//! Records of what tasks and hooks did, and checks of the counters.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use postlude::{TaskMetrics, TaskRegistry, TaskReport};

/// Notes, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub(crate) fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// A task that notes its name.
    pub(crate) fn task(&self, name: &'static str) -> impl Future<Output = ()> + Send + use<> {
        let journal = self.clone();
        async move { journal.note(name) }
    }
}

/// The reports that a failure hook has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports(Arc<Mutex<Vec<TaskReport>>>);

impl Reports {
    pub(crate) fn hook(&self) -> impl Fn(&TaskReport) + Send + Sync + use<> {
        let reports = self.clone();
        move |report| reports.0.lock().unwrap().push(report.clone())
    }

    pub(crate) fn read(&self) -> Vec<TaskReport> {
        self.0.lock().unwrap().clone()
    }
}

/// The counters must agree with each other, and with the number of tasks that were really added.
pub(crate) fn assert_conserved(registry: &TaskRegistry, added: u64) {
    let m = registry.metrics();
    assert_eq!(m.added, added, "added: {m:?}");
    assert_eq!(m.added, m.pending + m.running + outcomes(&m), "conservation: {m:?}");
}

pub(crate) fn outcomes(m: &TaskMetrics) -> u64 {
    m.completed + m.failed + m.panicked + m.timed_out + m.aborted + m.discarded
}

/// Panics when it is dropped. A second one that does so while the first unwinds ends the process.
pub(crate) struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bug in a drop");
    }
}

impl fmt::Debug for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bomb")
    }
}

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bomb")
    }
}

impl std::error::Error for Bomb {}
