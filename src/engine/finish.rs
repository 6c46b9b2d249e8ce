//! What happens after a task was added, has started, or has ended.

use std::time::Duration;

use crate::{
    engine::shared::Shared,
    ledger::{
        dead_letters::KeptLetter,
        finished::{EndedBy, Finish},
        live::LiveTask,
        losses::Naming,
    },
    model::{Attempt, DeadLetter, Identity, Outcome, TaskId, TaskReport},
    task::{Rejected, exhausted::Exhausted},
    telemetry::{EventRef, log},
    util::{clock::Timestamp, panic::drop_catching},
};

/// Everything here is called without a lock.
impl Shared {
    /// A task was accepted, or refused and counted.
    pub(crate) fn added(&self, identity: Identity) {
        if self.telemetry.has_observers() {
            self.telemetry.notify(EventRef::Added(&LiveTask::new(identity).info(identity.added)));
        }
    }

    /// An attempt of a task has started, and its work was not polled yet.
    pub(crate) fn started(&self, id: TaskId) -> bool {
        if !self.telemetry.has_observers() {
            return true;
        }
        let now = Timestamp::now();
        let Some(task) = self.with_live(id, |live| live.info(now)) else { return false };
        self.telemetry.notify(EventRef::Started(&task));
        self.with_live(id, |_| ()).is_some()
    }

    /// An attempt has failed, and the next one is due after `delay`. `None` if the task has ended meanwhile.
    pub(crate) fn attempt_failed(&self, id: TaskId, outcome: Outcome, delay: Duration) -> Option<TaskReport> {
        let now = Timestamp::now();
        let due = now.plus(delay);
        let timed_out = matches!(outcome, Outcome::TimedOut(_));
        let (token, mut report) = self.with_live(id, |live| {
            live.attempt_failed(now);
            live.wait_until(due);
            let token = if timed_out { live.take_token() } else { None };
            (token, live.report(Outcome::Completed, now))
        })?;
        if let Some(token) = token {
            // For work that goes on; the next attempt gets a token of its own.
            self.telemetry.run_foreign("a waker", || token.cancel());
        }
        report.outcome = outcome;
        self.ledger.shard(id.number).attempt_failed(report.name, report.ran_for);
        self.detach_sleeping(id);
        self.telemetry.log(|| log::attempt_failed(&report, delay));
        if self.telemetry.has_observers() {
            self.telemetry.notify(EventRef::AttemptFailed(&report));
        }
        Some(report)
    }

    /// A task has used up its attempts. What it leaves stays with it until its outcome is counted.
    pub(crate) fn exhaust(&self, id: TaskId, exhausted: Box<Exhausted>) {
        let mut exhausted = Some(exhausted);
        if self.dead_letters.is_enabled() {
            let _none = self.with_live(id, |live| exhausted.take().and_then(|exhausted| live.exhaust(exhausted)));
        }
        drop_catching(exhausted);
    }

    /// Tells the work of a task that was ended from outside, or has timed out, to stop.
    pub(crate) fn signal_stop(&self, finish: &mut Finish) {
        if let (Some(token), true) = (finish.task.take_token(), finish.cancels()) {
            self.telemetry.run_foreign("a waker", || token.cancel());
        }
        if let Some(runner) = finish.take_runner() {
            // Tokio's own: the runner finds the task stopped.
            runner.wake();
        }
    }

    /// A task has ended and was counted: everything else that follows.
    pub(crate) fn finish(&self, mut finish: Finish) {
        self.ledger.release();
        let waker = finish.take_waker();
        self.report(finish);
        if let Some(waker) = waker {
            self.telemetry.run_foreign("a waker", || waker.wake());
        }
    }

    /// The same for a task that has completed, has left nothing, and that nobody observes.
    #[inline]
    pub(crate) fn finish_unobserved(&self, idle: bool) {
        self.ledger.release();
        self.wake_if_idle(idle);
    }

    /// Reports an end: to the log, to a shutdown, to the observers, to the dead letters, and to those who wait for
    /// idleness.
    fn report(&self, mut finish: Finish) {
        let number = finish.task.identity.id.number;
        let report = finish.report();
        let completed = report.outcome.is_completed();
        if completed || self.losses.record(&finish) == Naming::Named {
            self.telemetry.log(|| log::finished(&report));
        }
        self.telemetry.notify(EventRef::Finished(&report));
        if !completed {
            self.store_dead_letter(&report, finish.take_exhausted());
        }
        drop_catching(report);
        drop_catching(finish);
        let idle = self.ledger.reported(number);
        self.wake_if_idle(idle);
    }

    /// Wakes those who wait for idleness, if an end has left its shard idle.
    #[inline]
    fn wake_if_idle(&self, idle: bool) {
        if idle && self.ledger.has_waiters() {
            self.telemetry.run_foreign("a waker", || self.ledger.wake_waiters());
        }
    }

    /// Keeps the letter of a task that did not get done, and calls the hook.
    pub(crate) fn store_dead_letter(&self, report: &TaskReport, exhausted: Option<Box<Exhausted>>) {
        if !self.dead_letters.is_enabled() || !report.outcome.is_failure() {
            // Aborted after its last attempt, and before that was counted.
            drop_catching(exhausted);
            return;
        }
        let (failed, source) = exhausted.map(|exhausted| (exhausted.failed, exhausted.source)).unzip();
        let mut attempts = failed.unwrap_or_default().into_vec();
        attempts.push(Attempt::of(report));
        let letter = DeadLetter {
            id: report.id,
            name: report.name,
            location: report.location,
            set: report.set,
            replay_of: report.replay_of,
            attempts,
            is_replayable: source.is_some(),
        };
        let source = source.filter(|_| !self.ledger.is_closed());
        let copy = KeptLetter::new(letter.clone(), None);
        self.dead_letters.insert(KeptLetter::new(letter, source));
        if let Some(hook) = &self.dead_letters.hook {
            self.telemetry.call("the hook for dead letters", || hook(&copy.letter));
        }
    }

    /// Counts and reports a task that was not accepted, and drops it.
    pub(crate) fn discard(&self, rejected: Rejected) -> TaskId {
        let outcome = rejected.outcome();
        let (task, refusal) = rejected.into_parts();
        let identity = task.meta().identity();
        drop_catching(task);
        let (mut live, now) = (LiveTask::new(identity), identity.added);
        if let Some(refusal) = refusal {
            live.refuse(refusal);
        }
        let finished = live.finished(outcome.clone(), now);
        let evicted = self.ledger.shard(identity.id.number).refuse(finished);
        drop_catching(evicted);
        self.added(identity);
        self.report(Finish { task: live, outcome, now, by: EndedBy::Caller });
        identity.id
    }

    /// Warns if the number of live tasks has passed a mark.
    pub(crate) fn warn_of_high_water(&self, number: u64) {
        if let Some(live) = self.ledger.passed_high_water(number) {
            self.telemetry.log(|| {
                tracing::warn!(
                    target: "postlude",
                    live,
                    "many tasks are live; if they come faster than they end, set `capacity` or `max_concurrent` on the registry's builder"
                );
            });
        }
    }
}
