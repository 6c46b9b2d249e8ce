//! Live tasks.

use std::{sync::Arc, task::Waker, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    ledger::finished::{Completed, Details, FinishedTask},
    model::{
        DiscardReason, Identity, KeyOfName, Outcome, SharedError, TaskId, TaskInfo, TaskProfile, TaskProgress,
        TaskReport, TaskState,
    },
    task::{exhausted::Exhausted, work::Meta},
    telemetry::figures::TaskFigures,
    util::{
        clock::Timestamp,
        rare::Rare,
        semaphore::{Permit, PrioritySemaphore},
    },
};

/// A task that was accepted and has no outcome yet. Stored in its set's queue, or in the ledger if it was spawned.
pub(crate) struct LiveTask {
    pub(crate) identity: Identity,
    /// When the current or last attempt started; `None` before the first.
    pub(crate) started: Option<Timestamp>,
    /// The waker of the tokio task that runs it; `None` until that task waits. It is tokio's own waker, so dropping it
    /// runs no foreign code.
    runner: Option<Waker>,
    extras: Rare<Extras>,
}

/// The properties that few live tasks have.
#[derive(Default)]
pub(crate) struct Extras {
    /// The waker of the handle, if it is awaited.
    waker: Option<Waker>,
    token: Option<CancellationToken>,
    /// When the next attempt is due.
    due: Option<Timestamp>,
    /// When the task's own delay is over.
    delayed_until: Option<Timestamp>,
    /// Whether it may start before it is due, as a batch does when it is full.
    may_start_early: bool,
    pub(crate) retried: Option<Retried>,
    exhausted: Option<Box<Exhausted>>,
    pub(crate) replay_of: Option<TaskId>,
    /// The unique key that it has claimed.
    key: Option<KeyOfName>,
    /// The task because of which it is discarded.
    pub(crate) duplicate_of: Option<TaskId>,
    /// The error of the admission filter that refused it.
    pub(crate) refusal: Option<SharedError>,
    /// What it has reported of its current attempt.
    pub(crate) progress: Option<Arc<TaskProgress>>,
    /// What is measured of it, if the registry profiles its tasks.
    pub(crate) figures: Option<Arc<TaskFigures>>,
    /// Its permit, if its name was given limits while it was running.
    permit: Option<Permit>,
}

/// The state of a task whose first attempt has failed.
#[derive(Clone, Copy)]
pub(crate) struct Retried {
    /// The number of attempts that were started.
    pub(crate) attempts: u32,
    pub(crate) first_started: Timestamp,
    /// The duration of the last attempt; `None` while an attempt is running.
    pub(crate) last_ran_for: Option<Duration>,
}

impl Extras {
    /// The key that the task has claimed, or the task of which it is a duplicate.
    #[cold]
    fn of_claim(meta: &Meta) -> Rare<Self> {
        let key = meta.held().and_then(|_| meta.key_of_name());
        let duplicate_of = meta.duplicate_of();
        let has_any = key.is_some() || duplicate_of.is_some();
        has_any.then(|| Box::new(Self { key, duplicate_of, ..Self::default() })).into()
    }

    /// What was measured of the task so far.
    pub(crate) fn profile(&self) -> Option<Box<TaskProfile>> {
        self.figures.as_ref().map(|figures| Box::new(figures.profile()))
    }
}

impl LiveTask {
    #[inline]
    pub(crate) const fn new(identity: Identity) -> Self {
        Self { identity, started: None, runner: None, extras: Rare::NONE }
    }

    /// A task of a set that leaves `pending`, and starts its first attempt if `started` is given.
    #[inline(always)]
    pub(crate) fn of(meta: &Meta, started: Option<Timestamp>) -> Self {
        let extras = if meta.is_unique() { Extras::of_claim(meta) } else { Rare::NONE };
        Self { identity: meta.identity(), started, runner: None, extras }
    }

    /// Notes the key that the task has claimed.
    pub(crate) fn hold_key(&mut self, key: KeyOfName) {
        self.extras_mut().key = Some(key);
    }

