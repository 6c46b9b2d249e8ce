//! A task that has ended: its record in the history, and its pending effects.

use std::{sync::Arc, task::Waker, time::Duration};

use crate::{
    ledger::live::{Extras, LiveTask, Retried},
    model::{Identity, Outcome, SharedError, TaskId, TaskProfile, TaskProgress, TaskReport},
    task::exhausted::Exhausted,
    util::{
        clock::{Timestamp, nanos},
        rare::Rare,
    },
};

/// The record of a task that has ended. Everything else is computed from it on demand.
#[derive(Clone)]
pub(crate) struct FinishedTask {
    pub(crate) identity: Identity,
    /// When the last attempt started; `None` if there was none.
    pub(crate) started: Option<Timestamp>,
    pub(crate) ended: Timestamp,
    /// `None` if the task completed at its first attempt.
    pub(crate) details: Rare<Details>,
}

/// A task that has completed at its first attempt, and of whose end only the ledger must know.
#[derive(Clone, Copy)]
pub(crate) struct Completed {
    pub(crate) identity: Identity,
    pub(crate) started: Timestamp,
    pub(crate) ended: Timestamp,
}

impl From<&Completed> for FinishedTask {
    #[inline]
    fn from(completed: &Completed) -> Self {
        let Completed { identity, started, ended } = *completed;
        Self { identity, started: Some(started), ended, details: Rare::NONE }
    }
}

/// The properties that few finished tasks have.
#[derive(Clone)]
pub(crate) struct Details {
    outcome: Outcome,
    retried: Option<Retried>,
    replay_of: Option<TaskId>,
    duplicate_of: Option<TaskId>,
    refusal: Option<SharedError>,
    progress: Option<Arc<TaskProgress>>,
    profile: Option<Box<TaskProfile>>,
}

impl Details {
    pub(crate) fn of(outcome: Outcome, extras: Option<&Extras>) -> Rare<Self> {
        let retried = extras.and_then(|extras| extras.retried);
        let replay_of = extras.and_then(|extras| extras.replay_of);
        let duplicate_of = extras.and_then(|extras| extras.duplicate_of);
        let refusal = extras.and_then(|extras| extras.refusal.clone());
        let progress = extras.and_then(|extras| extras.progress.clone());
        let profile = extras.and_then(Extras::profile);
        let has_any = !outcome.is_completed()
            || retried.is_some()
            || replay_of.is_some()
            || refusal.is_some()
            || progress.is_some()
            || profile.is_some();
        has_any.then(|| Box::new(Self { outcome, retried, replay_of, duplicate_of, refusal, progress, profile })).into()
    }

    #[cold]
    fn into_error(self) -> Option<SharedError> {
        self.outcome.into_error().or(self.refusal)
    }
}

impl FinishedTask {
    /// Removes the details of a record that is no longer needed, and returns the user error in them.
    #[inline]
    pub(crate) fn take_error(&mut self) -> Option<SharedError> {
        self.details.take().and_then(|details| details.into_error())
    }

    #[inline]
    pub(crate) fn outcome(&self) -> &Outcome {
        self.details.as_ref().map_or(&Outcome::Completed, |details| &details.outcome)
    }

    fn retried(&self) -> Option<Retried> {
        self.details.as_ref()?.retried
    }

    /// The time from the add to the first start, or to the end of a task that never started, in nanoseconds.
    #[inline]
    pub(crate) fn queued_for(&self) -> u64 {
        let first_started = self.retried().map(|retried| retried.first_started).or(self.started);
        first_started.unwrap_or(self.ended).nanos_since(self.identity.added)
    }

    /// The duration of the last attempt, in nanoseconds.
    #[inline]
    pub(crate) fn ran_for(&self) -> u64 {
        let last = self.retried().and_then(|retried| retried.last_ran_for).map(nanos);
        last.or_else(|| self.started.map(|started| self.ended.nanos_since(started))).unwrap_or_default()
    }

    pub(crate) fn report(mut self, now: Timestamp) -> TaskReport {
        TaskReport {
            id: self.identity.id,
            name: self.identity.name,
            location: self.identity.location,
            set: self.identity.id.set(),
            attempt: self.retried().map_or_else(|| u32::from(self.started.is_some()), |retried| retried.attempts),
            replay_of: self.details.as_ref().and_then(|details| details.replay_of),
            duplicate_of: self.details.as_ref().and_then(|details| details.duplicate_of),
            queued_for: Duration::from_nanos(self.queued_for()),
            ran_for: Duration::from_nanos(self.ran_for()),
            ended_ago: now.since(self.ended),
            outcome: self.outcome().clone(),
            progress: self.details.as_ref().and_then(|details| details.progress.clone()),
            profile: self.details.as_ref().and_then(|details| details.profile.clone()),
            refusal: self.details.take().and_then(|details| details.refusal),
        }
    }
}

/// Who ended a task.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndedBy {
    /// The tokio task that runs it: the work has returned, or was discarded by a condition.
    Runner,
    /// An abort, a time limit or a shutdown. The runner does not know of the end yet.
    Caller,
}

/// A task that has ended and was counted. Its effects are applied after the locks are released.
pub(crate) struct Finish {
    pub(crate) task: LiveTask,
    pub(crate) outcome: Outcome,
    pub(crate) now: Timestamp,
    pub(crate) by: EndedBy,
}

impl Finish {
    /// The waker of the tokio task that runs the task, if that has to learn of the end.
    pub(crate) fn take_runner(&mut self) -> Option<Waker> {
        let runner = self.task.take_runner();
        runner.filter(|_| self.by == EndedBy::Caller)
    }

    /// The waker of the handle, if the return of the runner does not wake it.
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        let waker = self.task.take_waker();
        waker.filter(|_| self.by == EndedBy::Caller)
    }

    /// Whether the work may still run, and its token must be cancelled.
    pub(crate) const fn cancels(&self) -> bool {
        matches!(self.by, EndedBy::Caller) || matches!(self.outcome, Outcome::TimedOut(_))
    }

    /// The remains of a task that has used up its attempts.
    pub(crate) fn take_exhausted(&mut self) -> Option<Box<Exhausted>> {
        self.task.take_exhausted()
    }

    pub(crate) fn report(&self) -> TaskReport {
        self.task.report(self.outcome.clone(), self.now)
    }
}
