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
    task::work::{BoxedWork, End, Meta, drop_work, poll_to_end},
    telemetry::span::inside,
    util::clock::Timestamp,
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

/// A task that a drain polls, and its id, so that a poll need not look for it.
type Running = (BoxedWork, TaskId);

/// The next task of a set, which was taken out of `pending`.
struct Next {
    work: BoxedWork,
    id: TaskId,
    first_step: FirstStep,
}

/// What comes before the first poll of a task.
enum FirstStep {
    /// Nothing: the task has started, and is marked as being polled.
    Poll,
    /// The task has started. Observers are notified, and its time limit starts.
    Notify(Timestamp),
    /// The task may have to wait, or is not polled directly.
    Admit(Option<Ending>),
    /// The task must not start.
    Discard(DiscardReason),
}

impl Drain {
    /// Drains a set in a tokio task of its own.
    pub(crate) fn spawn(queue: Arc<SetQueue>) {
        let shared = Arc::clone(queue.shared());
        drop(shared.spawn(Self { queue: Some(queue), work: None }));
    }

    fn task_id(&self) -> Option<TaskId> {
        self.work.as_ref().map(|work| work.meta().id())
    }

    /// Called before the task that has waited is polled again. `Ready` if another drain has taken over.
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

    /// Polls the work in the context of its set.
    #[inline]
    fn poll_in_context(&mut self, id: TaskId, span: &mut Option<Box<Span>>, context: &mut Context<'_>) -> Poll<End> {
        let mut current = self.queue.take().map_or(TaskContext::None, TaskContext::InSet);
        let polled = context::enter(&mut current, id, || poll_to_end(&mut self.work, span, context));
        if let TaskContext::InSet(queue) = current {
            self.queue = Some(queue);
        }
        polled
    }

