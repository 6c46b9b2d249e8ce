//! One task under its policy, to its outcome.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{Either, select};
use tracing::Span;

use crate::{
    DiscardReason, Ending, Outcome, Panic, TaskOutput, TaskRegistry,
    admission::Claim,
    apart::apart,
    attempts::attempts,
    inner::Inner,
    outcome::{End, drop_quietly, guarded},
    permits::Waiting,
    record::{Kind, Meta, Policy, Record},
    timer,
};

pub(crate) type BoxedWork = Pin<Box<dyn Work>>;

/// A task's work, behind one pointer.
pub(crate) trait Work: Send {
    fn meta(&self) -> &Meta;
    fn meta_mut(self: Pin<&mut Self>) -> &mut Meta;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End>;

    /// The work of the next attempt, from what can be tried more than once.
    fn next_attempt(self: Pin<&mut Self>) -> Option<BoxedWork> {
        None
    }
}

/// Where work is until it is over.
pub(crate) trait Slot {
    /// Polls the work, if there is any.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End>;

    /// Drops it.
    fn clear(&mut self);
}

impl Slot for Option<BoxedWork> {
    #[inline]
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.as_mut().map_or(Poll::Pending, |work| work.as_mut().poll(context))
    }

    #[inline]
    fn clear(&mut self) {
        drop(self.take());
    }
}

impl<F> Slot for Pin<&mut Option<F>>
where
    F: Future<Output: TaskOutput>,
{
    #[inline]
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let polled = self.as_mut().as_pin_mut().map_or(Poll::Pending, |future| future.poll(context));
        polled.map(|output| output.into_outcome().into())
    }

    #[inline]
    fn clear(&mut self) {
        self.set(None);
    }
}

/// Polls work inside its span and catches its panics. Whatever comes out, the work is dropped before
/// its end is returned, and a panic of that drop is caught too.
#[inline]
pub(crate) fn poll_guarded(slot: &mut impl Slot, span: Option<&Span>, context: &mut Context<'_>) -> Poll<End> {
    let mut end = None;
    // The poll and the drop under one guard.
    let polled = guarded(|| {
        let _entered = span.map(Span::enter);
        if let Poll::Ready(ready) = slot.poll(context) {
            end = Some(ready);
            slot.clear();
        }
    });
    match (polled, end) {
        (Ok(()), None) => Poll::Pending,
        // The panic of its drop.
        (Err(panic), Some(end)) if end.is_completed() => Poll::Ready(Outcome::Panicked(panic).into()),
        (Ok(()) | Err(_), Some(end)) => Poll::Ready(end),
        (Err(panic), None) => {
            let _its_drop_may_panic_too = guarded(|| {
                let _entered = span.map(Span::enter);
                slot.clear();
            });
            Poll::Ready(Outcome::Panicked(panic).into())
        }
    }
}

/// The same for boxed work, whose span it leaves at the end, which is to be told inside it.
#[inline]
pub(crate) fn poll_to_end(
    slot: &mut Option<BoxedWork>,
    span: &mut Option<Box<Span>>,
    context: &mut Context<'_>,
) -> Poll<End> {
    *span = slot.as_mut().and_then(|work| work.as_mut().meta_mut().span.take());
    let polled = poll_guarded(slot, span.as_deref(), context);
    if let (Poll::Pending, Some(work)) = (&polled, slot) {
        work.as_mut().meta_mut().span = span.take();
    }
    polled
}

/// The same, to its outcome.
pub(crate) fn poll_work(slot: &mut Option<BoxedWork>, context: &mut Context<'_>) -> Poll<Outcome> {
    let mut span = None;
    let polled = poll_to_end(slot, &mut span, context).map(End::into_outcome);
    // The subscriber is the user's code: a panic of it goes no further.
    span.into_iter().for_each(drop_quietly);
    polled
}

/// Drops work and catches what its `Drop` throws.
#[inline]
pub(crate) fn drop_work(slot: &mut impl Slot) -> Result<(), Panic> {
    guarded(|| slot.clear())
}

