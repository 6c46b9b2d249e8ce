//! Runs a task under its policy, up to its outcome.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::{
    engine::{
        attempt::{Terms, attempt},
        retry::attempts,
        shared::Shared,
        start_limit,
    },
    limits::AdmitRequest,
    model::{DiscardReason, Ending, Outcome},
    task::work::{BoxedWork, End, Kind, Meta, Work},
    util::semaphore::Acquire,
};

pin_project! {
    /// Work that wraps the work of a task and runs it under its policy.
    struct UnderPolicy<F> {
        meta: Meta,
        #[pin]
        future: F,
    }
}

impl<F> Work for UnderPolicy<F>
where
    F: Future<Output = Outcome> + Send,
{
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(self: Pin<&mut Self>) -> &mut Meta {
        self.project().meta
    }

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        self.project().future.poll(context).map(End::from)
    }
}

/// Wraps work that can't be polled directly, because it has a condition, waits for a time or a permit, runs on another
/// thread, has a time limit, or is retried.
pub(crate) fn under_policy(work: BoxedWork, shared: &Arc<Shared>, ending: Option<Ending>) -> BoxedWork {
    let meta = work.meta();
    // A delayed task enters the queue for a permit after its delay.
    let waits = meta.policy.as_ref().is_some_and(|policy| policy.delay.is_some());
    let entered = if waits { None } else { shared.admission.enqueue(AdmitRequest::of(meta)) };
    let meta = meta.on_behalf(Kind::Async);
    let future = run(work, Arc::clone(shared), ending, entered);
    Box::pin(UnderPolicy { meta, future })
}

/// Work for a task that must not start, and ends at once.
pub(crate) fn discarded(meta: &Meta, reason: DiscardReason) -> BoxedWork {
    let future = ready(Outcome::Discarded(reason));
    Box::pin(UnderPolicy { meta: meta.on_behalf(Kind::Async), future })
}

async fn run(
    mut work: BoxedWork,
    shared: Arc<Shared>,
    ending: Option<Ending>,
    mut entered: Option<Acquire>,
) -> Outcome {
    let id = work.meta().id();
    let mut policy = work.as_mut().meta_mut().policy.take().unwrap_or_default();
    if let (Some(condition), Some(ending)) = (policy.when.take(), ending) {
        if !shared.telemetry.ask("the condition of a task", || condition(&ending)) {
            return Outcome::Discarded(DiscardReason::Ending);
        }
    }
    let batched = policy.batched.take();
    if let Some(delay) = policy.delay.take().filter(|delay| !delay.is_zero()) {
        if !shared.delay(id, delay, batched.is_some()) {
            return Outcome::Aborted;
        }
        let sleep = shared.timer.sleep(delay);
        match &batched {
            None => sleep.await,
            Some(batched) => {
                tokio::select! {
                    biased;
                    () = batched.is_ready() => shared.start_early(id),
                    () = sleep => {}
                }
            }
        }
    }
    if let Some(batched) = batched {
        batched.in_order().await;
        entered = shared.admission.enqueue(AdmitRequest::of(work.meta()));
    }
    if let Some(retry) = policy.retry.take() {
        return attempts(work, retry, policy, &shared, entered).await;
    }
    let terms = Terms::of(work.meta(), &policy, false, &shared);
    let start_by = policy.start_by.take();
    attempt(&terms, 1, &shared, entered, || Ok(Some(start_limit::leave_with(work, start_by)))).await
}
