//! The tokio task of a spawned task.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    engine::context::{self, TaskContext},
    ledger::finished::EndedBy,
    model::{Outcome, TaskId},
    registry::TaskRegistry,
    task::work::{BoxedWork, End, drop_work, poll_to_end},
    telemetry::span::inside,
};

/// Runs a task that belongs to no set. Three words, as a [`Drain`](crate::engine::drain::Drain) has, which fit the smaller
/// of the cells that tokio makes for its tasks.
pub(crate) struct Spawned {
    /// Taken at the end, so that `Drop` knows an end from a runtime that shuts down.
    registry: Option<TaskRegistry>,
    work: Option<BoxedWork>,
}

impl Spawned {
    pub(crate) const fn new(work: BoxedWork, registry: TaskRegistry) -> Self {
        Self { registry: Some(registry), work: Some(work) }
    }

    fn id(&self) -> TaskId {
        self.work.as_ref().map_or(TaskId::UNASSIGNED, |work| work.meta().id())
    }

    /// Notes the first poll; says whether it is that one, and the start is to be noted, too.
    fn begin(&mut self) -> bool {
        self.work.as_mut().is_some_and(|work| !mem::replace(&mut work.as_mut().meta_mut().started, true))
    }

    /// Notes that it waits; says whether it has waited before.
    fn park(&mut self) -> bool {
        self.work.as_mut().is_some_and(|work| mem::replace(&mut work.as_mut().meta_mut().parked, true))
    }

    /// Lets go of the work before its end: it was ended from outside, or with the runtime.
    fn give_up(&mut self, registry: &TaskRegistry) {
        let id = self.id();
        let mut scope = TaskContext::Spawned(registry.clone());
        let _nobody_to_go_to = context::enter(&mut scope, id, || drop_work(&mut self.work));
        // By whoever aborted it, which makes this the end of its stay among the stuck; or because the
        // runtime has ended, which makes it an outcome.
        if !registry.shared.end_spawned(id, Outcome::unfinished, EndedBy::Runner) {
            registry.shared.stuck.remove_cut(id);
        }
    }

    /// The same for a task that was ended from outside: its outcome.
    fn give_up_cut(&mut self, registry: &TaskRegistry, id: TaskId) -> Poll<Outcome> {
        let outcome = registry.shared.outcome_of_cut(id);
        self.give_up(registry);
        Poll::Ready(outcome)
    }

    /// Counts the outcome, unless somebody else has.
    fn finish(registry: &TaskRegistry, id: TaskId, end: End) -> Outcome {
        let outcome = end.into_outcome();
        let reply = outcome.clone();
        if registry.shared.end_spawned(id, |_| outcome, EndedBy::Runner) {
            return reply;
        }
        registry.shared.stuck.remove_cut(id);
        registry.shared.outcome_of_cut(id)
    }
}

impl Future for Spawned {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        let Some(registry) = this.registry.take() else {
            return Poll::Ready(Outcome::Aborted);
        };
        let id = this.id();
        if registry.shared.stuck.was_cut(id) || this.begin() && !registry.shared.start(id) {
            return this.give_up_cut(&registry, id);
        }
        let (mut scope, mut span) = (TaskContext::Spawned(registry), None);
        let polled = context::enter(&mut scope, id, || poll_to_end(&mut this.work, &mut span, context));
        let TaskContext::Spawned(registry) = scope else {
            return Poll::Ready(Outcome::Aborted);
        };
        if let Poll::Ready(end) = polled {
            return Poll::Ready(inside(span, || Self::finish(&registry, id, end)));
        }
        // It waits: an end from outside has to be told.
        if this.park() || registry.shared.park(id, context.waker().clone()) {
            this.registry = Some(registry);
            return Poll::Pending;
        }
        this.give_up_cut(&registry, id)
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.take() {
            self.give_up(&registry);
        }
    }
}
