//! A live task, as its line or the ledger knows it.

use std::{sync::Arc, task::Waker, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    ledger::finished::{FinishedTask, Rare},
    model::{BoxError, Identity, Outcome, TaskId, TaskInfo, TaskReport, TaskState},
    task::exhausted::Exhausted,
    util::clock::Timestamp,
};

/// A task that was accepted and has no outcome.
pub(crate) struct LiveTask {
    pub(crate) identity: Identity,
    /// When its current or last attempt started; `None` before the first.
    pub(crate) started: Option<Timestamp>,
    /// Wakes the tokio task that has it in hand, once that waits. It is that task's own, and tokio's: to drop it under a lock
    /// runs no foreign code.
    pub(crate) runner: Option<Waker>,
    pub(crate) extras: Option<Box<Extras>>,
}

/// What few tasks have: those whose handle is awaited, whose cancellation token was asked for, or that wait for a
/// time.
#[derive(Default)]
pub(crate) struct Extras {
    pub(crate) waker: Option<Waker>,
    pub(crate) token: Option<CancellationToken>,
    /// When its next attempt is due.
    due: Option<Timestamp>,
    /// When its own delay is over.
    delayed_until: Option<Timestamp>,
    may_hurry: bool,
    pub(crate) retried: Option<Retried>,
    pub(crate) exhausted: Option<Box<Exhausted>>,
    /// The dead letter that this is a replay of.
    pub(crate) replay_of: Option<TaskId>,
    /// Why it was not accepted.
    pub(crate) refusal: Option<Arc<BoxError>>,
}

/// What only a task has whose first attempt has failed.
#[derive(Clone, Copy)]
pub(crate) struct Retried {
    /// Attempts that were started.
    pub(crate) attempts: u32,
    pub(crate) first_started: Timestamp,
    /// How long the last attempt ran, while the next one is awaited.
    pub(crate) resting: Option<Duration>,
}

