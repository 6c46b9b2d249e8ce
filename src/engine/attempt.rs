//! One attempt of a task: permits, time limit, and the place where its work runs.

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
        keys,
        shared::{OfName, Shared, Start},
        time_limit,
    },
    limits::{AdmitRequest, Entered},
    model::{DiscardReason, Identity, KeyOfName, Outcome, TaskId},
    task::work::{BoxedWork, Kind, Meta, PermitPair, Permits, Policy, drop_work, poll_work},
    util::{clock::Timestamp, panic::Panic},
};

/// The settings that are the same for each attempt of a task.
pub(crate) struct Terms {
    admission: Admission,
    limit: Option<Duration>,
    /// Until when the first attempt must start.
    start_by: Option<Timestamp>,
    /// Whether another attempt may follow.
    retries: bool,
}

impl Terms {
    pub(crate) fn of(admission: Admission, policy: &Policy, retries: bool, shared: &Shared) -> Self {
        let start_by = policy.start_by.as_ref().map(|start_by| start_by.until);
        Self { admission, limit: shared.time_limit(Some(policy)), start_by, retries }
    }
}

/// What decides when an attempt may start.
pub(crate) struct Admission {
    request: AdmitRequest,
    /// The key for which the attempt needs a permit.
    limited_key: Option<KeyOfName>,
    /// The key that the task has claimed.
    pub(crate) unique_key: Option<KeyOfName>,
}

impl Admission {
    pub(crate) fn of(meta: &Meta, shared: &Shared) -> Self {
        Self {
            request: AdmitRequest::of(meta),
            limited_key: shared.admission.limited_key(meta),
            unique_key: meta.held().and_then(|_| meta.key_of_name()),
        }
    }
}

/// Runs attempt `number`: waits until it may start, then runs the work that `make` returns.
pub(crate) async fn attempt(
    terms: &Terms,
    number: u32,
    shared: &Arc<Shared>,
    entered: &mut Entered,
    make: impl FnOnce() -> Result<Option<BoxedWork>, Panic>,
) -> Outcome {
    let Terms { admission: Admission { request, limited_key, .. }, limit, retries, .. } = terms;
    let (mut request, limit, retries) = (*request, *limit, *retries);
    let AdmitRequest { id, kind, .. } = request;
    if number > 1 {
        request.place = None;
    }
    let (note_due, sleep) = (|wait| shared.note_due(id, wait), |wait| shared.timer.sleep(wait));
    let is_over_at_once = limit.is_some_and(|limit| limit.is_zero());
    let mut permits = Permits::default();
    let started = loop {
        let key = limited_key.as_ref().filter(|_| permits.of_key.is_none());
        let given = shared.admission.admit(&request, key, entered, &note_due, &sleep).await;
        permits = Permits { of_key: given.of_key.or(permits.of_key), ..given };
        match begin(terms, number, shared, permits.pair.of_name.is_some()) {
            Ok(Some(started)) => break started,
            Ok(None) => permits.pair = PermitPair::NONE,
            Err(outcome) => return outcome,
        }
    };
    if let (Some(limit), true) = (limit, is_over_at_once) {
        return Outcome::TimedOut(limit);
    }
    let mut work = match make() {
        Ok(Some(work)) => shared.profiled(work),
        Ok(None) => return Outcome::Aborted,
        Err(panic) => return Outcome::Panicked(panic),
    };
    if kind == Kind::Async {
        work.as_mut().meta_mut().end_start_limit();
    }
    match (kind, limit) {
        (Kind::Async, None) => run_future(work, || false).await.unwrap_or(Outcome::Aborted),
        (Kind::Async, Some(limit)) => {
            if retries {
                // The limit may be over before the first poll returns.
                leave_waker(shared, id).await;
            }
            let until = started.plus(limit);
            let _entry = time_limit::start(shared, id, number, limit, retries, started);
            run_future(work, || Timestamp::now() >= until).await.unwrap_or(Outcome::TimedOut(limit))
        }
        (Kind::Blocking | Kind::Cpu, _) => run_closure(work, permits, number, shared, limit).await,
    }
}

