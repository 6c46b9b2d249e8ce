//! The end: let what runs come to its end, up to a deadline, and say what did not.

use std::{future::Future, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    engine::shared::Shared,
    ledger::finished::{EndedBy, Finish},
    model::{DiscardReason, Outcome, ShutdownReport, TaskInfo},
    registry::TaskRegistry,
    util::{
        clock::Timestamp,
        loom::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
    },
};

/// How often a shutdown that waits says what it waits for.
const STRAGGLERS_EVERY: Duration = Duration::from_secs(5);

/// How often it looks whether what it waits for can come at all.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long aborted tasks are given to be dropped, if the settle time allows.
const DROPPED_WITHIN: Duration = Duration::from_millis(50);

/// How many stragglers it names.
const STRAGGLERS_NAMED: usize = 10;

/// How many lost tasks of a kind it names: a flood that goes on during a shutdown must not fill the memory.
const LOSSES_NAMED: usize = 10_000;

/// How far a shutdown has come, and what it has cost so far.
#[derive(Default)]
pub(crate) struct Progress {
    begun: AtomicBool,
    /// Cancelled when a shutdown begins.
    stopping: CancellationToken,
    losses: Mutex<Losses>,
}

#[derive(Default)]
struct Losses {
    completed_before: u64,
    failed_before: u64,
    /// Reported: what is lost from here on was added to a closed registry.
    reported: bool,
    aborted: Vec<TaskInfo>,
    discarded: Vec<TaskInfo>,
    unnamed: u64,
}

impl Progress {
    /// Remembers a task that was lost in a shutdown.
    pub(crate) fn note(&self, ended: &Finish) {
        if !self.has_begun() {
            return;
        }
        let mut losses = self.losses.lock();
        if losses.reported {
            return;
        }
        let losses = &mut *losses;
        let list = match &ended.outcome {
            Outcome::Aborted => &mut losses.aborted,
            Outcome::Discarded(DiscardReason::Closed | DiscardReason::Capacity | DiscardReason::Refused) => {
                &mut losses.discarded
            }
            _ => return,
        };
        if list.len() < LOSSES_NAMED {
            list.push(ended.live.info(ended.now));
        } else {
            losses.unnamed += 1;
        }
    }

    fn has_begun(&self) -> bool {
        // SeqCst, with `begin`: see `SetQueue::answered`.
        self.begun.load(Ordering::SeqCst)
    }
}

impl Shared {
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.progress.has_begun()
    }

    /// Cancelled when a shutdown begins: what repeats or batched by itself ends then.
    pub(crate) const fn stopping(&self) -> &CancellationToken {
        &self.progress.stopping
    }
}

