//! Draining a set: one task after another, in one tokio task. See the invariants of `set_queue`.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tracing::Span;

use crate::{
    engine::{
        context::{self, TaskContext},
        keys,
        queue_state::QueueState,
        run::{self, under_policy},
        set_queue::{PollPermission, SetQueue},
        shared::{OfName, Shared, Start},
        transition::Transition,
    },
    ledger::{finished::EndedBy, live::LiveTask},
    model::{DiscardReason, Ending, RejectReason, TaskId},
    task::{
        Task,
        work::{BoxedWork, End, Meta, PermitPair, drop_work, poll_to_end},
    },
    telemetry::span::inside,
    util::{clock::Timestamp, loom::MutexGuard},
};

/// How many tasks one poll may finish before it yields to the runtime.
const TASKS_PER_POLL: usize = 64;

/// The tokio task that drains a set. Its size of three words fits the smaller of the cells that tokio allocates for
/// tasks.
pub(crate) struct Drain {
    /// Taken at the end, so that `Drop` can tell a normal end from a runtime that shuts down.
    queue: Option<Arc<SetQueue>>,
    work: Option<BoxedWork>,
}

/// What comes before the first poll of a task that can't be polled at once.
enum FirstStep {
    /// The task has started. Observers are notified, and its time limit starts.
    Notify,
    /// The task may have to wait, or is not polled directly.
    Admit(Option<Ending>),
    /// The task must not start.
    Discard(DiscardReason),
}

impl Drain {
    /// Drains a set in a tokio task of its own.
    pub(crate) fn spawn(queue: &Arc<SetQueue>) {
        drop(queue.shared().spawn(Self { queue: Some(Arc::clone(queue)), work: None }));
    }

    fn task_id(&self) -> Option<TaskId> {
        self.work.as_ref().map(|work| work.meta().id())
    }