/// Where a live task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Pending,
    /// Has started; also between two attempts.
    Running,
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
                retried.resting = None;
            }
        }
        self.started.replace(now).is_none()
    }

    /// Its first attempt is due then, or sooner, if it may be told to hurry.
    pub(crate) fn delay_until(&mut self, due: Timestamp, may_hurry: bool) {
        self.wait_until(due);
        let extras = self.extras();
        extras.delayed_until = Some(due);
        extras.may_hurry = may_hurry;
    }

    /// Its next attempt is due then.
    pub(crate) fn wait_until(&mut self, due: Timestamp) {
        let extras = self.extras();
        extras.due = Some(due);
        extras.may_hurry = false;
    }

    /// Its attempt has failed, and another will follow; says how long it ran.
    pub(crate) fn rest(&mut self, now: Timestamp) -> Duration {
        let started = self.started.unwrap_or(now);
        let ran_for = now.since(started);
        let retried = &mut self.extras().retried;
        retried.get_or_insert(Retried { attempts: 1, first_started: started, resting: None }).resting = Some(ran_for);
        ran_for
    }

    /// It has used up its attempts, and will not get done. Returns what must be dropped without a lock.
    pub(crate) fn give_up(&mut self, exhausted: Box<Exhausted>) -> Option<Box<Exhausted>> {
        self.extras().exhausted.replace(exhausted)
    }

    pub(crate) fn replays(&mut self, dead: TaskId) {
        self.extras().replay_of = Some(dead);
    }

    /// A rule of the user's has said no to it.
    pub(crate) fn refuse(&mut self, refusal: Arc<BoxError>) {
        self.extras().refusal = Some(refusal);
    }

    /// Its token: `fresh` if nobody has asked before.
    pub(crate) fn token(&mut self, fresh: &CancellationToken) -> CancellationToken {
        self.extras().token.get_or_insert_with(|| fresh.clone()).clone()
    }

    /// Takes the token of an attempt that has ended.
    pub(crate) fn take_token(&mut self) -> Option<CancellationToken> {
        self.extras.as_mut()?.token.take()
    }

    /// Leaves a waker to be woken when it is ended from outside; returns the last one, to be dropped without a lock.
    pub(crate) fn wake_at_end(&mut self, waker: Waker) -> Option<Waker> {
        self.extras().waker.replace(waker)
    }

    #[inline]
    pub(crate) const fn stage(&self) -> Stage {
        match self.started {
            None => Stage::Pending,
            Some(_) => Stage::Running,
        }
    }

    /// Whether an attempt has failed and the next one has not started.
    pub(crate) fn is_resting(&self) -> bool {
        self.retried().is_some_and(|retried| retried.resting.is_some())
    }

    /// Since when a pending task could have started, or from when on it can; `None` for one that has.
    pub(crate) fn pending_since(&self) -> Option<Timestamp> {
        let delayed_until = self.extras.as_ref().and_then(|extras| extras.delayed_until);
        (self.stage() == Stage::Pending).then_some(delayed_until.unwrap_or(self.identity.added))
    }

    /// Whether nothing is to happen to it before `then`.
    pub(crate) fn is_due_after(&self, then: Timestamp) -> bool {
        let may_hurry = self.extras.as_ref().is_some_and(|extras| extras.may_hurry);
        !may_hurry && self.due().is_some_and(|due| due > then)
    }

    fn due(&self) -> Option<Timestamp> {
        self.extras.as_ref()?.due
    }

    /// How many attempts were made, and how long ago the first one started.
    pub(crate) fn attempts_made(&self, now: Timestamp) -> (u32, Duration) {
        let first_started = self.retried().map(|retried| retried.first_started).or(self.started);
        (self.attempt(), now.since(first_started.unwrap_or(now)))
    }

    /// The tokio task that has it in hand waits, and is to be woken when it is ended from outside. That is one task, and one
    /// waker, for as long as the task lives.
    pub(crate) fn park(&mut self, runner: Waker) {
        self.runner = Some(runner);
    }

    /// Whether nobody waits for it, and it has no past: its end concerns nobody but the figures.
    #[inline]
    pub(crate) const fn is_alone(&self) -> bool {
        self.extras.is_none()
    }

    /// The attempt under way, or the last one; 0 before the first.
    pub(crate) fn attempt(&self) -> u32 {
        let begun = u32::from(self.started.is_some());
        self.retried().map_or(begun, |retried| retried.attempts)
    }

    pub(crate) fn info(&self, now: Timestamp) -> TaskInfo {
        let resting = self.is_resting();
        let running_for = self.started.filter(|_| !resting).map(|started| now.since(started));
        TaskInfo {
            id: self.identity.id,
            name: self.identity.name,
            location: self.identity.location,
            set: self.identity.id.set(),
            state: match self.stage() {
                Stage::Pending => TaskState::Pending,
                Stage::Running if resting => TaskState::Retrying,
                Stage::Running => TaskState::Running,
            },
            attempt: self.attempt(),
            age: now.since(self.identity.added),
            running_for,
            due_in: self.due().map(|due| due.since(now)).filter(|wait| !wait.is_zero()),
        }
    }

    pub(crate) fn report(&self, outcome: Outcome, now: Timestamp) -> TaskReport {
        self.past(outcome, now).report(now)
    }

    /// What is to be remembered of it, which ends now.
    #[inline]
    pub(crate) fn past(&self, outcome: Outcome, now: Timestamp) -> FinishedTask {
        let Self { identity, started, .. } = *self;
        let rare =
            if outcome.is_completed() && self.is_alone() { None } else { Rare::of(outcome, self.extras.as_deref()) };
        FinishedTask { identity, started, ended: now, rare }
    }

    fn retried(&self) -> Option<&Retried> {
        self.extras.as_ref()?.retried.as_ref()
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }
}

impl TaskInfo {
    pub(crate) fn stuck(identity: Identity, now: Timestamp) -> Self {
        Self { state: TaskState::Stuck, ..LiveTask::new(identity).info(now) }
    }
}
