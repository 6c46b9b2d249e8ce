//! What all clones of a registry share; the only place that spawns.

use std::{future::Future, sync::Arc, task::Waker, time::Duration};

use rustc_hash::FxHashSet;
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{abandoned::Stuck, drain::Drain, queue::SetQueue},
    ledger::{
        Ledger, dead_letters,
        finished::{EndedBy, Finish},
        live::{LiveTask, Stage},
    },
    limits::AdmissionControl,
    model::{BoxError, Outcome, RejectReason, TaskId, TaskInfo},
    registry::shutdown::Progress,
    task::work::Meta,
    telemetry::{Telemetry, span::SpanRelation},
    util::{
        clock::Timestamp,
        delay_queue::DelayQueue,
        loom::{Mutex, atomic::AtomicU64},
        panic::drop_catching,
    },
};

/// Which tasks are accepted, as the user wants it.
pub(crate) type Rule = dyn Fn(&TaskInfo) -> Result<(), BoxError> + Send + Sync;

/// How long a set waits after its last hold was released.
///
/// Some of what the server still has to write has no chunk that could tell: h2 releases a chunk when it copies the last,
/// short piece of it into its own buffer, just before the write of the same poll; and the end of a stream, like an empty
/// body, comes without a chunk. Yields to the scheduler in place of a timer are over too early far more often.
pub(crate) const FLUSH_DELAY: Duration = Duration::from_millis(2);

/// All waits of a registry. A set that expires in it has waited long enough for its response.
pub(crate) type Timer = DelayQueue<Arc<SetQueue>>;

pub(crate) struct Shared {
    pub(crate) handle: Handle,
    /// All waits go through it.
    pub(crate) timer: Arc<Timer>,
    pub(crate) ledger: Ledger,
    pub(crate) admission: AdmissionControl,
    pub(crate) stuck: Stuck,
    /// Spawned tasks that a shutdown or the end of the runtime discarded: their handles may ask.
    pub(crate) never_started: Mutex<FxHashSet<TaskId>>,
    pub(crate) default_timeout: Option<Duration>,
    pub(crate) settle_time: Duration,
    pub(crate) telemetry: Telemetry,
    pub(crate) spans: SpanRelation,
    pub(crate) dead_letters: dead_letters::Store,
    pub(crate) rule: Option<Box<Rule>>,
    pub(crate) hook_panics: AtomicU64,
    /// Requests that were turned away.
    pub(crate) shed: AtomicU64,
    /// The parent of every task's token.
    pub(crate) token: CancellationToken,
    pub(crate) progress: Progress,
}

impl Shared {
    /// Whether a task can just be polled: async, without policy, and without waiting for a turn.
    #[inline]
    pub(crate) fn runs_plain(&self, meta: &Meta) -> bool {
        meta.policy.is_none() && self.default_timeout.is_none() && self.admission.is_unlimited(meta)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(future)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub(crate) fn spawn_blocking<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn_blocking(call)
    }

    pub(crate) fn spawn_drain(&self, line: Arc<SetQueue>) {
        #[cfg(all(test, postlude_loom))]
        let drain = crate::loom_tests::leave_to_the_model(line);
        #[cfg(not(all(test, postlude_loom)))]
        let drain = Drain::new(line);
        drop(self.spawn(drain));
    }

    /// Counts and lists a spawned task; says whether that made a crowd.
    #[inline]
    pub(crate) fn admit_spawned(&self, live: LiveTask) -> Result<bool, RejectReason> {
        self.ledger.reserve()?;
        let mut books = self.ledger.books(live.identity.id.line);
        let admitted = books.admit();
        if admitted.is_ok() {
            books.list_spawned(live);
        } else {
            self.ledger.give_back();
        }
        admitted
    }

    /// The tokio task that has a task in hand waits; `false` if the task has been ended from outside.
    pub(crate) fn park(&self, id: TaskId, runner: Waker) -> bool {
        self.with_live(id, |live| live.park(runner)).is_some()
    }