/// Wraps work that can't just be polled: it has to be asked about its ending, waits for a time or a permit, runs on
/// another thread, has a time limit, or is tried again.
pub(crate) fn under_policy(work: BoxedWork, registry: &TaskRegistry, ending: Option<Ending>) -> BoxedWork {
    let meta = work.meta();
    // What waits for a time first joins no queue before that is over.
    let waits = meta.policy.as_ref().is_some_and(|policy| policy.delay.is_some());
    let joined = if waits { None } else { registry.inner.admission.join(Claim::of(meta)) };
    let meta = meta.on_behalf(Kind::Async);
    let future = run(work, registry.clone(), ending, joined);
    Box::pin(Record { meta, future })
}

/// The output of our own wrapper around a task's work.
struct Settled(Outcome);

impl TaskOutput for Settled {
    fn into_outcome(self) -> Outcome {
        self.0
    }
}

async fn run(
    mut work: BoxedWork,
    registry: TaskRegistry,
    ending: Option<Ending>,
    mut joined: Option<Waiting>,
) -> Settled {
    let inner = &*registry.inner;
    let mut policy = work.as_mut().meta_mut().policy.take().unwrap_or_default();
    if let (Some(condition), Some(ending)) = (policy.when.take(), ending) {
        if !inner.ask("the condition of a task", || condition(&ending)) {
            return Settled(Outcome::Discarded(DiscardReason::Ending));
        }
    }
    let ticket = policy.gathers.take();
    if let Some(delay) = policy.delay.take().filter(|delay| !delay.is_zero()) {
        let id = work.meta().id();
        if !inner.delay(id, delay, ticket.is_some()) {
            return Settled(Outcome::Aborted);
        }
        let sleep = timer::sleep(inner, delay);
        match &ticket {
            None => sleep.await,
            Some(ticket) => {
                if let Either::Left(_) = select(pin!(ticket.is_ready()), sleep).await {
                    inner.hurry(id);
                }
            }
        }
    }
    if let Some(ticket) = ticket {
        ticket.in_order().await;
        joined = inner.admission.join(Claim::of(work.meta()));
    }
    if let Some(retry) = policy.retry.take() {
        return Settled(attempts(work, retry, policy, &registry, joined).await);
    }
    let terms = Terms::of(work.meta(), &policy, inner);
    Settled(attempt(&terms, 1, &registry, joined, || Some(work)).await)
}

/// What holds for each attempt of a task.
pub(crate) struct Terms {
    claim: Claim,
    limit: Option<Duration>,
}

impl Terms {
    pub(crate) fn of(meta: &Meta, policy: &Policy, inner: &Inner) -> Self {
        Self { claim: Claim::of(meta), limit: policy.timeout.or(inner.default_timeout) }
    }
}

/// One attempt, the `number`th: waits for its turn, then does the work that `make` makes.
pub(crate) async fn attempt(
    terms: &Terms,
    number: u32,
    registry: &TaskRegistry,
    joined: Option<Waiting>,
    make: impl FnOnce() -> Option<BoxedWork>,
) -> Outcome {
    let Terms { claim: claim @ Claim { id, kind, .. }, limit } = *terms;
    let pass = registry.inner.admit(claim, joined).await;
    let over_at_once = limit.filter(Duration::is_zero);
    // A closure starts when it has its thread.
    if (kind == Kind::Async || over_at_once.is_some()) && !registry.inner.start(id) {
        // Ended in this very moment, by somebody who has counted it.
        return Outcome::Aborted;
    }
    if let Some(limit) = over_at_once {
        return Outcome::TimedOut(limit);
    }
    let work = match guarded(make) {
        Ok(Some(work)) => work,
        Ok(None) => return Outcome::Aborted,
        Err(panic) => return Outcome::Panicked(panic),
    };
    if kind != Kind::Async || limit.is_some() {
        return apart(work, pass, number, registry, kind, limit).await;
    }
    let mut work = Some(work);
    let outcome = poll_fn(|context| poll_work(&mut work, context)).await;
    drop(pass);
    outcome
}
