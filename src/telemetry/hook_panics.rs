//! The panics of hooks and other foreign code: counted and logged.

use crate::{
    model::{TaskId, TaskName},
    telemetry::log,
    util::{
        escape::Escaped,
        loom::atomic::{AtomicU64, Ordering},
        panic::Panic,
    },
};

/// The task for which foreign code was called, if it was for one.
pub(crate) type OfTask = Option<(TaskId, TaskName)>;

/// The panics that were caught.
#[derive(Default)]
pub(crate) struct HookPanics(AtomicU64);

impl HookPanics {
    /// Counts and logs a panic that was caught.
    pub(crate) fn count(&self, whose: &'static str, task: OfTask, panic: &Panic) {
        // Relaxed: a statistic.
        self.0.fetch_add(1, Ordering::Relaxed);
        let _already_counted = log::emit(|| {
            tracing::error!(
                target: "postlude",
                id = task.map(|(id, _)| tracing::field::display(id)),
                name = task.as_ref().map(|(_, name)| name.as_str()),
                error = %Escaped(panic),
                "{whose} panicked; the panic was caught, and the task goes on"
            );
        });
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
