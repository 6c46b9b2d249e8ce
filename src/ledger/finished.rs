//! A task that has ended: what is remembered of it, and what is left to do.

use std::{sync::Arc, task::Waker, time::Duration};

use crate::{
    ledger::live::{Extras, LiveTask, Retried},
    model::{BoxError, Identity, Outcome, TaskId, TaskReport},
    task::exhausted::Exhausted,
    util::clock::{Timestamp, nanos},
};

/// What is remembered of a task that has ended. The rest is worked out when somebody asks.
#[derive(Clone)]
pub(crate) struct FinishedTask {
    pub(crate) identity: Identity,
    /// When its last attempt started; `None` if it had none.
    pub(crate) started: Option<Timestamp>,
    pub(crate) ended: Timestamp,
    /// `None`: it completed, at its first attempt.
    pub(crate) rare: Option<Box<Rare>>,
}

/// What is to be told of few.
#[derive(Clone)]
pub(crate) struct Rare {
    outcome: Outcome,
    retried: Option<Retried>,
    replay_of: Option<TaskId>,
    refusal: Option<Arc<BoxError>>,
}

impl Rare {
    pub(crate) fn of(outcome: Outcome, extras: Option<&Extras>) -> Option<Box<Self>> {
        let retried = extras.and_then(|extras| extras.retried);
        let replay_of = extras.and_then(|extras| extras.replay_of);
        let refusal = extras.and_then(|extras| extras.refusal.clone());
        let is_any = !outcome.is_completed() || retried.is_some() || replay_of.is_some() || refusal.is_some();
        is_any.then(|| Box::new(Self { outcome, retried, replay_of, refusal }))
    }
}

impl FinishedTask {
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

    pub(crate) fn report(self, now: Timestamp) -> TaskReport {
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
pub(crate) struct Finish {
    pub(crate) live: LiveTask,
    pub(crate) outcome: Outcome,
    pub(crate) now: Timestamp,
    /// Who ended it.
    pub(crate) side: EndedBy,
    /// It completed, and nobody wants to hear of that.
    pub(crate) quiet: bool,
}

impl Finish {
    /// Lets go of whatever still runs for it.
    pub(crate) fn release(&mut self) {
        let from_outside = self.side == EndedBy::Caller;
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
        waker.filter(|_| self.side == EndedBy::Caller)
    }

    /// What a task that has used up its attempts has left.
    pub(crate) fn exhausted(&mut self) -> Option<Box<Exhausted>> {
        self.live.extras.as_mut()?.exhausted.take()
    }

    pub(crate) fn report(&self) -> TaskReport {
        self.live.report(self.outcome.clone(), self.now)
    }
}

/// Who ends a task: what runs it, or somebody else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndedBy {
    Runner,
    Caller,
}
