//! A live task, as its set's queue or the ledger knows it.

use std::{task::Waker, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    ledger::finished::{Details, FinishedTask},
    model::{DiscardReason, Identity, Outcome, SharedError, TaskId, TaskInfo, TaskReport, TaskState},
    task::exhausted::Exhausted,
    util::clock::Timestamp,
};

/// A task that was accepted and has no outcome.
pub(crate) struct LiveTask {
    pub(crate) identity: Identity,
    /// When its current or last attempt started; `None` before the first.
    pub(crate) started: Option<Timestamp>,
    /// Wakes the tokio task that runs it, once that waits. The waker is tokio's own, so dropping it runs no foreign code.
    runner: Option<Waker>,
    extras: Option<Box<Extras>>,
}

/// What few tasks have.
#[derive(Default)]
pub(crate) struct Extras {
    /// Wakes the handle that is awaited.
    waker: Option<Waker>,
    token: Option<CancellationToken>,
    /// When its next attempt is due.
    due: Option<Timestamp>,
    /// When its own delay is over.
    delayed_until: Option<Timestamp>,
    /// It may start before it is due: a batch that may become full.
    may_start_early: bool,
    pub(crate) retried: Option<Retried>,
    exhausted: Option<Box<Exhausted>>,
    pub(crate) replay_of: Option<TaskId>,
    /// The error of the admission filter that refused it.
    pub(crate) refusal: Option<SharedError>,
}

/// What a task has whose first attempt has failed.
#[derive(Clone, Copy)]
pub(crate) struct Retried {
    /// Attempts that were started.
    pub(crate) attempts: u32,
    pub(crate) first_started: Timestamp,
    /// How long the last attempt ran, until the next one starts.
    pub(crate) waiting_after: Option<Duration>,
}

impl LiveTask {
    #[inline]
    pub(crate) const fn new(identity: Identity) -> Self {
        Self { identity, started: None, runner: None, extras: None }
    }

    /// Its next attempt starts; says whether that is the first.
    #[inline]
    pub(crate) fn start(&mut self, now: Timestamp) -> bool {
        if let Some(extras) = &mut self.extras {
            extras.due = None;
            if let Some(retried) = &mut extras.retried {
                retried.attempts = retried.attempts.saturating_add(1);
                retried.waiting_after = None;
            }
        }
        self.started.replace(now).is_none()
    }

    /// Its first attempt is due then.
    pub(crate) fn delay_until(&mut self, due: Timestamp, may_start_early: bool) {
        self.wait_until(due);
        let extras = self.extras_mut();
        extras.delayed_until = Some(due);
        extras.may_start_early = may_start_early;
    }

    /// Its next attempt is due then.
    pub(crate) fn wait_until(&mut self, due: Timestamp) {
        let extras = self.extras_mut();
        extras.due = Some(due);
        extras.may_start_early = false;
    }

    /// Its attempt has failed, and another one follows.
    pub(crate) fn attempt_failed(&mut self, now: Timestamp) {
        let started = self.started.unwrap_or(now);
        let retried = &mut self.extras_mut().retried;
        let first = Retried { attempts: 1, first_started: started, waiting_after: None };
        retried.get_or_insert(first).waiting_after = Some(now.since(started));
    }

    /// It has used up its attempts. Returns what must be dropped without a lock.
    pub(crate) fn exhaust(&mut self, exhausted: Box<Exhausted>) -> Option<Box<Exhausted>> {
        self.extras_mut().exhausted.replace(exhausted)
    }

    pub(crate) fn replays(&mut self, dead: TaskId) {
        self.extras_mut().replay_of = Some(dead);
    }

    /// The admission filter has refused it.
    pub(crate) fn refuse(&mut self, refusal: SharedError) {
        self.extras_mut().refusal = Some(refusal);
    }

    /// Its token: `fresh` if nobody has asked before.
    pub(crate) fn token(&mut self, fresh: &CancellationToken) -> CancellationToken {
        self.extras_mut().token.get_or_insert_with(|| fresh.clone()).clone()
    }

    /// Takes the token of an attempt that has ended.
    pub(crate) fn take_token(&mut self) -> Option<CancellationToken> {
        self.extras.as_mut()?.token.take()
    }

