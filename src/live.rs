//! A live task, as its line or the ledger knows it.

use std::{sync::Arc, task::Waker, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    BoxError, Outcome, TaskId, TaskInfo, TaskReport, TaskState,
    attempts::Trail,
    inner::Side,
    moment::{Moment, nanos},
    record::Identity,
};

/// A task that was accepted and has no outcome.
pub(crate) struct Live {
    pub(crate) identity: Identity,
    /// When its current or last attempt started; `None` before the first.
    pub(crate) started: Option<Moment>,
    /// Wakes the tokio task that has it in hand, once that waits. It is that task's own, and tokio's: to drop it under a lock
    /// runs no foreign code.
    runner: Option<Waker>,
    extras: Option<Box<Extras>>,
}

/// What few tasks have: those whose handle is awaited, whose cancellation token was asked for, or that wait for a
/// time.
#[derive(Default)]
struct Extras {
    waker: Option<Waker>,
    token: Option<CancellationToken>,
    /// When its next attempt is due.
    due: Option<Moment>,
    /// When its own delay is over.
    delayed_until: Option<Moment>,
    may_hurry: bool,
    retried: Option<Retried>,
    trail: Option<Box<Trail>>,
    /// The dead letter that this is a replay of.
    replay_of: Option<TaskId>,
    /// Why it was not accepted.
    refusal: Option<Arc<BoxError>>,
}

/// What only a task has whose first attempt has failed.
#[derive(Clone, Copy)]
struct Retried {
    /// Attempts that were started.
    attempts: u32,
    first_started: Moment,
    /// How long the last attempt ran, while the next one is awaited.
    resting: Option<Duration>,
}

/// Where a live task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Pending,
    /// Has started; also between two attempts.
    Running,
}

impl Live {
    #[inline]
    pub(crate) const fn new(identity: Identity) -> Self {
        Self { identity, started: None, runner: None, extras: None }
    }