    /// The key to release when the task has ended.
    pub(crate) fn take_key(&mut self) -> Option<KeyOfName> {
        self.extras.as_mut()?.key.take()
    }

    /// Notes the task because of which it is discarded.
    pub(crate) fn note_duplicate(&mut self, other: TaskId) {
        self.extras_mut().duplicate_of = Some(other);
    }

    /// Starts the next attempt. Returns whether it is the first.
    #[inline]
    pub(crate) fn start(&mut self, now: Timestamp) -> bool {
        if let Some(extras) = &mut *self.extras {
            extras.due = None;
            if let Some(retried) = &mut extras.retried {
                extras.progress = None;
                retried.attempts = retried.attempts.saturating_add(1);
                retried.last_ran_for = None;
            }
        }
        self.started.replace(now).is_none()
    }

    /// Sets the time at which the first attempt is due.
    pub(crate) fn delay_until(&mut self, due: Timestamp, may_start_early: bool) {
        self.wait_until(due);
        let extras = self.extras_mut();
        extras.delayed_until = Some(due);
        extras.may_start_early = may_start_early;
    }

    /// Sets the time at which the next attempt is due.
    pub(crate) fn wait_until(&mut self, due: Timestamp) {
        let extras = self.extras_mut();
        extras.due = Some(due);
        extras.may_start_early = false;
    }

    /// Notes that an attempt has failed and another one will follow.
    pub(crate) fn attempt_failed(&mut self, now: Timestamp) {
        let started = self.started.unwrap_or(now);
        let retried = &mut self.extras_mut().retried;
        let first = Retried { attempts: 1, first_started: started, last_ran_for: None };
        retried.get_or_insert(first).last_ran_for = Some(now.since(started));
    }

    /// Stores the remains of a task that has used up its attempts. Returns the previous value, which must be dropped
    /// without a lock.
    pub(crate) fn exhaust(&mut self, exhausted: Box<Exhausted>) -> Option<Box<Exhausted>> {
        self.extras_mut().exhausted.replace(exhausted)
    }

    pub(crate) fn replays(&mut self, dead: TaskId) {
        self.extras_mut().replay_of = Some(dead);
    }

    /// Stores the error of the admission filter that refused the task.
    pub(crate) fn refuse(&mut self, refusal: SharedError) {
        self.extras_mut().refusal = Some(refusal);
    }

    /// The progress of the current attempt, if it has reported any.
    pub(crate) fn progress(&self) -> Option<Arc<TaskProgress>> {
        self.extras().and_then(|extras| extras.progress.clone())
    }

    /// The progress of the current attempt.
    pub(crate) fn progress_mut(&mut self) -> &mut Arc<TaskProgress> {
        self.extras_mut().progress.get_or_insert_default()
    }

    /// What is measured of the task: `fresh` before its first attempt.
    pub(crate) fn figures(&mut self, fresh: &Arc<TaskFigures>) -> Arc<TaskFigures> {
        Arc::clone(self.extras_mut().figures.get_or_insert_with(|| Arc::clone(fresh)))
    }

    /// The cancellation token: `fresh` if the task has none yet.
    pub(crate) fn token(&mut self, fresh: &CancellationToken) -> CancellationToken {
        self.extras_mut().token.get_or_insert_with(|| fresh.clone()).clone()
    }

    /// Gives the running task a permit of its name, which had no limits when the task started.
    pub(crate) fn adopt(&mut self, permits: &Arc<PrioritySemaphore>) {
        let permit = &mut self.extras_mut().permit;
        if permit.is_none() {
            *permit = Some(permits.adopt());
        }
    }

    /// Removes the permit of an attempt that has ended. It must be dropped without a lock.
    pub(crate) fn take_permit(&mut self) -> Option<Permit> {
        self.extras.as_mut()?.permit.take()
    }

    /// Removes the token of an attempt that has ended.
    pub(crate) fn take_token(&mut self) -> Option<CancellationToken> {
        self.extras.as_mut()?.token.take()
    }