/// Starts an attempt that has its permits: `None` if the name of the task was given limits meanwhile, for which it must
/// wait. A closure is started on its thread.
///
/// # Errors
/// The outcome of a task that does not start.
fn begin(terms: &Terms, number: u32, shared: &Arc<Shared>, has_permit: bool) -> Result<Option<Timestamp>, Outcome> {
    let Terms {
        admission: Admission { request: AdmitRequest { id, kind, .. }, unique_key, .. }, limit, start_by, ..
    } = terms;
    let now = Timestamp::now();
    if number == 1 && start_by.is_some_and(|until| now >= until) {
        return Err(Outcome::Discarded(DiscardReason::Expired));
    }
    let unique_key = unique_key.as_ref().filter(|_| number == 1);
    if let Some(key) = unique_key {
        if let Err(replaced) = shared.admission.unique.begin(key, *id) {
            return Err(keys::replaced(shared, *id, replaced));
        }
    }
    if *kind != Kind::Async && limit.is_none_or(|limit| !limit.is_zero()) {
        return Ok(Some(now));
    }
    match shared.start(*id, if has_permit { OfName::Permit } else { OfName::None }) {
        Start::At(started) => Ok(Some(started)),
        // The task was ended meanwhile, and its outcome is already counted.
        Start::Ended => Err(Outcome::Aborted),
        Start::MustWait => {
            if let Some(key) = unique_key {
                shared.admission.unique.take_back_begin(key, *id);
            }
            Ok(None)
        }
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

/// Polls a future to its end. Returns `None` if `is_over` returns `true`. The future is dropped before this returns.
async fn run_future(work: BoxedWork, is_over: impl Fn() -> bool) -> Option<Outcome> {
    let mut work = DropInside(Some(work));
    let mut was_polled = false;
    poll_fn(|context| {
        if was_polled && is_over() {
            // The outcome is a timeout, even if the drop panics.
            let _caught = drop_work(&mut work.0);
            return Poll::Ready(None);
        }
        was_polled = true;
        poll_work(&mut work.0, context).map(Some)
    })
    .await
}

/// Work that is dropped inside its wrappers.
struct DropInside(Option<BoxedWork>);

impl Drop for DropInside {
    fn drop(&mut self) {
        // The outcome is already decided, so a panic of this drop can't change it.
        let _caught = drop_work(&mut self.0);
    }
}

/// Runs a closure on a thread of its own.
async fn run_closure(
    work: BoxedWork,
    permits: Permits,
    number: u32,
    shared: &Arc<Shared>,
    limit: Option<Duration>,
) -> Outcome {
    let identity = work.meta().identity();
    let (start_sender, started) = oneshot::channel();
    let (parent, _) = context::current();
    let state = Arc::new(AttemptState::new(number, parent, work, permits));
    let call = AttemptTask {
        identity,
        state: Arc::clone(&state),
        shared: Arc::clone(shared),
        start_sender: Some(start_sender),
    };
    let join = shared.spawn_blocking(move || call.run());
    let mut guard = AbandonOnDrop { identity, state, shared, join };
    let Some(limit) = limit else {
        return (&mut guard.join).await.unwrap_or_else(|_| without_thread(shared, identity));
    };
    // The limit counts from the start of the closure, which may have to wait for a thread.
    let limit_over = async {
        if started.await.is_err() {
            // It will never start, so there is no limit.
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

/// Runs the closure on its thread.
struct AttemptTask {
    identity: Identity,
    state: Arc<AttemptState>,
    shared: Arc<Shared>,
    /// Notifies the waiting side that the closure starts.
    start_sender: Option<oneshot::Sender<()>>,
}

impl AttemptTask {
    fn run(mut self) -> Outcome {
        let id = self.identity.id;
        // The permits are held until the closure has returned, even if its task has ended before.
        let Some((work, permits)) = self.state.begin() else {
            return Outcome::Aborted;
        };
        let of_name = if permits.pair.of_name.is_some() { OfName::Permit } else { OfName::Thread };
        let mut work = Some(work);
        let mut current = TaskContext::Closure(Arc::clone(&self.state));
        let is_expired = work.as_ref().is_some_and(|work| work.meta().is_expired(Timestamp::now()));
        if is_expired || !matches!(self.shared.start(id, of_name), Start::At(_)) {
            // If it has not expired, it was ended while it waited for a thread, and its outcome is already counted.
            let _caught = context::enter(&mut current, id, || drop_work(&mut work));
            return if is_expired { Outcome::Discarded(DiscardReason::Expired) } else { Outcome::Aborted };
        }
        if let Some(work) = &mut work {
            work.as_mut().meta_mut().end_start_limit();
        }
        if let Some(sender) = self.start_sender.take() {
            // Without a limit, the receiver is dropped.
            let _no_receiver = sender.send(());
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

/// The waiting side of a closure. If it is dropped before the closure has returned, the closure is abandoned: if it has
/// no thread yet, it is dropped with its permits; if it is running, it is listed as stuck until it returns.
struct AbandonOnDrop<'a> {
    identity: Identity,
    state: Arc<AttemptState>,
    shared: &'a Arc<Shared>,
    join: JoinHandle<Outcome>,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        let mut never_started = None;
        self.shared.abandoned.insert_running(self.identity, Timestamp::now(), || {
            let (is_running, work) = self.state.abandon();
            never_started = work;
            is_running
        });
        if never_started.is_none() {
            self.shared.watch_stuck();
        }
        if let Some((work, permits)) = never_started {
            self.join.abort();
            let mut current = self.state.parent.clone();
            let _caught = context::enter(&mut current, self.identity.id, || drop_work(&mut Some(work)));
            drop(permits);
        }
    }
}
