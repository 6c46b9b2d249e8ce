//! The panics of hooks and other foreign code: counted and logged.

use crate::{
    telemetry::log,
    util::{
        escape::Escaped,
        loom::atomic::{AtomicU64, Ordering},
        panic::Panic,
    },
};

/// The panics that were caught.
#[derive(Default)]
pub(crate) struct HookPanics(AtomicU64);

impl HookPanics {
    /// Counts and logs a panic that was caught.
    pub(crate) fn count(&self, whose: &'static str, panic: &Panic) {
        // Relaxed: a statistic.
        self.0.fetch_add(1, Ordering::Relaxed);
        let _already_counted = log::emit(|| {
            tracing::error!(target: "postlude", error = %Escaped(panic), "{whose} panicked; the panic was caught, and the task goes on");
        });
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
