//! The tokio task of a spawned task.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    engine::{
        context::{self, TaskContext},
        run::under_limits,
        shared::{OfName, Shared, Start},
    },
    ledger::finished::EndedBy,
    model::{DiscardReason, Outcome, TaskId},
    task::work::{BoxedWork, End, drop_work, poll_to_end},
    telemetry::span::inside,
    util::{clock::Timestamp, semaphore::Permit},
};

/// Runs a task that belongs to no set. Three words, like a [`Drain`](crate::engine::drain::Drain), and an output of
/// one: both fit the smaller of the cells that tokio allocates for tasks.
pub(crate) struct Spawned {
    /// Taken at the end, so that `Drop` can tell a normal end from a runtime that shuts down.
    shared: Option<Arc<Shared>>,
    work: Option<BoxedWork>,
}

impl Spawned {
    pub(crate) const fn new(work: BoxedWork, shared: Arc<Shared>) -> Self {
        Self { shared: Some(shared), work: Some(work) }
    }

    fn id(&self) -> TaskId {
        self.work.as_ref().map_or(TaskId::UNASSIGNED, |work| work.meta().id())
    }

    /// At the first poll, counts the start. `false` if the task was ended before.
    fn begin(&mut self, shared: &Arc<Shared>, id: TaskId) -> bool {
        let Some(work) = &mut self.work else { return false };
        if mem::replace(&mut work.as_mut().meta_mut().started, true) {
            return true;
        }
        if work.meta().start_by().is_some_and(|until| Timestamp::now() >= until) {
            // The timer is late. The outcome is counted here, and there is no start.
            shared.expire(id);
        }
        let meta = work.as_mut().meta_mut();
        let of_name = meta.permits.of_name.take();
        let may_start = of_name.as_ref().is_none_or(Permit::may_start);
        let permit = if of_name.is_some() { OfName::Permit } else { OfName::None };
        match if may_start { shared.start(id, permit) } else { Start::MustWait } {
            Start::At(started) => {
                meta.permits.of_name = of_name;
                shared.start_time_limit(work, started);
                if shared.telemetry.profiler.is_some() {
                    self.work = self.work.take().map(|work| shared.profiled(work));
                }
                true
            }
            Start::Ended => false,
            Start::MustWait => {
                self.work = self.work.take().map(|work| under_limits(work, shared, of_name));
                true
            }
        }
    }

    /// Stores the runner's waker, so that the runner is woken if the task is ended by a caller. `false` if it already
    /// was.
    fn park(&mut self, shared: &Shared, id: TaskId, context: &Context<'_>) -> bool {
        let was_parked =
            self.work.as_mut().is_some_and(|work| mem::replace(&mut work.as_mut().meta_mut().parked, true));
        was_parked || shared.with_live(id, |live| live.park(context.waker().clone())).is_some()
    }

    fn drop_work(&mut self, shared: &Arc<Shared>, id: TaskId) {
        let mut current = TaskContext::Spawned(Arc::clone(shared));
        // The outcome is already decided, so a panic of this drop can't change it.
        let _caught = context::enter(&mut current, id, || drop_work(&mut self.work));
    }

    /// Drops the work of a task that was ended by a caller, and returns the outcome that was counted.
    fn drop_stopped(&mut self, shared: &Arc<Shared>, id: TaskId) -> Outcome {
        self.drop_work(shared, id);
        shared.abandoned.dropped(id).unwrap_or(Outcome::Aborted)
    }

    /// Counts the outcome, unless the task was ended by a caller.
    fn finish(shared: &Arc<Shared>, id: TaskId, end: End) -> Outcome {
        let outcome = end.into_outcome();
        let reply = outcome.clone();
        if shared.end_spawned(id, |_| outcome, EndedBy::Runner) {
            return reply;
        }
        shared.abandoned.dropped(id).unwrap_or(Outcome::Aborted)
    }
}

impl Future for Spawned {
    type Output = End;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let this = self.get_mut();
        let Some(shared) = this.shared.take() else {
            return Poll::Ready(Outcome::Aborted.into());
        };
        let id = this.id();
        if shared.abandoned.is_stopped(id) || !this.begin(&shared, id) {
            return Poll::Ready(this.drop_stopped(&shared, id).into());
        }
        let (mut current, mut span) = (TaskContext::Spawned(shared), None);
        let polled = context::enter(&mut current, id, || poll_to_end(&mut this.work, &mut span, context));
        let TaskContext::Spawned(shared) = current else {
            return Poll::Ready(Outcome::Aborted.into());
        };
        if let Poll::Ready(end) = polled {
            return Poll::Ready(inside(span, || Self::finish(&shared, id, end)).into());
        }
        if this.park(&shared, id, context) {
            this.shared = Some(shared);
            return Poll::Pending;
        }
        Poll::Ready(this.drop_stopped(&shared, id).into())
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        shared.runtime_ended();
        let id = self.id();
        self.drop_work(&shared, id);
        // The task may have been ended from outside before.
        if !shared.end_spawned(id, |task| task.unfinished(DiscardReason::RuntimeEnded), EndedBy::Runner) {
            shared.abandoned.dropped(id);
        }
    }
}