    /// Asks the admission filter about a task. Never under a lock.
    ///
    /// # Errors
    /// If the filter refuses it.
    #[inline]
    pub(crate) fn consider(&self, meta: &Meta) -> Result<(), BoxError> {
        self.admission.note_priority(meta);
        self.ask_rule(|| {
            let identity = meta.identity();
            LiveTask::new(identity).info(identity.added)
        })
    }

    /// Marks a waiting task as started; `false` if it has already ended.
    #[inline]
    pub(crate) fn start(&self, id: TaskId) -> bool {
        let now = Timestamp::now();
        let started = match id.set() {
            Some(_) => self.ledger.set(id.line).is_some_and(|set| set.start(id, now)),
            None => self.ledger.books(id.line).start_spawned(id.line, now),
        };
        if started {
            self.started(id);
        }
        started
    }

    /// A live task, as lists show it.
    pub(crate) fn live(&self, id: TaskId) -> Option<TaskInfo> {
        let now = Timestamp::now();
        match id.set() {
            Some(_) => self.ledger.set(id.line)?.info(id, now),
            None => self.with_live(id, |live| live.info(now)),
        }
    }

    /// Ends a spawned task; `false` if it had already ended.
    pub(crate) fn end_spawned(&self, id: TaskId, outcome: impl FnOnce(Stage) -> Outcome, side: EndedBy) -> bool {
        let now = Timestamp::now();
        let attentive = self.wants_completed();
        let mut books = self.ledger.books(id.line);
        let Some(live) = books.take_spawned(id.line) else {
            // Before `outcome` goes, which may hold an error of the user's.
            drop(books);
            return false;
        };
        let outcome = outcome(live.stage());
        let quiet = outcome.is_completed() && !attentive;
        let forgotten = books.end(&live, &outcome, now, quiet);
        if quiet && live.is_alone() {
            let idle = books.is_idle();
            drop(books);
            if forgotten.is_some() {
                drop_catching(forgotten);
            }
            self.settle_quietly(idle);
            return true;
        }
        if live.stage() == Stage::Pending && matches!(outcome, Outcome::Discarded(_)) {
            self.never_started.lock().insert(id);
        }
        if side == EndedBy::Caller {
            // Under the lock: its own end comes after this, and takes it out again.
            self.stuck.insert_cut(&live);
        }
        drop(books);
        if forgotten.is_some() {
            drop_catching(forgotten);
        }
        let mut ended = Finish { live, outcome, now, side, quiet };
        ended.release();
        self.settle(ended);
        true
    }

    /// The outcome of a spawned task that was ended from outside while the tokio task that ran it goes on. If
    /// it has none yet, `waker` is woken when it has.
    pub(crate) fn outcome_from_outside(&self, id: TaskId, waker: &Waker) -> Option<Outcome> {
        let waker = waker.clone();
        let mut books = self.ledger.books(id.line);
        let Some(task) = books.spawned(id.line) else {
            drop(books);
            return self.stuck.was_cut(id).then(|| self.outcome_of_cut(id));
        };
        let replaced = task.wake_at_end(waker);
        drop(books);
        drop(replaced);
        None
    }

    /// The outcome of a spawned task that was ended from outside, or with its runtime.
    pub(crate) fn outcome_of_cut(&self, id: TaskId) -> Outcome {
        let stage = if self.never_started.lock().contains(&id) { Stage::Pending } else { Stage::Running };
        Outcome::unfinished(stage)
    }

    /// The cancellation token of a running task.
    pub(crate) fn token_of(&self, id: TaskId) -> CancellationToken {
        // Made before, dropped after the lock: its kin have a lock of their own.
        let fresh = self.token.child_token();
        self.with_live(id, |live| live.token(&fresh)).unwrap_or_else(|| {
            // The task has its outcome, while its work goes on.
            fresh.cancel();
            fresh
        })
    }
}
