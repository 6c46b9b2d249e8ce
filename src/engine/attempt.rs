//! One attempt of a task: its permits, its time limit, and where its work runs.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    engine::{
        context::{self, AttemptState, TaskContext},
        limit::LimitGuard,
        shared::Shared,
    },
    limits::{AdmitRequest, Permits, semaphore::Acquire},
    model::{DiscardReason, Identity, Outcome, TaskId},
    task::work::{BoxedWork, Kind, Meta, Policy, drop_work, poll_work},
    util::{clock::Timestamp, panic::catch_panic},
};

/// What holds for each attempt of a task.
pub(crate) struct Terms {
    request: AdmitRequest,
    limit: Option<Duration>,
    /// Another attempt may follow.
    retries: bool,
}

impl Terms {
    pub(crate) fn of(meta: &Meta, policy: &Policy, retries: bool, shared: &Shared) -> Self {
        Self { request: AdmitRequest::of(meta), limit: policy.timeout.or(shared.default_timeout), retries }
    }
}

/// The `number`th attempt: waits until it may start, then does the work that `make` makes.
pub(crate) async fn attempt(
    terms: &Terms,
    number: u32,
    shared: &Arc<Shared>,
    entered: Option<Acquire>,
    make: impl FnOnce() -> Option<BoxedWork>,
) -> Outcome {
    let Terms { request: request @ AdmitRequest { id, kind, .. }, limit, retries } = *terms;
    let (note_due, sleep) = (|wait| shared.note_due(id, wait), |wait| shared.timer.sleep(wait));
    let permits = shared.admission.admit(request, entered, note_due, sleep).await;
    let is_over_at_once = limit.is_some_and(|limit| limit.is_zero());
    // A closure starts when it has its thread.
    if (kind == Kind::Async || is_over_at_once) && !shared.start(id) {
        // Ended in this very moment, by somebody who has counted it.
        return Outcome::Aborted;
    }
    if let (Some(limit), true) = (limit, is_over_at_once) {
        return Outcome::TimedOut(limit);
    }
    let work = match catch_panic(make) {
        Ok(Some(work)) => work,
        Ok(None) => return Outcome::Aborted,
        Err(panic) => return Outcome::Panicked(panic),
    };
    match (kind, limit) {
        (Kind::Async, None) => run_future(work, || false).await.unwrap_or(Outcome::Aborted),
        (Kind::Async, Some(limit)) => {
            if retries {
                // The limit may be over before the first poll returns.
                leave_waker(shared, id).await;
            }
            let guard = LimitGuard::new(shared, id, number, limit, retries);
            run_future(work, || guard.is_over()).await.unwrap_or(Outcome::TimedOut(limit))
        }
        (Kind::Blocking | Kind::Cpu, _) => run_closure(work, permits, number, shared, limit).await,
    }
}

/// Lets the time limit wake the tokio task that runs a task.
async fn leave_waker(shared: &Shared, id: TaskId) {
    poll_fn(|context| {
        let runner = context.waker().clone();
        Poll::Ready(shared.with_live(id, |live| live.park(runner)))
    })
    .await;
}

/// Polls a future to its end; `None` if `is_over` says that its time is over. It is dropped before this returns.
async fn run_future(work: BoxedWork, is_over: impl Fn() -> bool) -> Option<Outcome> {
    let mut work = Some(work);
    let mut was_polled = false;
    poll_fn(|context| {
        if was_polled && is_over() {
            // The outcome is the time limit, whatever the drop does.
            let _caught = drop_work(&mut work);
            return Poll::Ready(None);
        }
        was_polled = true;
        poll_work(&mut work, context).map(Some)
    })
    .await
}

/// Calls a closure on a thread of its own.
async fn run_closure(
    work: BoxedWork,
    permits: Permits,
    number: u32,
    shared: &Arc<Shared>,
    limit: Option<Duration>,
) -> Outcome {
    let identity = work.meta().identity();
    let (begin, begun) = oneshot::channel();
    let (parent, _) = context::current();
    let state = Arc::new(AttemptState::new(number, parent, work, permits));
    let call = AttemptTask { identity, state: Arc::clone(&state), shared: Arc::clone(shared), begin: Some(begin) };
    let join = shared.spawn_blocking(move || call.run());
    let mut guard = AbandonOnDrop { identity, state, shared, join };
    let Some(limit) = limit else {
        return (&mut guard.join).await.unwrap_or_else(|_| without_thread(shared, identity));
    };
    // The limit holds from the start of the closure: it may have to wait for its thread.
    let limit_over = async {
        if begun.await.is_err() {
            // It will never start: its end is all there is to wait for.
            std::future::pending::<()>().await;
        }
        shared.timer.sleep(limit).await;
    };
    tokio::select! {
        biased;
        outcome = &mut guard.join => outcome.unwrap_or_else(|_| without_thread(shared, identity)),
        () = limit_over => Outcome::TimedOut(limit),
    }
}

/// The outcome of a closure that got no thread, because the runtime has ended.
fn without_thread(shared: &Shared, identity: Identity) -> Outcome {
    let unfinished = shared.with_live(identity.id, |live| live.unfinished(DiscardReason::RuntimeEnded));
    unfinished.unwrap_or(Outcome::Aborted)
}

/// The closure, on its thread.
struct AttemptTask {
    identity: Identity,
    state: Arc<AttemptState>,
    shared: Arc<Shared>,
    /// Taken to say that the closure starts.
    begin: Option<oneshot::Sender<()>>,
}

impl AttemptTask {
    fn run(mut self) -> Outcome {
        let id = self.identity.id;
        // Its permits are held until the closure has really returned, whatever became of its task.
        let Some((work, _permits)) = self.state.begin() else {
            return Outcome::Aborted;
        };
        let mut work = Some(work);
        let mut current = TaskContext::Closure(Arc::clone(&self.state));
        if !self.shared.start(id) {
            // Ended while it waited for a thread, by somebody who has counted it.
            let _caught = context::enter(&mut current, id, || drop_work(&mut work));
            return Outcome::Aborted;
        }
        if let Some(begin) = self.begin.take() {
            // Without a limit nobody listens.
            let _unheard = begin.send(());
        }
        let mut noop = Context::from_waker(Waker::noop());
        match context::enter(&mut current, id, || poll_work(&mut work, &mut noop)) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Outcome::Aborted,
        }
    }
}

impl Drop for AttemptTask {
    fn drop(&mut self) {
        if self.state.end() {
            self.shared.abandoned.returned(self.identity.id);
        }
    }
}

/// The waiting side of a closure. Dropped before that has returned, it abandons the closure: one that has no thread yet is
/// dropped, with its permits, and one that runs is listed as stuck for as long as it goes on.
struct AbandonOnDrop<'a> {
    identity: Identity,
    state: Arc<AttemptState>,
    shared: &'a Shared,
    join: JoinHandle<Outcome>,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        let mut never_started = None;
        self.shared.abandoned.insert_running(self.identity, Timestamp::now(), || {
            let (goes_on, work) = self.state.abandon();
            never_started = work;
            goes_on
        });
        if let Some((work, permits)) = never_started {
            self.join.abort();
            let mut current = self.state.parent.clone();
            let _caught = context::enter(&mut current, self.identity.id, || drop_work(&mut Some(work)));
            drop(permits);
        }
    }
}
