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
        attempt::{Admission, Terms, attempt},
        keys,
        retry::attempts,
        shared::Shared,
        start_limit,
    },
    limits::{AdmitRequest, Entered},
    model::{DiscardReason, Ending, Outcome},
    task::{
        keyed::{Claim, Held},
        work::{BoxedWork, End, Kind, Meta, PermitPair, Work},
    },
    util::{clock::Timestamp, semaphore::Permit},
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
    // A task that waits for a time, or for another one, enters the queue for a permit after that.
    let is_delayed = meta.policy.as_ref().is_some_and(|policy| policy.delay.is_some());
    let entered = if is_delayed || meta.held().is_some_and(|held| held.waits) {
        Entered::None
    } else {
        shared.admission.enqueue(meta)
    };
    let meta = meta.on_behalf(Kind::Async);
    let future = run(work, Arc::clone(shared), ending, entered);
    Box::pin(UnderPolicy { meta, future })
}

/// The same for the work of a spawned task that could start without waiting when it was spawned, before the limits of
/// its name have changed. `of_name` is the permit that it was given then.
#[cold]
pub(crate) fn under_limits(mut work: BoxedWork, shared: &Arc<Shared>, of_name: Option<Permit>) -> BoxedWork {
    let meta = work.as_mut().meta_mut();
    meta.permits = PermitPair::NONE;
    let came = meta.identity().added;
    let entered = shared.admission.enter_again(&AdmitRequest::of(meta), came, of_name);
    let meta = meta.on_behalf(Kind::Async);
    let future = run(work, Arc::clone(shared), None, entered);
    Box::pin(UnderPolicy { meta, future })
}

/// Work for a task that must not start, and ends at once.
pub(crate) fn discarded(meta: &Meta, reason: DiscardReason) -> BoxedWork {
    let future = ready(Outcome::Discarded(reason));
    Box::pin(UnderPolicy { meta: meta.on_behalf(Kind::Async), future })
}

async fn run(mut work: BoxedWork, shared: Arc<Shared>, ending: Option<Ending>, mut entered: Entered) -> Outcome {
    let (id, held) = (work.meta().id(), work.meta().held());
    if work.meta().keyed().is_some_and(|keyed| matches!(keyed.claim, Claim::Refused)) {
        return Outcome::Discarded(DiscardReason::Ending);
    }
    let admission = Admission::of(work.meta(), &shared);
    let mut policy = work.as_mut().meta_mut().policy.take().unwrap_or_default();
    if let Some(wrappers) = policy.wrappers.take() {
        work.as_mut().meta_mut().set_wrappers(wrappers);
    }
    if let (Some(condition), Some(ending)) = (policy.when.take(), ending) {
        if !shared.may_run(id, work.meta().name, &condition, ending) {
            return Outcome::Discarded(DiscardReason::Ending);
        }
    }
    let batched = policy.batched.take();
    let at_most = held.and_then(|held| held.put_off_until).map(|until| until.since(Timestamp::now()));
    let delay = policy.delay.take().map(|delay| at_most.map_or(delay, |at_most| delay.min(at_most)));
    if let Some(delay) = delay.filter(|delay| !delay.is_zero()) {
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
        entered = shared.admission.enqueue(work.meta());
    }
    if let (Some(Held { waits: true, .. }), Some(key)) = (held, &admission.unique_key) {
        if let Err(replaced) = keys::turn(&shared, key, id).await {
            return keys::replaced(&shared, id, replaced);
        }
    }
    if let Some(retry) = policy.take_retry() {
        // Boxed, so that it does not enlarge the future of tasks that are not retried.
        return Box::pin(attempts(work, retry, policy, admission, &shared, entered)).await;
    }
    let terms = Terms::of(admission, &policy, false, &shared);
    let start_by = policy.start_by.take();
    attempt(&terms, 1, &shared, &mut entered, || Ok(Some(start_limit::leave_with(work, start_by)))).await
}