    /// Called before the task that has waited is polled again. `Ready` if another drain has taken over.
    #[inline(never)]
    fn resume(&mut self) -> Poll<()> {
        let (Some(queue), Some(id)) = (&self.queue, self.task_id()) else {
            return Poll::Pending;
        };
        match queue.begin_poll(id) {
            PollPermission::Granted => {}
            PollPermission::Stopped => drop_stopped(queue, &mut self.work, id),
            PollPermission::Superseded => {
                self.retire(id);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Goes on with the task that `next` returns; `None` if this drain has no more to do.
    #[inline]
    fn go_on_with(&mut self, next: impl FnOnce(&Arc<SetQueue>) -> Option<BoxedWork>) -> Option<TaskId> {
        self.work = self.queue.as_ref().and_then(next);
        if self.work.is_none() {
            self.queue = None;
        }
        self.task_id()
    }

    /// Polls the work in the context of its set.
    #[inline]
    fn poll_in_context(&mut self, id: TaskId, span: &mut Option<Box<Span>>, context: &mut Context<'_>) -> Poll<End> {
        let mut current = match self.queue.take() {
            Some(queue) => TaskContext::InSet(queue),
            None => TaskContext::None,
        };
        let polled = context::enter(&mut current, id, || poll_to_end(&mut self.work, span, context));
        if let TaskContext::InSet(queue) = current {
            self.queue = Some(queue);
        }
        polled
    }

    /// Called when the task waits: stores the drain's waker, so that the drain is woken if the task is ended by a
    /// caller. Returns `Ready` if the task was ended meanwhile.
    #[inline(never)]
    fn park(&mut self, id: TaskId, context: &Context<'_>) -> Poll<()> {
        let (Some(queue), Some(work)) = (&self.queue, &mut self.work) else {
            return Poll::Ready(());
        };
        let was_parked = mem::replace(&mut work.as_mut().meta_mut().parked, true);
        let is_live = was_parked || queue.with_live(id, |live| live.park(context.waker().clone())).is_some();
        if is_live && queue.end_poll(id) {
            return Poll::Pending;
        }
        self.retire(id);
        Poll::Ready(())
    }

    /// Drops the work of a task that was ended while this drain ran it, and ends the drain, because another one has
    /// taken over.
    #[cold]
    fn retire(&mut self, id: TaskId) {
        if let Some(queue) = self.queue.take() {
            drop_stopped(&queue, &mut self.work, id);
        }
    }
}

impl Future for Drain {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.work.is_some() && this.resume().is_ready() {
            return Poll::Ready(());
        }
        let Some(mut id) = this.task_id().or_else(|| this.go_on_with(next)) else {
            return Poll::Ready(());
        };
        for _ in 0..TASKS_PER_POLL {
            let mut span = None;
            let end = match this.poll_in_context(id, &mut span, context) {
                Poll::Ready(end) => end,
                Poll::Pending => return this.park(id, context),
            };
            let Some(next) = this.go_on_with(|queue| finish(queue, span, id, end)) else {
                return Poll::Ready(());
            };
            id = next;
        }
        // The next task is current, and is not being polled.
        if this.queue.as_ref().is_some_and(|queue| !queue.end_poll(id)) {
            this.retire(id);
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.shared().runtime_ended();
            runtime_ended(&queue, &mut self.work);
        }
    }
}

/// Returns the next task of the set; `None` if the set has drained.
pub(crate) fn next(queue: &Arc<SetQueue>) -> Option<BoxedWork> {
    next_at(queue, Timestamp::now())
}

/// The same, if the time is known.
fn next_at(queue: &Arc<SetQueue>, mut now: Timestamp) -> Option<BoxedWork> {
    loop {
        let mut state = queue.state.lock();
        if queue.condition.is_some() && !state.is_decided && state.ending.is_some() {
            let ending = state.ending;
            drop(state);
            ask_condition(queue, ending);
        } else if state.discards.is_none() && mem::take(&mut state.has_unclaimed) {
            drop(state);
            keys::claim_pending(queue);
        } else if let Some(task) = state.pop() {
            if let Some(running) = start(queue, state, task, now) {
                return Some(running);
            }
        } else {
            drop(state);
            // A task may have been added since the lock was released.
            if queue.transition(|transition| transition.idle_if_drained()) {
                return None;
            }
        }
        now = Timestamp::now();
    }
}

/// Finishes a task that has returned, and returns the next one. `None` if the set has drained, or if the task was ended
/// by a caller and another drain has taken over.
#[inline(never)]
pub(crate) fn finish(queue: &Arc<SetQueue>, span: Option<Box<Span>>, id: TaskId, end: End) -> Option<BoxedWork> {
    if !end.is_completed() || queue.shared().telemetry.observes_completed() {
        return finish_observed(queue, span, id, end);
    }
    drop_span(span);
    let now = Timestamp::now();
    let mut state = queue.state.lock();
    if let Some(task) = state.finish_in_account(id, now) {
        queue.shared().ledger.release();
        return start(queue, state, task, now).or_else(|| next(queue));
    }
    let mut transition = Transition::with(queue, state, now);
    let was_plain = transition.finish_unobserved(id);
    let has_drained = was_plain && transition.idle_if_drained();
    transition.finish();
    if was_plain {
        return if has_drained { None } else { next_at(queue, now) };
    }
    finish_observed(queue, None, id, end)
}

/// The same for a task that has extras, has not completed, or is observed.
#[inline(never)]
fn finish_observed(queue: &Arc<SetQueue>, span: Option<Box<Span>>, id: TaskId, end: End) -> Option<BoxedWork> {
    // Hooks are notified before the next task starts, so that a hook can still abort it, and the hook's time does not
    // count as the task's.
    let was_current = inside(span, || end_observed(queue, id, end));
    if was_current { next(queue) } else { None }
}

#[inline]
fn drop_span(span: Option<Box<Span>>) {
    inside(span, || ());
}

/// Counts and reports the end of the current task or of a sleeping one. Returns `false` if another drain has taken
/// over.
fn end_observed(queue: &Arc<SetQueue>, id: TaskId, end: End) -> bool {
    let mut outcome = Some(end.into_outcome());
    let mut take_outcome = || outcome.take().unwrap_or(crate::model::Outcome::Completed);
    let (is_current, is_sleeping) = queue.transition(|transition| {
        if let Some(current) = transition.state.take_current(id) {
            transition.end(current, take_outcome(), EndedBy::Runner);
            return (true, false);
        }
        (false, transition.end_sleeping(id, |_| take_outcome()))
    });
    // If the task was ended meanwhile, its error is dropped here, without a lock.
    drop(outcome);
    if !is_current && !is_sleeping {
        queue.shared().abandoned.dropped(id);
    }
    is_current
}

/// Starts a task that was taken out of `pending`, and releases the lock. `None` if it was ended before its first poll.
#[inline(always)]
fn start(
    queue: &Arc<SetQueue>,
    mut state: MutexGuard<'_, QueueState>,
    task: Task,
    now: Timestamp,
) -> Option<BoxedWork> {
    let meta = task.meta();
    if state.discards.is_some() || !queue.shared().runs_at_once(meta) {
        return prepare(queue, state, task, now);
    }
    let index = meta.id().index;
    state.account.start(meta.name);
    state.current = Some(LiveTask::of(meta, Some(now)));
    queue.mark.set_polling(index);
    drop(state);
    Some(task.work)
}

/// The same for a task that can't be polled at once.
#[inline(never)]
fn prepare(
    queue: &Arc<SetQueue>,
    mut state: MutexGuard<'_, QueueState>,
    task: Task,
    now: Timestamp,
) -> Option<BoxedWork> {
    let (shared, meta) = (queue.shared(), task.meta());
    let first_step = first_step(shared, meta, state.discards, state.ending, now);
    let started = matches!(first_step, FirstStep::Notify).then_some(now);
    if started.is_some() {
        state.account.start(meta.name);
    }
    let id = meta.id();
    state.current = Some(LiveTask::of(meta, started));
    // Observers are notified of the start before the first poll, and may abort the task.
    queue.mark.set_idle(id.index);
    drop(state);
    let mut work = task.work;
    let started = match first_step {
        FirstStep::Notify => shared.notify_started(id, now),
        FirstStep::Admit(ending) if shared.runs_with_permits(&mut work) => {
            match start_with_permits(shared, &mut work) {
                Start::At(started) => Some(started),
                Start::Ended => None,
                Start::MustWait => {
                    work = under_policy(work, shared, ending);
                    None
                }
            }
        }
        FirstStep::Admit(ending) => {
            work = under_policy(work, shared, ending);
            None
        }
        FirstStep::Discard(reason) => {
            work = discarded(queue, work, reason);
            None
        }
    };
    if let Some(started) = started {
        shared.start_time_limit(&mut work, started);
        work = shared.profiled(work);
    }
    if queue.mark.begin(id.index) {
        return Some(work);
    }
    drop_stopped(queue, &mut Some(work), id);
    None
}

fn first_step(
    shared: &Shared,
    meta: &Meta,
    discards: Option<DiscardReason>,
    ending: Option<Ending>,
    now: Timestamp,
) -> FirstStep {
    let discard = discards.or_else(|| not_to_start(meta, now));
    match discard {
        Some(reason) => FirstStep::Discard(reason),
        None if shared.runs_plain(meta) => FirstStep::Notify,
        None => FirstStep::Admit(ending),
    }
}

/// Why a task must not start, by its own policy.
#[inline]
fn not_to_start(meta: &Meta, now: Timestamp) -> Option<DiscardReason> {
    if meta.is_expired(now) {
        return Some(DiscardReason::Expired);
    }
    meta.duplicate_of().map(|_| DiscardReason::Duplicate)
}

/// Starts a task with the permits that it has just been given.
fn start_with_permits(shared: &Shared, work: &mut BoxedWork) -> Start {
    let meta = work.as_mut().meta_mut();
    let of_name = if meta.permits.of_name.is_some() { OfName::Permit } else { OfName::None };
    let start = shared.start(meta.id(), of_name);
    if let Start::MustWait = start {
        meta.permits = PermitPair::NONE;
    }
    start
}

/// Asks the layer's condition, and applies its answer: the tasks are drained or discarded.
#[inline(never)]
fn ask_condition(queue: &Arc<SetQueue>, ending: Option<Ending>) {
    let (Some(condition), Some(ending)) = (&queue.condition, ending) else { return };
    let drains = queue.shared().may_drain(queue.number(), condition, ending);
    queue.transition(|transition| {
        transition.state.is_decided = true;
        if !drains {
            transition.discard_all(DiscardReason::Ending);
            transition.state.refusal = Some(RejectReason::Ending);
        }
    });
}

/// Drops the work of a task that was ended by a caller.
fn drop_stopped(queue: &Arc<SetQueue>, work: &mut Option<BoxedWork>, id: TaskId) {
    drop_in_set(queue, work, id);
    queue.shared().abandoned.dropped(id);
}

/// Drops the work of a task that must not start. Returns work that ends the task at once.
#[cold]
fn discarded(queue: &Arc<SetQueue>, work: BoxedWork, reason: DiscardReason) -> BoxedWork {
    let (ended, id) = (run::discarded(work.meta(), reason), work.meta().id());
    drop_in_set(queue, &mut Some(work), id);
    ended
}

fn drop_in_set(queue: &Arc<SetQueue>, work: &mut Option<BoxedWork>, id: TaskId) {
    let mut current = TaskContext::InSet(Arc::clone(queue));
    // The outcome is already counted, so a panic of this drop can't change it.
    let _caught = context::enter(&mut current, id, || drop_work(work));
}

/// Called when the drain is dropped before its end. If the drain still owned the set, the runtime has ended: ends all
/// tasks of the set.
fn runtime_ended(queue: &Arc<SetQueue>, work: &mut Option<BoxedWork>) {
    if let Some(id) = work.as_ref().map(|work| work.meta().id()) {
        drop_in_set(queue, work, id);
        let (is_current, is_sleeping, is_stopped) = queue.transition(|transition| {
            if let Some(current) = transition.state.take_current(id) {
                let outcome = current.unfinished(DiscardReason::RuntimeEnded);
                transition.end(current, outcome, EndedBy::Runner);
                return (true, false, false);
            }
            let is_sleeping = transition.end_sleeping(id, |task| task.unfinished(DiscardReason::RuntimeEnded));
            // Under the lock: an abort that meets this drop leaves the queue to this drain.
            (false, is_sleeping, queue.mark.is_stopped(id.index))
        });
        if !is_current && !is_sleeping {
            queue.shared().abandoned.dropped(id);
        }
        if !is_current && !is_stopped {
            return;
        }
    }
    queue.transition(|transition| {
        transition.discard_pending(DiscardReason::RuntimeEnded);
        transition.set_idle();
    });
}
