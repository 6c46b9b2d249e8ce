//! The end: let what runs come to its end, up to a deadline, and say what did not.

use std::{future::Future, time::Duration};

use crate::{
    engine::{abandoned::DROPPED_WITHIN, shared::Shared},
    ledger::{finished::EndedBy, live::LiveTask},
    model::ShutdownReport,
    registry::TaskRegistry,
    util::clock::Timestamp,
};

/// How often a shutdown that waits says what it waits for.
const STRAGGLERS_EVERY: Duration = Duration::from_secs(5);

/// How often it looks whether what it waits for can come at all.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How many stragglers it names.
const STRAGGLERS_NAMED: usize = 10;

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
        self.drain_answered_sets();
        let idle = before(shared, grace, self.close_when_idle(deadline_after(start, grace))).await;
        shared.ledger.close();
        shared.token.cancel();
        // What is aborted needs a moment to be dropped; it comes out of the settle time.
        let last = (shared.settle_time / 10).max(shared.settle_time.min(DROPPED_WITHIN));
        if !idle {
            before(shared, shared.settle_time - last, shared.ledger.wait_idle()).await;
            self.end_everything();
        }
        before(shared, last, shared.abandoned.wait_empty()).await;
        shared.dead_letters.drop_sources();
        self.report(start)
    }

    /// Begins the shutdown: from here on, a set drains as soon as there is a response.
    pub(crate) fn drain_answered_sets(&self) {
        let metrics = self.metrics();
        self.shared.losses.begin(metrics.completed, metrics.all_failed());
        for set in self.shared.ledger.survey(|_| ()) {
            set.drain_if_answered();
        }
    }

    /// Waits until nothing is live. What is due after the deadline is given up when nothing else is left.
    async fn close_when_idle(&self, deadline: Timestamp) {
        let shared = &*self.shared;
        let mut next_log = Timestamp::now().plus(STRAGGLERS_EVERY);
        loop {
            // One shard after the other, so something may have been added to the first meanwhile: it goes on.
            if shared
                .ledger
                .all(|task| task.is_due_after(deadline), |set| set.all_live(|task| task.is_due_after(deadline)))
            {
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
        self.shared.telemetry.log(|| {
            tracing::warn!(target: "postlude", live = tasks.len(), "the shutdown is waiting for tasks");
            for task in tasks.iter().take(STRAGGLERS_NAMED) {
                tracing::warn!(target: "postlude", "waiting for {task}");
            }
        });
    }

    fn end_due_after(&self, deadline: Timestamp) {
        let mut spawned = Vec::new();
        let sets = self.shared.ledger.survey(|task| {
            if task.is_due_after(deadline) {
                spawned.push(task.identity.id);
            }
        });
        for id in spawned {
            self.shared.end_spawned(id, LiveTask::unfinished, EndedBy::Caller);
        }
        for set in sets {
            set.transition(|step| step.end_due_after(deadline));
        }
    }

    fn end_everything(&self) {
        let mut spawned = Vec::new();
        let sets = self.shared.ledger.survey(|task| spawned.push(task.identity.id));
        for id in spawned {
            self.shared.end_spawned(id, LiveTask::unfinished, EndedBy::Caller);
        }
        for set in sets {
            set.transition(|step| step.shut_down());
        }
    }

    fn report(&self, start: Timestamp) -> ShutdownReport {
        let now = Timestamp::now();
        let metrics = self.metrics();
        let stuck = self.shared.abandoned.list();
        let lost = self.shared.losses.report();
        ShutdownReport {
            completed: metrics.completed.saturating_sub(lost.completed_before),
            failed: metrics.all_failed().saturating_sub(lost.failed_before),
            aborted: lost.aborted,
            discarded: lost.discarded,
            unnamed: lost.unnamed,
            stuck: stuck.into_iter().map(|identity| LiveTask::new(identity).stuck_info(now)).collect(),
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
