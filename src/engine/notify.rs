//! Tells observers, the log and waiting code of an add, a start, a failed attempt and an end, outside all locks.

use std::{sync::Arc, time::Duration};

use crate::{
    engine::{set_queue::DrainCondition, shared::Shared},
    ledger::{
        dead_letters::KeptLetter,
        finished::{EndedBy, Finish},
        live::LiveTask,
        losses::Naming,
    },
    model::{Attempt, DeadLetter, Ending, Identity, Outcome, TaskId, TaskName, TaskReport},
    task::{Rejected, exhausted::Exhausted, work::Condition},
    telemetry::{EventRef, log},
    util::{clock::Timestamp, panic::drop_catching},
};

/// All of these methods are called without a lock.
impl Shared {
    /// Notifies observers that a task was added, even if it was then discarded.
    #[inline]
    pub(crate) fn notify_added(&self, identity: Identity) {
        if self.telemetry.has_observers() {
            let info = self.admission.marked(LiveTask::new(identity).info(identity.added));
            self.telemetry.notify(EventRef::Added(&info));
        }
    }

    /// Notifies observers that an attempt started at `started`. Called before its first poll. Returns the time from
    /// which on its time limit counts: the observers' time is not the task's. `None` if the task was ended meanwhile.
    #[inline]
    pub(crate) fn notify_started(&self, id: TaskId, started: Timestamp) -> Option<Timestamp> {
        if !self.telemetry.has_observers() {
            return Some(started);
        }
        let task = self.with_live(id, |live| live.info(started))?;
        self.telemetry.notify(EventRef::Started(&task));
        self.with_live(id, |_| Timestamp::now())
    }

    /// Counts and reports a failed attempt; the next one is due after `delay`. `None` if the task has ended meanwhile.
    pub(crate) fn attempt_failed(&self, id: TaskId, outcome: Outcome, delay: Duration) -> Option<TaskReport> {
        let now = Timestamp::now();
        let due = now.plus(delay);
        let timed_out = matches!(outcome, Outcome::TimedOut(_));
        let (token, permit, mut report) = self.with_live(id, |live| {
            live.attempt_failed(now);
            live.wait_until(due);
            let token = if timed_out { live.take_token() } else { None };
            (token, live.take_permit(), live.report(Outcome::Completed, now))
        })?;
        drop(permit);
        if let Some(token) = token {
            // The work of this attempt may still run. The next attempt gets a token of its own.
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

    /// Stores the remains of a task that has used up its attempts, until its outcome is counted.
    pub(crate) fn exhaust(&self, id: TaskId, exhausted: Box<Exhausted>) {
        let mut exhausted = Some(exhausted);
        if self.dead_letters.is_enabled() {
            let _none = self.with_live(id, |live| exhausted.take().and_then(|exhausted| live.exhaust(exhausted)));
        }
        drop_catching(exhausted);
    }

    /// Cancels the token of a task that was ended by a caller or has timed out, and wakes its runner.
    pub(crate) fn signal_stop(self: &Arc<Self>, finish: &mut Finish) {
        if let (Some(token), true) = (finish.task.take_token(), finish.cancels()) {
            self.telemetry.run_foreign("a waker", || token.cancel());
        }
        if let Some(runner) = finish.take_runner() {
            // Tokio's own waker. The runner then finds the task stopped.
            runner.wake();
        }
        if finish.by == EndedBy::Caller && finish.task.has_started() {
            self.watch_stuck();
        }
    }

    /// Applies all other effects of an end that was counted.
    pub(crate) fn finish(&self, mut finish: Finish) {
        self.ledger.release();
        let waker = finish.take_waker();
        if let Some(key) = finish.task.take_key() {
            // Before anybody is notified: a task that is added then must not join the one that has ended.
            self.admission.unique.release(&key, finish.task.identity.id);
        }
        self.report(finish);
        if let Some(waker) = waker {
            self.telemetry.run_foreign("a waker", || waker.wake());
        }
    }

    /// Like [`finish`](Self::finish), for a task that has completed without extras and is not observed.
    #[inline]
    pub(crate) fn finish_unobserved(&self, idle: bool) {
        self.ledger.release();
        self.wake_if_idle(idle);
    }

    /// Asks the condition of a task whether the task may run, after a request that ended so.
    pub(crate) fn may_run(&self, id: TaskId, name: TaskName, condition: &Condition, ending: Ending) -> bool {
        let runs = self.telemetry.ask("the condition of a task", Some((id, name)), || condition(&ending));
        if !runs {
            self.telemetry.log(|| {
                tracing::debug!(
                    target: "postlude", %id, name = name.as_str(), %ending,
                    "a task is not run: its condition (`when`) refuses this ending of the request"
                );
            });
        }
        runs
    }

    /// Asks the condition of a layer whether a set may drain, after a request that ended so.
    pub(crate) fn may_drain(&self, set: u64, condition: &DrainCondition, ending: Ending) -> bool {
        let drains = self.telemetry.ask("the condition of a layer", None, || condition(&ending));
        if !drains {
            self.telemetry.log(|| {
                tracing::debug!(
                    target: "postlude", set, %ending,
                    "a set is not drained: the condition of its layer (`drain_when`) refuses this ending of the request"
                );
            });
        }
        drains
    }

    /// Reports an end to the log, a shutdown, the observers, the dead letters, and tasks that wait for idleness.
    fn report(&self, mut finish: Finish) {
        let number = finish.task.identity.id.number;
        let report = finish.report();
        let completed = report.outcome.is_completed();
        if completed || self.losses.record(&finish, |info| self.admission.marked(info)) == Naming::Named {
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

    /// Wakes the tasks that wait for idleness, if an end has left its shard idle, and the other shards are idle, too.
    #[inline]
    fn wake_if_idle(&self, idle: bool) {
        if idle && self.ledger.has_waiters() && self.ledger.is_idle() {
            self.telemetry.run_foreign("a waker", || self.ledger.wake_waiters());
        }
    }

    /// Stores the dead letter of a failed task, and calls the hook.
    pub(crate) fn store_dead_letter(&self, report: &TaskReport, exhausted: Option<Box<Exhausted>>) {
        if !self.dead_letters.is_enabled() || !report.outcome.is_failure() {
            // The task was aborted after its last attempt and before its outcome was counted.
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
            self.telemetry.call("the hook for dead letters", (report.id, report.name), || hook(&copy.letter));
        }
    }

    /// Drops a task that was not accepted, and counts and reports it.
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
        self.notify_added(identity);
        self.report(Finish { task: live, outcome, now, by: EndedBy::Caller });
        identity.id
    }

    /// Logs a warning if the number of live tasks has passed a high-water mark.
    pub(crate) fn warn_of_high_water(&self, number: u64) {
        if let Some(live) = self.ledger.passed_high_water(number) {
            self.telemetry.log(|| {
                tracing::warn!(
                    target: "postlude",
                    live,
                    "many tasks are live; if tasks are added faster than they end, set `capacity` or `max_concurrent` on the registry's builder"
                );
            });
        }
    }
}
