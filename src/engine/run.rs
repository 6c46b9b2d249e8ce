//! One task under its policy, to its outcome.

use std::{future::poll_fn, time::Duration};

use crate::{
    engine::{attempt::apart, retry::attempts, shared::Shared},
    limits::{AdmitRequest, semaphore::Acquire},
    model::{DiscardReason, Ending, Outcome},
    registry::TaskRegistry,
    task::{
        TaskOutput,
        work::{BoxedWork, Kind, Meta, Policy, Record, poll_work},
    },
    util::panic::catch_panic,
};

/// Wraps work that can't just be polled: it has to be asked about its ending, waits for a time or a permit, runs on
/// another thread, has a time limit, or is tried again.
pub(crate) fn under_policy(work: BoxedWork, registry: &TaskRegistry, ending: Option<Ending>) -> BoxedWork {
    let meta = work.meta();
    // What waits for a time first joins no queue before that is over.
    let waits = meta.policy.as_ref().is_some_and(|policy| policy.delay.is_some());
    let entered = if waits { None } else { registry.shared.admission.enqueue(AdmitRequest::of(meta)) };
    let meta = meta.on_behalf(Kind::Async);
    let future = run(work, registry.clone(), ending, entered);
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
    mut entered: Option<Acquire>,
) -> Settled {
    let shared = &*registry.shared;
    let mut policy = work.as_mut().meta_mut().policy.take().unwrap_or_default();
    if let (Some(condition), Some(ending)) = (policy.when.take(), ending) {
        if !shared.ask("the condition of a task", || condition(&ending)) {
            return Settled(Outcome::Discarded(DiscardReason::Ending));
        }
    }
    let ticket = policy.batched.take();
    if let Some(delay) = policy.delay.take().filter(|delay| !delay.is_zero()) {
        let id = work.meta().id();
        if !shared.delay(id, delay, ticket.is_some()) {
            return Settled(Outcome::Aborted);
        }
        let sleep = shared.timer.sleep(delay);
        match &ticket {
            None => sleep.await,
            Some(ticket) => {
                tokio::select! {
                    biased;
                    () = ticket.is_ready() => shared.hurry(id),
                    () = sleep => {}
                }
            }
        }
    }
    if let Some(ticket) = ticket {
        ticket.in_order().await;
        entered = shared.admission.enqueue(AdmitRequest::of(work.meta()));
    }
    if let Some(retry) = policy.retry.take() {
        return Settled(attempts(work, retry, policy, &registry, entered).await);
    }
    let terms = Terms::of(work.meta(), &policy, shared);
    Settled(attempt(&terms, 1, &registry, entered, || Some(work)).await)
}

/// What holds for each attempt of a task.
pub(crate) struct Terms {
    request: AdmitRequest,
    limit: Option<Duration>,
}

impl Terms {
    pub(crate) fn of(meta: &Meta, policy: &Policy, shared: &Shared) -> Self {
        Self { request: AdmitRequest::of(meta), limit: policy.timeout.or(shared.default_timeout) }
    }
}

/// One attempt, the `number`th: waits for its turn, then does the work that `make` makes.
pub(crate) async fn attempt(
    terms: &Terms,
    number: u32,
    registry: &TaskRegistry,
    entered: Option<Acquire>,
    make: impl FnOnce() -> Option<BoxedWork>,
) -> Outcome {
    let Terms { request: request @ AdmitRequest { id, kind, .. }, limit } = *terms;
    let shared = &registry.shared;
    let (note_due, sleep) = (|wait| shared.note_due(id, wait), |wait| shared.timer.sleep(wait));
    let permits = shared.admission.admit(request, entered, note_due, sleep).await;
    let over_at_once = limit.filter(Duration::is_zero);
    // A closure starts when it has its thread.
    if (kind == Kind::Async || over_at_once.is_some()) && !registry.shared.start(id) {
        // Finish in this very moment, by somebody who has counted it.
        return Outcome::Aborted;
    }
    if let Some(limit) = over_at_once {
        return Outcome::TimedOut(limit);
    }
    let work = match catch_panic(make) {
        Ok(Some(work)) => work,
        Ok(None) => return Outcome::Aborted,
        Err(panic) => return Outcome::Panicked(panic),
    };
    if kind != Kind::Async || limit.is_some() {
        return apart(work, permits, number, registry, kind, limit).await;
    }
    let mut work = Some(work);
    let outcome = poll_fn(|context| poll_work(&mut work, context)).await;
    drop(permits);
    outcome
}
