//! A task that has a line to itself.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tracing::Span;

use crate::{
    engine::context::{self, Scope},
    ledger::finished::Side,
    model::{Outcome, TaskId},
    registry::TaskRegistry,
    task::{
        TaskOutput,
        work::{BoxedWork, End, drop_work, poll_guarded, poll_to_end},
    },
    telemetry::span::inside,
};

/// What a spawned task has in hand.
pub(crate) trait Hand: Send {
    fn id(&self) -> TaskId;

    /// Notes the first poll; says whether it is that one, and the start is to be noted, too.
    fn begin(self: Pin<&mut Self>) -> bool;

    /// Notes that it waits; says whether it has waited before.
    fn park(self: Pin<&mut Self>) -> bool;

    /// Polls the work, and leaves its span at the end: see [`poll_to_end`].
    fn poll(self: Pin<&mut Self>, span: &mut Option<Box<Span>>, context: &mut Context<'_>) -> Poll<End>;

    /// Drops the work. A panic in there has nobody to go to.
    fn clear(self: Pin<&mut Self>);
}

/// A task: boxed, with what is known of it.
pub(crate) struct Boxed(Option<BoxedWork>);

pin_project! {
    /// A future without a name or a policy, just as it was given. Its one allocation is the tokio task's.
    pub(crate) struct Bare<F> {
        line: u64,
        // After its first poll, unless that was its last.
        is_parked: bool,
        // `None` once it is over.
        #[pin]
        future: Option<F>,
    }
}

impl Hand for Boxed {
    fn id(&self) -> TaskId {
        self.0.as_ref().map_or(TaskId::UNASSIGNED, |work| work.meta().id())
    }

    fn begin(mut self: Pin<&mut Self>) -> bool {
        self.0.as_mut().is_some_and(|work| !mem::replace(&mut work.as_mut().meta_mut().started, true))
    }

    fn park(mut self: Pin<&mut Self>) -> bool {
        self.0.as_mut().is_some_and(|work| mem::replace(&mut work.as_mut().meta_mut().parked, true))
    }

    #[inline]
    fn poll(mut self: Pin<&mut Self>, span: &mut Option<Box<Span>>, context: &mut Context<'_>) -> Poll<End> {
        poll_to_end(&mut self.0, span, context)
    }

    fn clear(mut self: Pin<&mut Self>) {
        let _nobody_to_go_to = drop_work(&mut self.0);
    }
}

impl<F> Bare<F> {
    pub(crate) const fn new(line: u64, future: F) -> Self {
        Self { line, is_parked: false, future: Some(future) }
    }
}

impl<F> Hand for Bare<F>
where
    F: Future<Output: TaskOutput> + Send,
{
    fn id(&self) -> TaskId {
        TaskId { line: self.line, place: 0 }
    }

    fn begin(self: Pin<&mut Self>) -> bool {
        !self.is_parked
    }

    fn park(self: Pin<&mut Self>) -> bool {
        mem::replace(self.project().is_parked, true)
    }

    #[inline]
    fn poll(self: Pin<&mut Self>, _: &mut Option<Box<Span>>, context: &mut Context<'_>) -> Poll<End> {
        poll_guarded(&mut self.project().future, None, context)
    }

    fn clear(self: Pin<&mut Self>) {
        let _nobody_to_go_to = drop_work(&mut self.project().future);
    }
}

pin_project! {
    /// The tokio task of a spawned task. Kept at three words, like a drain, and what a bare future captures.
    pub(crate) struct Spawned<H: Hand> {
        // Taken at the end, so that `Drop` knows an end from a runtime that goes down.
        registry: Option<TaskRegistry>,
        #[pin]
        hand: H,
    }

    impl<H: Hand> PinnedDrop for Spawned<H> {
        fn drop(mut this: Pin<&mut Self>) {
            if let Some(registry) = this.as_mut().project().registry.take() {
                this.give_up(&registry);
            }
        }
    }
}

impl Spawned<Boxed> {
    pub(crate) const fn boxed(work: BoxedWork, registry: TaskRegistry) -> Self {
        Self { registry: Some(registry), hand: Boxed(Some(work)) }
    }
}

impl<F> Spawned<Bare<F>>
where
    F: Future<Output: TaskOutput> + Send,
{
    pub(crate) const fn bare(line: u64, future: F, registry: TaskRegistry) -> Self {
        Self { registry: Some(registry), hand: Bare::new(line, future) }
    }
}

impl<H: Hand> Spawned<H> {
    /// Lets go of the work before its end: it was ended from outside, or with the runtime.
    fn give_up(self: Pin<&mut Self>, registry: &TaskRegistry) {
        let hand = self.project().hand;
        let id = hand.id();
        let mut scope = Scope::Spawned(registry.clone());
        context::enter(&mut scope, id, || hand.clear());
        // By whoever aborted it, which makes this the end of its stay among the stuck; or because the
        // runtime has ended, which makes it an outcome.
        if !registry.inner.end_spawned(id, Outcome::unfinished, Side::Inside) {
            registry.inner.stuck.remove_cut(id);
        }
    }

    /// The same for a task that was ended from outside: its outcome.
    fn give_up_cut(self: Pin<&mut Self>, registry: &TaskRegistry, id: TaskId) -> Poll<Outcome> {
        let outcome = registry.inner.outcome_of_cut(id);
        self.give_up(registry);
        Poll::Ready(outcome)
    }

    /// Counts the outcome, unless somebody else has.
    fn finish(registry: &TaskRegistry, id: TaskId, end: End) -> Outcome {
        let outcome = end.into_outcome();
        let reply = outcome.clone();
        if registry.inner.end_spawned(id, |_| outcome, Side::Inside) {
            return reply;
        }
        registry.inner.stuck.remove_cut(id);
        registry.inner.outcome_of_cut(id)
    }
}

impl<H: Hand> Future for Spawned<H> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut this = self.as_mut().project();
        let Some(registry) = this.registry.take() else {
            return Poll::Ready(Outcome::Aborted);
        };
        let id = this.hand.id();
        if registry.inner.stuck.was_cut(id) || this.hand.as_mut().begin() && !registry.inner.start(id) {
            return self.give_up_cut(&registry, id);
        }
        let (mut scope, mut span) = (Scope::Spawned(registry), None);
        let polled = context::enter(&mut scope, id, || this.hand.as_mut().poll(&mut span, context));
        let Scope::Spawned(registry) = scope else {
            return Poll::Ready(Outcome::Aborted);
        };
        if let Poll::Ready(end) = polled {
            return Poll::Ready(inside(span, || Self::finish(&registry, id, end)));
        }
        // It waits: an end from outside has to be told.
        if this.hand.park() || registry.inner.park(id, context.waker().clone()) {
            *self.project().registry = Some(registry);
            return Poll::Pending;
        }
        self.give_up_cut(&registry, id)
    }
}