impl TaskRegistry {
    /// Ends the registry in an orderly way, within `grace` and the
    /// [settle time](crate::TaskRegistryBuilder::settle), and says what was lost.
    ///
    /// 1. Sets whose response exists launch at once, whatever their client does; the others as soon as their
    ///    handler is done.
    /// 2. Until nothing is live, or until `grace` is over, everything goes on: tasks of requests still in
    ///    flight, and tasks added by tasks, are accepted.
    /// 3. When nothing is live, the registry closes. Later adds are discarded, or handed back by the `try_`
    ///    methods.
    /// 4. If `grace` ends first, the registry closes then, cancels the
    ///    [token](crate::cancellation) of every task, waits the settle time, and aborts what is left.
    ///
    /// Tasks that wait for a time after the deadline, for their [delay](crate::Task::delay) or another
    /// [attempt](crate::Task::retrying), are not waited for: when nothing else is left, they are given up, and reported.
    ///
    /// Call it when the server has stopped: stop accepting, let connections finish, then shut down. A second
    /// call, also at the same time, is harmless and reports the same losses.
    ///
    /// A blocking closure, or a future that does not yield, cannot be ended from outside: the report lists it
    /// as [stuck](ShutdownReport::stuck), and dropping a runtime waits for such a closure. End with
    /// `Runtime::shutdown_timeout`, or exit the process. On a `current_thread` runtime, a task that never
    /// yields stops everything, this method too. Called from one of the registry's own tasks, it waits for that
    /// task, and at the deadline aborts it.
    ///
    /// A set that is launched because of a shutdown, before its response's body has ended, sees the ending
    /// `Disconnected`.
    ///
    /// # Cancel safety
    /// Given up, it leaves the registry in the phase it has reached: sets launch at once, and another call
    /// takes it up.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        let shared = &*self.shared;
        let start = Timestamp::now();
        self.launch_answered_sets();
        let idle = before(shared, grace, self.close_when_idle(deadline_after(start, grace))).await;
        shared.ledger.close();
        shared.token.cancel();
        // What is aborted needs a moment to be dropped; it comes out of the settle time.
        let last = (shared.settle_time / 10).max(shared.settle_time.min(DROPPED_WITHIN));
        if !idle {
            before(shared, shared.settle_time - last, shared.ledger.wait_idle()).await;
            self.end_everything();
        }
        before(shared, last, shared.stuck.wait_empty()).await;
        self.report(start)
    }

    /// Begins the shutdown: from here on, a set launches as soon as there is a response.
    pub(crate) fn launch_answered_sets(&self) {
        let metrics = self.metrics();
        let mut losses = self.shared.progress.losses.lock();
        if !self.shared.progress.has_begun() {
            losses.completed_before = metrics.completed;
            losses.failed_before = metrics.all_failed();
            // SeqCst: see `SetQueue::answered`.
            self.shared.progress.begun.store(true, Ordering::SeqCst);
        }
        drop(losses);
        self.shared.progress.stopping.cancel();
        for set in self.shared.ledger.survey(|_| ()) {
            set.launch_answered();
        }
    }

    /// Waits until nothing is live. What is due after the deadline is given up when nothing else is left.
    async fn close_when_idle(&self, deadline: Timestamp) {
        let shared = &*self.shared;
        let mut next_log = Timestamp::now().plus(STRAGGLERS_EVERY);
        loop {
            // One shard after the other, so something may have been added to the first meanwhile: it goes on.
            if shared.ledger.all_live(|task| task.is_due_after(deadline)) {
                self.end_due_after(deadline);
            }
            let is_idle = before(shared, LOOK_EVERY, shared.ledger.wait_idle()).await;
            // Something may have been added since it was idle.
            if is_idle && shared.ledger.close_if_idle() {
                return;
            }
            if Timestamp::now() >= next_log {
                next_log = next_log.plus(STRAGGLERS_EVERY);
                self.log_stragglers();
            }
        }
    }

    fn log_stragglers(&self) {
        let tasks = self.tasks();
        tracing::warn!(target: "postlude", live = tasks.len(), "the shutdown is waiting for tasks");
        for task in tasks.iter().take(STRAGGLERS_NAMED) {
            tracing::warn!(target: "postlude", "waiting for {task}");
        }
    }

    fn end_due_after(&self, deadline: Timestamp) {
        let mut spawned = Vec::new();
        let sets = self.shared.ledger.survey(|task| {
            if task.is_due_after(deadline) {
                spawned.push(task.identity.id);
            }
        });
        for id in spawned {
            self.shared.end_spawned(id, Outcome::unfinished, EndedBy::Caller);
        }
        for set in sets {
            set.end_due_after(deadline);
        }
    }

    fn end_everything(&self) {
        let mut spawned = Vec::new();
        let sets = self.shared.ledger.survey(|task| spawned.push(task.identity.id));
        for id in spawned {
            self.shared.end_spawned(id, Outcome::unfinished, EndedBy::Caller);
        }
        for set in sets {
            set.shut();
        }
    }

    fn report(&self, start: Timestamp) -> ShutdownReport {
        let now = Timestamp::now();
        let metrics = self.metrics();
        let stuck = self.shared.stuck.list();
        let mut losses = self.shared.progress.losses.lock();
        losses.reported = true;
        ShutdownReport {
            completed: metrics.completed.saturating_sub(losses.completed_before),
            failed: metrics.all_failed().saturating_sub(losses.failed_before),
            aborted: losses.aborted.clone(),
            discarded: losses.discarded.clone(),
            unnamed: losses.unnamed,
            stuck: stuck.into_iter().map(|identity| TaskInfo::stuck(identity, now)).collect(),
            took: now.since(start),
        }
    }
}

/// The end of a time of grace, if only after decades: before what is due after the longest delay that can be told.
const fn deadline_after(now: Timestamp, grace: Duration) -> Timestamp {
    const DECADES: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    now.plus(if grace.as_secs() < DECADES.as_secs() { grace } else { DECADES })
}

/// Whether `event` came before `limit` was over.
async fn before(shared: &Shared, limit: Duration, event: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = event => true,
        () = shared.timer.sleep(limit) => false,
    }
}
