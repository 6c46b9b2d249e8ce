//! One task under its policy, to its outcome.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::future::{Either, select};
use tokio::{sync::oneshot, task::JoinHandle};
use tracing::Span;

use crate::{
    DiscardReason, Ending, Outcome, Panic, TaskId, TaskOutput, TaskRegistry,
    admission::{Claim, Pass},
    attempts::attempts,
    outcome::guarded,
    registry::Inner,
    scope::{self, Scope},
    sync::atomic::{AtomicBool, Ordering},
    task::{Identity, Kind, Meta, Policy, Record},
    timer,
};

pub(crate) type BoxedWork = Pin<Box<dyn Work>>;

/// A task's work, behind one pointer.
pub(crate) trait Work: Send {
    fn meta(&self) -> &Meta;
    fn meta_mut(self: Pin<&mut Self>) -> &mut Meta;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome>;

    /// The work of the next attempt, from what can be tried more than once.
    fn next_attempt(self: Pin<&mut Self>) -> Option<BoxedWork> {
        None
    }
}

/// Polls the work inside its span and catches its panics. Whatever comes out, the work is dropped before
/// the outcome is returned, and a panic of that drop is caught too.
pub(crate) fn poll_work(slot: &mut Option<BoxedWork>, context: &mut Context<'_>) -> Poll<Outcome> {
    poll_to_end(slot, context).map(|(outcome, _)| outcome)
}

/// The same, and hands out the span, so that the end is told inside it.
pub(crate) fn poll_to_end(
    slot: &mut Option<BoxedWork>,
    context: &mut Context<'_>,
) -> Poll<(Outcome, Option<Box<Span>>)> {
    let span = slot.as_mut().and_then(|work| work.as_mut().meta_mut().span.take());
    let mut outcome = None;
    // The poll and the drop under one guard.
    let polled = guarded(|| {
        let _entered = span.as_deref().map(Span::enter);
        let Some(Poll::Ready(ready)) = slot.as_mut().map(|work| work.as_mut().poll(context)) else {
            return;
        };
        outcome = Some(ready);
        drop(slot.take());
    });
    match (polled, outcome) {
        (Ok(()), None) => {
            if let Some(work) = slot {
                work.as_mut().meta_mut().span = span;
            }
            Poll::Pending
        }
        // The panic of its drop.
        (Err(panic), Some(Outcome::Completed)) => Poll::Ready((Outcome::Panicked(panic), span)),
        (Ok(()) | Err(_), Some(outcome)) => Poll::Ready((outcome, span)),
        (Err(panic), None) => {
            let _its_drop_may_panic_too = guarded(|| {
                let _entered = span.as_deref().map(Span::enter);
                drop(slot.take());
            });
            Poll::Ready((Outcome::Panicked(panic), span))
        }
    }
}

/// Drops the work and catches what its `Drop` throws.
pub(crate) fn drop_work(slot: &mut Option<BoxedWork>) -> Result<(), Panic> {
    slot.take().map_or(Ok(()), |work| guarded(|| drop(work)))
}

/// Wraps work that can't just be polled: it has to be asked about its ending, waits for a time or a permit, runs on
/// another thread, has a time limit, or is tried again.
pub(crate) fn under_policy(work: BoxedWork, registry: &TaskRegistry, ending: Option<Ending>) -> BoxedWork {
    let meta = work.meta().on_behalf(Kind::Async);
    let future = run(work, registry.clone(), ending);
    Box::pin(Record { meta, future })
}

/// The output of our own wrapper around a task's work.
struct Settled(Outcome);

impl TaskOutput for Settled {
    fn into_outcome(self) -> Outcome {
        self.0
    }
}

