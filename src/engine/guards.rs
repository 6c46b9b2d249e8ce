//! Those that a shutdown waits for when its tasks have ended.

use std::{pin::pin, sync::Arc};

use tokio::sync::Notify;
use tokio_util::sync::WaitForCancellationFuture;

use crate::{
    engine::shared::Shared,
    util::loom::atomic::{AtomicUsize, Ordering},
};

/// How many [`ShutdownGuard`]s there are.
#[derive(Default)]
pub(crate) struct Guards {
    count: AtomicUsize,
    none_left: Notify,
}

impl Guards {
    pub(crate) fn count(&self) -> usize {
        // SeqCst: with the notification of `drop`, a guard that is dropped after this look wakes the one that waits.
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until there is no guard.
    pub(crate) async fn wait_none(&self) {
        loop {
            let mut none_left = pin!(self.none_left.notified());
            none_left.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            none_left.await;
        }
    }
}

/// Makes a shutdown wait until the guard is dropped: for code that still has something to do when the tasks have ended,
/// such as storing their outcomes. Made by [`TaskRegistry::shutdown_guard`](crate::TaskRegistry::shutdown_guard).
///
/// ```
/// use std::time::Duration;
/// use postlude::TaskRegistry;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let guard = registry.shutdown_guard();
/// let work = registry.spawn(async { /* fetched from a queue */ });
/// let worker = async {
///     guard.shutdown_started().await; // fetch no more
///     let outcome = work.await;
///     // tell the queue the outcome, then let the shutdown return
///     drop(guard);
///     outcome
/// };
/// let (report, outcome) = tokio::join!(registry.shutdown(Duration::from_secs(10)), worker);
/// assert!(report.is_clean() && outcome.is_completed());
/// # }
/// ```
///
/// A guard does not keep the registry open: it closes when it is idle, or at the deadline. When the tasks have ended or
/// were aborted, the shutdown waits for the guards for the [settle time](crate::TaskRegistryBuilder::settle) at most,
/// and logs a warning if some are left.
#[must_use = "a shutdown waits only while the guard is alive"]
pub struct ShutdownGuard {
    shared: Arc<Shared>,
}

impl ShutdownGuard {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        // SeqCst: as in `drop`.
        shared.guards.count.fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(shared) }
    }

    /// Resolves when a [`shutdown`](crate::TaskRegistry::shutdown) begins; at once if one has begun.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub fn shutdown_started(&self) -> WaitForCancellationFuture<'_> {
        self.shared.losses.stopping().cancelled()
    }
}

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        let guards = &self.shared.guards;
        // SeqCst: see `count`.
        if guards.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The waker may be foreign code, if the shutdown runs on another executor than tokio's.
            self.shared.telemetry.run_foreign("a waker", || guards.none_left.notify_waiters());
        }
    }
}

impl std::fmt::Debug for ShutdownGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShutdownGuard").finish_non_exhaustive()
    }
}