    /// Leaves the waker of its handle; returns the last one, which must be dropped without a lock.
    pub(crate) fn set_waker(&mut self, waker: Waker) -> Option<Waker> {
        self.extras_mut().waker.replace(waker)
    }

    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        self.extras.as_mut()?.waker.take()
    }

    /// Leaves the waker of the tokio task that runs it, which waits. That is one task, and one waker, for as long as the
    /// task lives.
    pub(crate) fn park(&mut self, runner: Waker) {
        self.runner = Some(runner);
    }

    pub(crate) fn runner(&self) -> Option<Waker> {
        self.runner.clone()
    }

    pub(crate) const fn take_runner(&mut self) -> Option<Waker> {
        self.runner.take()
    }

    /// What it has left if it has used up its attempts.
    pub(crate) fn take_exhausted(&mut self) -> Option<Box<Exhausted>> {
        self.extras.as_mut()?.exhausted.take()
    }

    #[inline]
    pub(crate) const fn has_started(&self) -> bool {
        self.started.is_some()
    }

    /// The outcome of a task that does not come to its end, for `reason`.
    pub(crate) const fn unfinished(&self, reason: DiscardReason) -> Outcome {
        if self.has_started() { Outcome::Aborted } else { Outcome::Discarded(reason) }
    }

    /// Whether nothing is known of it but its identity and when it started: then its end concerns nobody but the counters,
    /// unless somebody observes it.
    #[inline]
    pub(crate) const fn has_extras(&self) -> bool {
        self.extras.is_some()
    }

    pub(crate) fn extras(&self) -> Option<&Extras> {
        self.extras.as_deref()
    }

    fn extras_mut(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    fn retried(&self) -> Option<&Retried> {
        self.extras()?.retried.as_ref()
    }

    pub(crate) fn state(&self) -> TaskState {
        match self.retried() {
            Some(Retried { waiting_after: Some(_), .. }) => TaskState::Retrying,
            _ if self.has_started() => TaskState::Running,
            _ => TaskState::Pending,
        }
    }

    /// Since when a pending task could have started, or from when on it can; `None` for a task that has started.
    pub(crate) fn pending_since(&self) -> Option<Timestamp> {
        let delayed_until = self.extras().and_then(|extras| extras.delayed_until);
        (!self.has_started()).then_some(delayed_until.unwrap_or(self.identity.added))
    }

    /// Whether nothing happens to it before `then`.
    pub(crate) fn is_due_after(&self, then: Timestamp) -> bool {
        self.extras().is_some_and(|extras| !extras.may_start_early && extras.due.is_some_and(|due| due > then))
    }

    /// How many attempts were made, and how long ago the first one started.
    pub(crate) fn attempts_made(&self, now: Timestamp) -> (u32, Duration) {
        let first_started = self.retried().map(|retried| retried.first_started).or(self.started);
        (self.attempt(), now.since(first_started.unwrap_or(now)))
    }

    /// The attempt under way, or the last one; 0 before the first.
    pub(crate) fn attempt(&self) -> u32 {
        self.retried().map_or_else(|| u32::from(self.has_started()), |retried| retried.attempts)
    }

    pub(crate) fn info(&self, now: Timestamp) -> TaskInfo {
        let state = self.state();
        let due = self.extras().and_then(|extras| extras.due);
        let running_since = self.started.filter(|_| state == TaskState::Running);
        TaskInfo {
            id: self.identity.id,
            name: self.identity.name,
            location: self.identity.location,
            set: self.identity.id.set(),
            state,
            attempt: self.attempt(),
            age: now.since(self.identity.added),
            running_for: running_since.map(|started| now.since(started)),
            due_in: due.map(|due| due.since(now)).filter(|wait| !wait.is_zero()),
        }
    }

    /// The same for a task whose work goes on although its outcome has been counted.
    pub(crate) fn stuck_info(&self, now: Timestamp) -> TaskInfo {
        TaskInfo { state: TaskState::Stuck, ..self.info(now) }
    }

    pub(crate) fn report(&self, outcome: Outcome, now: Timestamp) -> TaskReport {
        self.finished(outcome, now).report(now)
    }

    /// What is remembered of it, which ends now.
    #[inline]
    pub(crate) fn finished(&self, outcome: Outcome, now: Timestamp) -> FinishedTask {
        let plain = outcome.is_completed() && !self.has_extras();
        let details = if plain { None } else { Details::of(outcome, self.extras()) };
        FinishedTask { identity: self.identity, started: self.started, ended: now, details }
    }
}
