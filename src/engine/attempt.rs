//! Work that runs in a tokio task or on a thread of its own, so that it can be given up even if it does not return.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    engine::context::{self, Here, TaskContext},
    limits::Permits,
    model::{Identity, Outcome, TaskId},
    registry::TaskRegistry,
    task::work::{BoxedWork, Kind, drop_work, poll_work},
    util::loom::atomic::{AtomicU8, Ordering},
};

/// Does the work of the `number`th attempt of a task, until it returns or its time is over.
pub(crate) async fn apart(
    work: BoxedWork,
    permits: Permits,
    number: u32,
    registry: &TaskRegistry,
    kind: Kind,
    limit: Option<Duration>,
) -> Outcome {
    let identity = work.meta().identity();
    let apart = Arc::new(AttemptState { attempt: number, here: Here::current(), state: AtomicU8::new(RUNNING) });
    let (begin, begun) = oneshot::channel();
    let tenant = AttemptTask {
        id: identity.id,
        begin: Some(begin),
        scope: TaskContext::AttemptState(Arc::clone(&apart)),
        work: Some(work),
        apart: Arc::clone(&apart),
        registry: registry.clone(),
        _permits: permits,
    };
    let join = match kind {
        Kind::Async => registry.shared.spawn(tenant),
        Kind::Blocking | Kind::Cpu => registry.shared.spawn_blocking(move || tenant.call()),
    };
    let mut lease = AbandonOnDrop { identity, apart, registry, join };
    let Some(limit) = limit else {
        return (&mut lease.join).await.unwrap_or(Outcome::Aborted);
    };
    // Waiting for a thread is waiting for a turn: the limit holds from the start of the work.
    let limit_over = async {
        if begun.await.is_err() {
            // It will never start: its end is all there is to wait for.
            std::future::pending::<()>().await;
        }
        registry.shared.timer.sleep(limit).await;
    };
    tokio::select! {
        biased;
        outcome = &mut lease.join => outcome.unwrap_or(Outcome::Aborted),
        () = limit_over => Outcome::TimedOut(limit),
    }
}

const RUNNING: u8 = 0;

const GIVEN_UP: u8 = 1;

const OVER: u8 = 2;

/// What the work and whoever waits for it share.
pub(crate) struct AttemptState {
    /// Which attempt of its task it is.
    pub(crate) attempt: u32,
    /// What it is a part of.
    pub(crate) here: Here,
    state: AtomicU8,
}

impl AttemptState {
    /// Whether nobody waits for it any more.
    pub(crate) fn is_given_up(&self) -> bool {
        self.state.load(Ordering::Acquire) == GIVEN_UP
    }

    /// Nobody waits for it any more; `false` if it is over.
    pub(crate) fn give_up(&self) -> bool {
        self.state.compare_exchange(RUNNING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// It is over; whether it had been given up before.
    fn end(&self) -> bool {
        self.state.swap(OVER, Ordering::AcqRel) == GIVEN_UP
    }
}

/// The work, where it runs apart.
struct AttemptTask {
    id: TaskId,
    /// Taken at the first poll, to say that the work has started.
    begin: Option<oneshot::Sender<()>>,
    scope: TaskContext,
    work: Option<BoxedWork>,
    apart: Arc<AttemptState>,
    registry: TaskRegistry,
    /// Held until the work has really returned, whatever became of its task.
    _permits: Permits,
}

impl AttemptTask {
    /// Calls a closure.
    fn call(mut self) -> Outcome {
        if !self.registry.shared.start(self.id) {
            // Finish while it waited for a thread, by somebody who has counted it.
            return Outcome::Aborted;
        }
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut self).poll(&mut context) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Outcome::Aborted,
        }
    }
}

impl Future for AttemptTask {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        if let Some(begin) = this.begin.take() {
            // Without a limit nobody listens.
            let _unheard = begin.send(());
        }
        let work = &mut this.work;
        context::enter(&mut this.scope, this.id, || poll_work(work, context))
    }
}

impl Drop for AttemptTask {
    fn drop(&mut self) {
        let work = &mut self.work;
        // A panic in here has nobody to go to: the outcome is counted already.
        let _already_counted = context::enter(&mut self.scope, self.id, || drop_work(work));
        if self.apart.end() {
            self.registry.shared.stuck.remove(self.id);
        }
    }
}

/// The waiting side of a [`AttemptTask`]. Dropped before the work is over, it gives the work up: aborts it if
/// that is possible, and has it listed as stuck for as long as it goes on.
struct AbandonOnDrop<'a> {
    identity: Identity,
    apart: Arc<AttemptState>,
    registry: &'a TaskRegistry,
    join: JoinHandle<Outcome>,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if self.registry.shared.stuck.insert_given_up(self.identity, &self.apart) {
            self.join.abort();
        }
    }
}
