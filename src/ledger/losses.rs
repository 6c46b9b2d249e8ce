//! The tasks that a shutdown has lost.

use tokio_util::sync::CancellationToken;

use crate::{
    ledger::finished::Finish,
    model::{DiscardReason, Outcome, TaskInfo},
    util::loom::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// How many lost tasks are kept in each list: tasks that are still added during a shutdown must not exhaust the memory.
const MAX_NAMED: usize = 10_000;

/// Whether a shutdown has begun, and the tasks that it has lost.
#[derive(Default)]
pub(crate) struct Losses {
    begun: AtomicBool,
    /// Cancelled when a shutdown begins.
    stopping: CancellationToken,
    lost: Mutex<Lost>,
}

/// The tasks that a shutdown has lost.
#[derive(Clone, Default)]
pub(crate) struct Lost {
    pub(crate) completed_before: u64,
    pub(crate) failed_before: u64,
    /// Whether the report was made. Tasks that are lost later were added to a closed registry, and are not part of it.
    is_reported: bool,
    pub(crate) aborted: Vec<TaskInfo>,
    pub(crate) discarded: Vec<TaskInfo>,
    /// The number of lost tasks beyond `MAX_NAMED`.
    pub(crate) unnamed: u64,
}

impl Losses {
    /// Begins a shutdown. `completed` and `failed` are the counts so far, which its report leaves out.
    pub(crate) fn begin(&self, completed: u64, failed: u64) {
        let mut lost = self.lost.lock();
        if !self.has_begun() {
            (lost.completed_before, lost.failed_before) = (completed, failed);
            // SeqCst: see `SetQueue::response_ready`.
            self.begun.store(true, Ordering::SeqCst);
        }
        drop(lost);
        self.stopping.cancel();
    }

    pub(crate) fn has_begun(&self) -> bool {
        // SeqCst: see `SetQueue::response_ready`.
        self.begun.load(Ordering::SeqCst)
    }

    /// Cancelled when a shutdown begins. Ends repetitions and flushes batches.
    pub(crate) const fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Records a task that was lost in a shutdown.
    pub(crate) fn record(&self, finish: &Finish) {
        if !self.has_begun() {
            return;
        }
        let mut lost = self.lost.lock();
        if lost.is_reported {
            return;
        }
        let lost = &mut *lost;
        let list = match &finish.outcome {
            Outcome::Aborted => &mut lost.aborted,
            Outcome::Discarded(
                DiscardReason::Closed
                | DiscardReason::Capacity
                | DiscardReason::Refused
                | DiscardReason::PreviousFailed,
            ) => &mut lost.discarded,
            Outcome::Discarded(DiscardReason::Ending | DiscardReason::Cleared)
            | Outcome::Completed
            | Outcome::Failed(_)
            | Outcome::Panicked(_)
            | Outcome::TimedOut(_) => return,
        };
        if list.len() < MAX_NAMED {
            list.push(finish.task.info(finish.now));
        } else {
            lost.unnamed += 1;
        }
    }

    /// The lost tasks, for the report. Tasks that are lost later are not recorded.
    pub(crate) fn report(&self) -> Lost {
        let mut lost = self.lost.lock();
        lost.is_reported = true;
        lost.clone()
    }
}