async fn run(mut work: BoxedWork, registry: TaskRegistry, ending: Option<Ending>) -> Settled {
    let inner = &*registry.inner;
    let mut policy = work.as_mut().meta_mut().policy.take().unwrap_or_default();
    if let (Some(condition), Some(ending)) = (policy.when.take(), ending) {
        if !inner.ask("the condition of a task", || condition(&ending)) {
            return Settled(Outcome::Discarded(DiscardReason::Ending));
        }
    }
    if let Some(delay) = policy.delay.take().filter(|delay| !delay.is_zero()) {
        let id = work.meta().id;
        if !inner.delay(id, delay, policy.hurry.is_some()) {
            return Settled(Outcome::Aborted);
        }
        let sleep = timer::sleep(inner, delay);
        match policy.hurry.take() {
            None => sleep.await,
            Some(hurry) => {
                if hurry.run_until_cancelled(sleep).await.is_none() {
                    inner.hurry(id);
                }
            }
        }
    }
    if let Some(retry) = policy.retry.take() {
        return Settled(attempts(work, retry, policy, &registry).await);
    }
    let terms = Terms::of(work.meta(), &policy, inner);
    Settled(attempt(&terms, &registry, || Some(work)).await)
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

/// One attempt: waits for its turn, then does the work that `make` makes.
pub(crate) async fn attempt(
    terms: &Terms,
    registry: &TaskRegistry,
    make: impl FnOnce() -> Option<BoxedWork>,
) -> Outcome {
    let Terms { claim: claim @ Claim { id, kind, .. }, limit } = *terms;
    let pass = registry.inner.admit(claim).await;
    if kind == Kind::Async && !registry.inner.start(id) {
        // Ended in this very moment, by somebody who has counted it.
        return Outcome::Aborted;
    }
    if let (Kind::Async, Some(limit @ Duration::ZERO)) = (kind, limit) {
        return Outcome::TimedOut(limit);
    }
    let work = match guarded(make) {
        Ok(Some(work)) => work,
        Ok(None) => return Outcome::Aborted,
        Err(panic) => return Outcome::Panicked(panic),
    };
    if kind != Kind::Async || limit.is_some() {
        return apart(work, pass, registry, kind, limit).await;
    }
    let mut work = Some(work);
    let outcome = poll_fn(|context| poll_work(&mut work, context)).await;
    drop(pass);
    outcome
}

/// Runs the work in a tokio task or on a thread of its own, so that it can be given up even if it does not
/// return.
async fn apart(work: BoxedWork, pass: Pass, registry: &TaskRegistry, kind: Kind, limit: Option<Duration>) -> Outcome {
    let identity = work.meta().identity();
    let over = Arc::new(AtomicBool::new(false));
    let (begin, begun) = oneshot::channel();
    let tenant = Tenant {
        id: identity.id,
        begin: Some(begin),
        scope: Scope::current(),
        work: Some(work),
        over: Arc::clone(&over),
        registry: registry.clone(),
        _pass: pass,
    };
    let join = match kind {
        Kind::Async => Join::Tokio(registry.inner.spawn(tenant)),
        Kind::Blocking => Join::Tokio(registry.inner.spawn_blocking(move || tenant.call())),
        #[cfg(feature = "cpu")]
        Kind::Cpu => registry.inner.spawn_cpu(move || tenant.call()),
    };
    let mut lease = Lease { identity, over, registry, join };
    let Some(limit) = limit else {
        return (&mut lease.join).await;
    };
    // Waiting for a thread is waiting for a turn: the limit holds from the start of the work.
    let limit_over = async {
        if begun.await.is_err() {
            // It will never start: its end is all there is to wait for.
            std::future::pending::<()>().await;
        }
        timer::sleep(&registry.inner, limit).await;
    };
    match select(&mut lease.join, pin!(limit_over)).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => Outcome::TimedOut(limit),
    }
}

/// What comes back from work that runs apart.
pub(crate) enum Join {
    Tokio(JoinHandle<Outcome>),
    #[cfg(feature = "cpu")]
    Cpu(oneshot::Receiver<Outcome>),
}

impl Join {
    /// Ends what can be ended: a future, or a closure that still waits for a thread.
    fn abort(&self) {
        match self {
            Self::Tokio(join) => join.abort(),
            #[cfg(feature = "cpu")]
            Self::Cpu(_) => {}
        }
    }
}

impl Future for Join {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        match self.get_mut() {
            Self::Tokio(join) => Pin::new(join).poll(context).map(|joined| joined.unwrap_or(Outcome::Aborted)),
            #[cfg(feature = "cpu")]
            Self::Cpu(receiver) => Pin::new(receiver).poll(context).map(|sent| sent.unwrap_or(Outcome::Aborted)),
        }
    }
}

/// The work, where it runs apart.
struct Tenant {
    id: TaskId,
    /// Taken at the first poll, to say that the work has started.
    begin: Option<oneshot::Sender<()>>,
    scope: Scope,
    work: Option<BoxedWork>,
    over: Arc<AtomicBool>,
    registry: TaskRegistry,
    /// Held until the work has really returned, whatever became of its task.
    _pass: Pass,
}

impl Tenant {
    /// Calls a closure.
    fn call(mut self) -> Outcome {
        if !self.registry.inner.start(self.id) {
            // Ended while it waited for a thread, by somebody who has counted it.
            return Outcome::Aborted;
        }
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut self).poll(&mut context) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Outcome::Aborted,
        }
    }
}

impl Future for Tenant {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        if let Some(begin) = this.begin.take() {
            // Without a limit nobody listens.
            let _unheard = begin.send(());
        }
        let work = &mut this.work;
        scope::enter(&mut this.scope, || poll_work(work, context))
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let work = &mut self.work;
        // A panic in here has nobody to go to: the outcome is counted already.
        let _already_counted = scope::enter(&mut self.scope, || drop_work(work));
        // Before the lock that `remove` takes: pairs with the read in `Lease::drop`, under the same lock.
        self.over.store(true, Ordering::Release);
        self.registry.inner.stuck.remove(self.id);
    }
}

/// The waiting side of a [`Tenant`]. Dropped before the work is over, it gives the work up: aborts it if
/// that is possible, and has it listed as stuck for as long as it goes on.
struct Lease<'a> {
    identity: Identity,
    over: Arc<AtomicBool>,
    registry: &'a TaskRegistry,
    join: Join,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.over.load(Ordering::Acquire) {
            self.registry.inner.stuck.insert_unless(self.identity, &self.over);
            self.join.abort();
        }
    }
}