    /// Called when the task waits: stores the drain's waker, so that the drain is woken if the task is ended by a
    /// caller. Returns `Ready` if the task was ended meanwhile.
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
        let mut current = this.task_id();
        for _ in 0..TASKS_PER_POLL {
            let mut span = None;
            let finished = match current {
                None => None,
                Some(id) => match this.poll_in_context(id, &mut span, context) {
                    Poll::Ready(end) => Some((id, end)),
                    Poll::Pending => return this.park(id, context),
                },
            };
            let Some(queue) = &this.queue else { return Poll::Ready(()) };
            let next = match finished {
                None => next(queue),
                Some((id, end)) => finish(queue, span, id, end),
            };
            let Some((work, id)) = next else {
                this.queue = None;
                return Poll::Ready(());
            };
            (this.work, current) = (Some(work), Some(id));
        }
        // The next task is current, and is not being polled.
        if let (Some(queue), Some(id)) = (&this.queue, current) {
            if !queue.end_poll(id) {
                this.retire(id);
                return Poll::Ready(());
            }
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
pub(crate) fn next(queue: &Arc<SetQueue>) -> Option<Running> {
    loop {
        let now = Timestamp::now();
        let mut state = queue.state.lock();
        if let (Some(condition), Some(ending), false) = (&queue.condition, state.ending, state.is_decided) {
            drop(state);
            let drains = queue.shared().may_drain(queue.number(), &**condition, ending);
            queue.transition(|transition| decide(transition, drains));
            continue;
        }
        if state.discards.is_none() && mem::take(&mut state.has_unclaimed) {
            drop(state);
            keys::claim_pending(queue);
            continue;
        }
        let next = if let Some(next) = pop(queue, &mut state, now) {
            drop(state);
            next
        } else {
            drop(state);
            // A task may have been added since the lock was released.
            queue.transition(|transition| pop_or_idle(queue, transition, now))?
        };
        if let Some(running) = prepare(queue, next) {
            return Some(running);
        }
    }
}

/// Finishes a task that has returned, and returns the next one. `None` if the set has drained, or if the task was ended
/// by a caller and another drain has taken over.
#[inline]
pub(crate) fn finish(queue: &Arc<SetQueue>, span: Option<Box<Span>>, id: TaskId, end: End) -> Option<Running> {
    if !end.is_completed() || queue.shared().telemetry.observes_completed() {
        // Hooks are notified before the next task starts, so that a hook can still abort it, and the hook's time does
        // not count as the task's.
        let was_current = inside(span, || end_observed(queue, id, end));
        return if was_current { next(queue) } else { None };
    }
    drop_span(span);
    let now = Timestamp::now();
    let mut state = queue.state.lock();
    if !state.is_shut_down && state.finish_in_account(id, now) {
        let next = pop(queue, &mut state, now);
        drop(state);
        queue.shared().ledger.release();
        return continue_with(queue, next);
    }
    let mut transition = Transition::with(queue, state, now);
    if transition.finish_unobserved(id) {
        let next = pop_or_idle(queue, &mut transition, now);
        transition.finish();
        return continue_with(queue, next);
    }
    transition.finish();
    if end_observed(queue, id, end) { next(queue) } else { None }
}

#[inline]
fn drop_span(span: Option<Box<Span>>) {
    inside(span, || ());
}

#[inline]
fn continue_with(queue: &Arc<SetQueue>, popped: Option<Next>) -> Option<Running> {
    let running = prepare(queue, popped?);
    running.or_else(|| next(queue))
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

/// Takes the next task out of `pending`, and starts it if it can be polled directly.
#[inline(always)]
fn pop(queue: &SetQueue, state: &mut QueueState, now: Timestamp) -> Option<Next> {
    if state.is_shut_down {
        return None;
    }
    let task = state.pending.pop()?;
    let (shared, meta) = (queue.shared(), task.meta());
    let id = meta.id();
    let first_step = match state.discards {
        None if shared.runs_at_once(meta) => FirstStep::Poll,
        discards => first_step(shared, meta, discards, state.ending, now),
    };
    let mut current = LiveTask::of(meta);
    if let FirstStep::Poll | FirstStep::Notify(_) = first_step {
        current.start(now);
        state.account.start(current.identity.name);
    }
    state.current = Some(current);
    if let FirstStep::Poll = first_step {
        queue.mark.set_polling(id.index);
    } else {
        // Observers are notified of the start before the first poll, and may abort the task.
        queue.mark.set_idle(id.index);
    }
    Some(Next { work: task.work, id, first_step })
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
        None if shared.runs_plain(meta) => FirstStep::Notify(now),
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

#[inline]
fn pop_or_idle(queue: &SetQueue, transition: &mut Transition<'_>, now: Timestamp) -> Option<Next> {
    let next = pop(queue, &mut transition.state, now);
    if next.is_none() {
        transition.set_idle();
    }
    next
}

/// Prepares the task for its first poll. `None` if it was ended before.
#[inline(always)]
fn prepare(queue: &Arc<SetQueue>, next: Next) -> Option<Running> {
    match next.first_step {
        FirstStep::Poll => Some((next.work, next.id)),
        FirstStep::Notify(_) | FirstStep::Admit(_) | FirstStep::Discard(_) => take_first_step(queue, next),
    }
}

fn take_first_step(queue: &Arc<SetQueue>, next: Next) -> Option<Running> {
    let Next { mut work, id, first_step } = next;
    let shared = queue.shared();
    let started = match first_step {
        FirstStep::Poll => None,
        FirstStep::Notify(started) => shared.notify_started(id, started),
        FirstStep::Admit(ending) if shared.runs_with_permits(&mut work) => match start(shared, &mut work) {
            Start::At(started) => Some(started),
            Start::Ended => None,
            Start::MustWait => {
                work = under_policy(work, shared, ending);
                None
            }
        },
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
        return Some((work, id));
    }
    drop_stopped(queue, &mut Some(work), id);
    None
}

/// Starts a task with the permits that it has just been given.
fn start(shared: &Shared, work: &mut BoxedWork) -> Start {
    let meta = work.as_mut().meta_mut();
    let of_name = if meta.permits[0].is_some() { OfName::Permit } else { OfName::None };
    let start = shared.start(meta.id(), of_name);
    if let Start::MustWait = start {
        meta.permits = [None, None];
    }
    start
}

/// Applies the answer of the layer's condition: the tasks are drained or discarded.
fn decide(transition: &mut Transition<'_>, drains: bool) {
    transition.state.is_decided = true;
    if !drains {
        transition.discard_all(DiscardReason::Ending);
        transition.state.refusal = Some(RejectReason::Ending);
    }
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