    /// Stores the waker of the handle. Returns the previous waker, which must be dropped without a lock.
    pub(crate) fn set_waker(&mut self, waker: Waker) -> Option<Waker> {
        self.extras_mut().waker.replace(waker)
    }

    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        self.extras.as_mut()?.waker.take()
    }

    /// Stores the waker of the tokio task that runs it and now waits. The tokio task, and so the waker, never changes.
    pub(crate) fn park(&mut self, runner: Waker) {
        self.runner = Some(runner);
    }

    pub(crate) fn runner(&self) -> Option<Waker> {
        self.runner.clone()
    }

    pub(crate) const fn take_runner(&mut self) -> Option<Waker> {
        self.runner.take()
    }

    /// The remains of the task, if it has used up its attempts.
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

    /// Whether it has more than an identity and a start time. Without extras, its end only affects the counters, unless
    /// it is observed.
    #[inline]
    fn has_extras(&self) -> bool {
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
            Some(Retried { last_ran_for: Some(_), .. }) => TaskState::Retrying,
            _ if self.has_started() => TaskState::Running,
            _ => TaskState::Pending,
        }
    }

    /// The time from which on a pending task may start: the end of its delay, or its add. `None` for a task that has
    /// started.
    pub(crate) fn pending_since(&self) -> Option<Timestamp> {
        let delayed_until = self.extras().and_then(|extras| extras.delayed_until);
        (!self.has_started()).then_some(delayed_until.unwrap_or(self.identity.added))
    }

    /// When the current attempt started; `None` if none is running.
    pub(crate) fn running_since(&self) -> Option<Timestamp> {
        self.started.filter(|_| self.state() == TaskState::Running)
    }

    /// Whether its next attempt is due after `then`, and can't start early.
    pub(crate) fn is_due_after(&self, then: Timestamp) -> bool {
        self.extras().is_some_and(|extras| !extras.may_start_early && extras.due.is_some_and(|due| due > then))
    }

    /// The number of attempts, and the time since the first one started.
    pub(crate) fn attempts_made(&self, now: Timestamp) -> (u32, Duration) {
        let first_started = self.retried().map(|retried| retried.first_started).or(self.started);
        (self.attempt(), now.since(first_started.unwrap_or(now)))
    }

    /// The current or last attempt; 0 before the first.
    pub(crate) fn attempt(&self) -> u32 {
        self.retried().map_or_else(|| u32::from(self.has_started()), |retried| retried.attempts)
    }

    pub(crate) fn info(&self, now: Timestamp) -> TaskInfo {
        let state = self.state();
        let due = self.extras().and_then(|extras| extras.due);
        TaskInfo {
            id: self.identity.id,
            name: self.identity.name,
            location: self.identity.location,
            set: self.identity.id.set(),
            state,
            attempt: self.attempt(),
            age: now.since(self.identity.added),
            running_for: self.running_since().map(|started| now.since(started)),
            replay_of: self.extras().and_then(|extras| extras.replay_of),
            progress: self.progress(),
            profile: self.extras().and_then(Extras::profile),
            due_in: due.map(|due| due.since(now)).filter(|wait| !wait.is_zero()),
            paused: false,
        }
    }

    /// Like [`info`](Self::info), for a task whose work still runs although its outcome was counted.
    pub(crate) fn stuck_info(&self, now: Timestamp) -> TaskInfo {
        TaskInfo { state: TaskState::Stuck, ..self.info(now) }
    }

    pub(crate) fn report(&self, outcome: Outcome, now: Timestamp) -> TaskReport {
        self.finished(outcome, now).report(now)
    }

    /// The record of the task, which completes now. `None` if it has extras.
    #[inline]
    pub(crate) fn completed(&self, now: Timestamp) -> Option<Completed> {
        if self.has_extras() {
            None
        } else {
            Some(Completed { identity: self.identity, started: self.started?, ended: now })
        }
    }

    /// The record of the task, which ends now.
    #[inline]
    pub(crate) fn finished(&self, outcome: Outcome, now: Timestamp) -> FinishedTask {
        let plain = outcome.is_completed() && !self.has_extras();
        let details = if plain { Rare::NONE } else { Details::of(outcome, self.extras()) };
        FinishedTask { identity: self.identity, started: self.started, ended: now, details }
    }
}
