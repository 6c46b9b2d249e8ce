//! A task that has a line to itself.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    Outcome, TaskId, TaskRegistry,
    events::inside,
    inner::Side,
    outcome::End,
    run::{BoxedWork, drop_work, poll_to_end},
    scope::{self, Scope},
};

/// The tokio task of a spawned task. Kept at three words, like a drain.
pub(crate) struct Spawned {
    /// Taken at the end, so that `Drop` knows an end from a runtime that goes down.
    registry: Option<TaskRegistry>,
    work: Option<BoxedWork>,
}

impl Spawned {
    pub(crate) const fn new(work: BoxedWork, registry: TaskRegistry) -> Self {
        Self { registry: Some(registry), work: Some(work) }
    }

    /// Counts the outcome, unless somebody else has.
    fn finish(registry: &TaskRegistry, id: TaskId, end: End) -> Outcome {
        let outcome = end.into_outcome();
        let reply = outcome.clone();
        if registry.inner.end_spawned(id, |_| outcome, Side::Inside) {
            return reply;
        }
        registry.inner.stuck.remove(id);
        registry.inner.outcome_of_cut(id)
    }

    /// The task waits: sees to it that an end from outside is told.
    fn park(&mut self, context: &Context<'_>) -> Poll<Outcome> {
        let (Some(registry), Some(work)) = (&self.registry, &mut self.work) else {
            return Poll::Ready(Outcome::Aborted);
        };
        let meta = work.as_mut().meta_mut();
        let was_parked = mem::replace(&mut meta.parked, true);
        if was_parked || registry.inner.park(meta.id(), context.waker().clone()) {
            return Poll::Pending;
        }
        let outcome = registry.inner.outcome_of_cut(meta.id());
        self.give_up();
        Poll::Ready(outcome)
    }

    /// Ends without having come to the end of the work: ended from outside, or with the runtime.
    fn give_up(&mut self) {
        let (Some(registry), Some(work)) = (self.registry.take(), &self.work) else { return };
        let id = work.meta().id();
        let mut scope = Scope::Spawned(registry.clone());
        // A panic in here has nobody to go to: the task is counted as aborted either way.
        let _already_counted = scope::enter(&mut scope, id, || drop_work(&mut self.work));
        // By whoever aborted it, which makes this the end of its stay among the stuck; or because the
        // runtime has ended, which makes it an outcome.
        if !registry.inner.end_spawned(id, Outcome::unfinished, Side::Inside) {
            registry.inner.stuck.remove(id);
        }
    }
}

impl Future for Spawned {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        let (Some(registry), Some(work)) = (&this.registry, &mut this.work) else {
            return Poll::Ready(Outcome::Aborted);
        };
        let meta = work.as_mut().meta_mut();
        let id = meta.id();
        let has_started = mem::replace(&mut meta.started, true);
        let was_cut = meta.parked && registry.inner.stuck.was_cut(id);
        if was_cut || !has_started && !registry.inner.start(id) {
            let outcome = registry.inner.outcome_of_cut(id);
            this.give_up();
            return Poll::Ready(outcome);
        }
        let Some(registry) = this.registry.take() else {
            return Poll::Ready(Outcome::Aborted);
        };
        let (mut scope, mut span) = (Scope::Spawned(registry), None);
        let polled = scope::enter(&mut scope, id, || poll_to_end(&mut this.work, &mut span, context));
        let Scope::Spawned(registry) = scope else {
            return Poll::Ready(Outcome::Aborted);
        };
        match polled {
            Poll::Ready(end) => Poll::Ready(inside(span, || Self::finish(&registry, id, end))),
            Poll::Pending => {
                this.registry = Some(registry);
                this.park(context)
            }
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.give_up();
    }
}