    /// Its next attempt starts; says whether that is the first.
    #[inline]
    pub(crate) fn start(&mut self, now: Moment) -> bool {
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
    pub(crate) fn delay_until(&mut self, due: Moment, may_hurry: bool) {
        self.wait_until(due);
        let extras = self.extras();
        extras.delayed_until = Some(due);
        extras.may_hurry = may_hurry;
    }

    /// Its next attempt is due then.
    pub(crate) fn wait_until(&mut self, due: Moment) {
        let extras = self.extras();
        extras.due = Some(due);
        extras.may_hurry = false;
    }

    /// Its attempt has failed, and another will follow; says how long it ran.
    pub(crate) fn rest(&mut self, now: Moment) -> Duration {
        let started = self.started.unwrap_or(now);
        let ran_for = now.since(started);
        let retried = &mut self.extras().retried;
        retried.get_or_insert(Retried { attempts: 1, first_started: started, resting: None }).resting = Some(ran_for);
        ran_for
    }

    /// It has used up its attempts, and will not get done. Returns what must be dropped without a lock.
    pub(crate) fn give_up(&mut self, trail: Box<Trail>) -> Option<Box<Trail>> {
        self.extras().trail.replace(trail)
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
    pub(crate) fn pending_since(&self) -> Option<Moment> {
        let delayed_until = self.extras.as_ref().and_then(|extras| extras.delayed_until);
        (self.stage() == Stage::Pending).then_some(delayed_until.unwrap_or(self.identity.added))
    }

    /// Whether nothing is to happen to it before `then`.
    pub(crate) fn is_due_after(&self, then: Moment) -> bool {
        let may_hurry = self.extras.as_ref().is_some_and(|extras| extras.may_hurry);
        !may_hurry && self.due().is_some_and(|due| due > then)
    }

    fn due(&self) -> Option<Moment> {
        self.extras.as_ref()?.due
    }

    /// How many attempts were made, and how long ago the first one started.
    pub(crate) fn attempts_made(&self, now: Moment) -> (u32, Duration) {
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

    pub(crate) fn info(&self, now: Moment) -> TaskInfo {
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

    pub(crate) fn report(&self, outcome: Outcome, now: Moment) -> TaskReport {
        self.past(outcome, now).report(now)
    }

    /// What is to be remembered of it, which ends now.
    #[inline]
    pub(crate) fn past(&self, outcome: Outcome, now: Moment) -> Past {
        let Self { identity, started, .. } = *self;
        let rare =
            if outcome.is_completed() && self.is_alone() { None } else { Rare::of(outcome, self.extras.as_deref()) };
        Past { identity, started, ended: now, rare }
    }

    fn retried(&self) -> Option<&Retried> {
        self.extras.as_ref()?.retried.as_ref()
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }
}

/// What is remembered of a task that has ended. The rest is worked out when somebody asks.
#[derive(Clone)]
pub(crate) struct Past {
    pub(crate) identity: Identity,
    /// When its last attempt started; `None` if it had none.
    pub(crate) started: Option<Moment>,
    pub(crate) ended: Moment,
    /// `None`: it completed, at its first attempt.
    rare: Option<Box<Rare>>,
}

/// What is to be told of few.
#[derive(Clone)]
struct Rare {
    outcome: Outcome,
    retried: Option<Retried>,
    replay_of: Option<TaskId>,
    refusal: Option<Arc<BoxError>>,
}

impl Rare {
    fn of(outcome: Outcome, extras: Option<&Extras>) -> Option<Box<Self>> {
        let retried = extras.and_then(|extras| extras.retried);
        let replay_of = extras.and_then(|extras| extras.replay_of);
        let refusal = extras.and_then(|extras| extras.refusal.clone());
        let is_any = !outcome.is_completed() || retried.is_some() || replay_of.is_some() || refusal.is_some();
        is_any.then(|| Box::new(Self { outcome, retried, replay_of, refusal }))
    }
}

impl Past {
    /// The error of the user's in it.
    #[inline]
    pub(crate) fn into_error(self) -> Option<Arc<BoxError>> {
        let Rare { outcome, refusal, .. } = *self.rare?;
        outcome.into_error().or(refusal)
    }

    #[inline]
    pub(crate) fn outcome(&self) -> &Outcome {
        self.rare.as_ref().map_or(&Outcome::Completed, |rare| &rare.outcome)
    }

    fn retried(&self) -> Option<Retried> {
        self.rare.as_ref()?.retried
    }

    /// In nanoseconds.
    #[inline]
    pub(crate) fn queued_for(&self) -> u64 {
        let first_started = self.retried().map(|retried| retried.first_started).or(self.started);
        first_started.unwrap_or(self.ended).nanos_since(self.identity.added)
    }

    /// In nanoseconds.
    #[inline]
    pub(crate) fn ran_for(&self) -> u64 {
        let resting = self.retried().and_then(|retried| retried.resting).map(nanos);
        resting.or_else(|| self.started.map(|started| self.ended.nanos_since(started))).unwrap_or_default()
    }

    pub(crate) fn report(self, now: Moment) -> TaskReport {
        TaskReport {
            id: self.identity.id,
            name: self.identity.name,
            location: self.identity.location,
            set: self.identity.id.set(),
            attempt: self.retried().map_or_else(|| u32::from(self.started.is_some()), |retried| retried.attempts),
            replay_of: self.rare.as_ref().and_then(|rare| rare.replay_of),
            queued_for: Duration::from_nanos(self.queued_for()),
            ran_for: Duration::from_nanos(self.ran_for()),
            ended_ago: now.since(self.ended),
            outcome: self.outcome().clone(),
            refusal: self.rare.and_then(|rare| rare.refusal),
        }
    }
}

/// A task that has ended: what remains to be done and told, without a lock.
pub(crate) struct Ended {
    pub(crate) live: Live,
    pub(crate) outcome: Outcome,
    pub(crate) now: Moment,
    /// Who ended it.
    pub(crate) side: Side,
    /// It completed, and nobody wants to hear of that.
    pub(crate) quiet: bool,
}

impl Ended {
    /// Lets go of whatever still runs for it.
    pub(crate) fn release(&mut self) {
        let from_outside = self.side == Side::Outside;
        let token = self.live.extras.as_mut().and_then(|extras| extras.token.take());
        if let (Some(token), true) = (token, from_outside || matches!(self.outcome, Outcome::TimedOut(_))) {
            token.cancel();
        }
        if let (Some(runner), true) = (self.live.runner.take(), from_outside) {
            // It finds itself cut.
            runner.wake();
        }
    }

    /// Whoever is to be woken once the end was told.
    pub(crate) fn waker(&mut self) -> Option<Waker> {
        let waker = self.live.extras.as_mut()?.waker.take();
        waker.filter(|_| self.side == Side::Outside)
    }

    /// What a task that has used up its attempts has left.
    pub(crate) fn trail(&mut self) -> Option<Box<Trail>> {
        self.live.extras.as_mut()?.trail.take()
    }

    pub(crate) fn report(&self) -> TaskReport {
        self.live.report(self.outcome.clone(), self.now)
    }
}
