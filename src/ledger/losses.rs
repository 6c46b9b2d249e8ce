//! The tasks that a shutdown has lost.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    ledger::finished::Finish,
    model::{OutcomeKind, TaskInfo},
    util::{
        clock::Timestamp,
        loom::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
    },
};

/// How many lost tasks of a kind a shutdown names, in its report and in the log: a flood must fill neither.
pub(crate) const MAX_NAMED: usize = 10_000;

/// Whether a shutdown has begun, and the tasks that it has lost.
pub(crate) struct Losses {
    begun: AtomicBool,
    /// Cancelled when a shutdown begins.
    stopping: CancellationToken,
    /// The earliest deadline of all calls, also of those that were dropped. On the clock of the registry's runtime.
    deadline: watch::Sender<Timestamp>,
    lost: Mutex<Lost>,
}

impl Default for Losses {
    fn default() -> Self {
        Self {
            begun: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            deadline: watch::Sender::new(Timestamp::LAST),
            lost: Mutex::default(),
        }
    }
}

/// The tasks that a shutdown has lost.
#[derive(Clone, Default)]
pub(crate) struct Lost {
    /// How many tasks had completed and failed before, which the report leaves out.
    pub(crate) before: Option<(u64, u64)>,
    /// Whether the report was made. Tasks that are lost later were added to a closed registry, and are not part of it.
    is_reported: bool,
    pub(crate) aborted: Vec<TaskInfo>,
    pub(crate) discarded: Vec<TaskInfo>,
    /// The number of lost tasks beyond `MAX_NAMED`.
    pub(crate) unnamed: u64,
}

/// Whether the log names a task that has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    Named,
    /// The shutdown counts it, because it has cost too many tasks to name them all.
    Counted,
}

impl Losses {
    /// Notes how many tasks have completed and failed so far, unless that was noted before.
    pub(crate) fn count_from(&self, completed: u64, failed: u64) {
        self.lost.lock().before.get_or_insert((completed, failed));
    }

    /// Begins a shutdown.
    pub(crate) fn begin(&self) {
        // SeqCst: see `SetQueue::response_ready`.
        self.begun.store(true, Ordering::SeqCst);
        self.stopping.cancel();
    }

    /// Notes the deadline of a call.
    pub(crate) fn limit(&self, deadline: Timestamp) {
        self.deadline.send_if_modified(|earliest| {
            let is_earlier = deadline < *earliest;
            *earliest = deadline.min(*earliest);
            is_earlier
        });
    }

    /// The earliest deadline, and its changes.
    pub(crate) fn deadline(&self) -> watch::Receiver<Timestamp> {
        self.deadline.subscribe()
    }

    pub(crate) fn has_begun(&self) -> bool {
        // SeqCst: see `SetQueue::response_ready`.
        self.begun.load(Ordering::SeqCst)
    }

    /// Cancelled when a shutdown begins. Ends repetitions and flushes batches.
    pub(crate) const fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Remembers a task that was lost in a shutdown, as `mark` completes its info; says whether the log is to name it.
    pub(crate) fn record(&self, finish: &Finish, mark: impl FnOnce(TaskInfo) -> TaskInfo) -> Naming {
        if !self.has_begun() || finish.outcome.is_failure() || !finish.outcome.is_loss() {
            return Naming::Named;
        }
        let mut lost = self.lost.lock();
        let lost = &mut *lost;
        let list = match finish.outcome.kind() {
            OutcomeKind::Discarded => &mut lost.discarded,
            OutcomeKind::Aborted
            | OutcomeKind::Completed
            | OutcomeKind::Failed
            | OutcomeKind::Panicked
            | OutcomeKind::TimedOut => &mut lost.aborted,
        };
        let naming = if list.len() < MAX_NAMED { Naming::Named } else { Naming::Counted };
        match naming {
            _ if lost.is_reported => {}
            Naming::Named => list.push(mark(finish.task.info(finish.now))),
            Naming::Counted => lost.unnamed += 1,
        }
        naming
    }

    /// The losses, for the report. Later losses are not part of it, apart from those of the `live` tasks that the
    /// shutdown is still ending.
    pub(crate) fn report(&self, live: u64) -> Lost {
        let mut lost = self.lost.lock();
        if !std::mem::replace(&mut lost.is_reported, true) {
            lost.unnamed += live;
        }
        lost.clone()
    }
}
