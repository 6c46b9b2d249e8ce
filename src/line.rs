//! The line in which a set's tasks wait, and in what order they leave it.
//!
//! # Invariants
//! 1. A line is drained by at most one [`Drain`](crate::drain::Drain) at a time: in phase `Draining` there is
//!    one, in the other phases there is none.
//! 2. Tasks leave from the front, and the next one leaves only when `current` is empty.
//! 3. Whoever takes `current` out, under the lock, counts its outcome: its drain when the work has returned,
//!    an abort, or the drain's `Drop` when the runtime ends. A drain that finds its task no longer current
//!    has been superseded and ends.
//! 4. A task added in phase `Drained` starts a drain, under the same lock under which the last drain found
//!    the line empty: there is no moment at which it could be lost.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    DiscardReason, DrainReport, Ending, Outcome, RejectReason, Rejected, Task, TaskId, TaskRegistry,
    ledger::{Entry, Stage},
    outcome::drop_quietly,
    run::{self, BoxedWork},
    task::Identity,
};

/// What a launched line waits for before its first task may start.
pub(crate) trait Gate: Send + Sync {
    /// Ready when the response has left; then whether the line is to be drained at all.
    fn poll_open(&self, context: &mut Context<'_>) -> Poll<bool>;
    /// Waits no longer.
    fn open_now(&self);
}

pub(crate) struct Line {
    pub(crate) registry: TaskRegistry,
    /// The handles that users, layers and bodies hold; the last one to go launches the line.
    handles: AtomicUsize,
    number: OnceLock<u64>,
    places: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    queue: VecDeque<Task>,
    current: Option<Current>,
    listed: bool,
    /// Counts the drains; tells whose join handle comes late.
    drains: u64,
    join: Option<JoinHandle<()>>,
    gate: Option<Arc<dyn Gate>>,
    ending: Option<Ending>,
    /// What a shutdown is to launch the line with: known once there is a response.
    answered: Option<Ending>,
    stop_on_failure: bool,
    /// Why nothing is accepted any more.
    refusal: Option<RejectReason>,
    report: DrainReport,
    waiting: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// Collecting.
    #[default]
    Open,
    /// Launched, with tasks.
    Draining,
    /// Launched, and empty.
    Drained,
}

/// The task at the head of the line: started, or waiting for its permit.
struct Current {
    identity: Identity,
    started: Option<Instant>,
    token: Option<CancellationToken>,
}

/// What a drain does next.
pub(crate) enum Next {
    Work(BoxedWork),
    Gate(Arc<dyn Gate>),
    Done,
}

/// A task that has ended: what remains to be told of it, outside the locks.
pub(crate) struct Ended {
    pub(crate) identity: Identity,
    pub(crate) started: Option<Instant>,
    pub(crate) outcome: Outcome,
    pub(crate) now: Instant,
}

/// The task that has come to the head of the line.
struct Popped {
    work: BoxedWork,
    plain: bool,
    ending: Option<Ending>,
}

/// What one locked look at the line leaves to be done without the lock, in this order.
#[derive(Default)]
#[must_use]
struct Rest {
    dropped: Vec<Task>,
    ended: Vec<Ended>,
    token: Option<CancellationToken>,
    join: Option<JoinHandle<()>>,
    delisted: Option<Entry>,
    waiting: Vec<oneshot::Sender<()>>,
    spawn: Option<u64>,
}

impl Line {
    pub(crate) fn new(registry: TaskRegistry) -> Arc<Self> {
        Arc::new(Self {
            registry,
            handles: AtomicUsize::new(0),
            number: OnceLock::new(),
            places: AtomicU32::new(0),
            state: Mutex::default(),
        })
    }

    /// The line's number: drawn when the first task needs it, so that a set without tasks costs none.
    pub(crate) fn number(&self) -> u64 {
        *self.number.get_or_init(|| self.registry.inner.ledger.next_line())
    }

    pub(crate) fn handle_made(&self) {
        // Relaxed: a new handle comes from one that exists, or from a line nobody else knows.
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn handle_dropped(self: &Arc<Self>) {
        // AcqRel: what other handles did happens before the last one launches.
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 && self.number.get().is_some() {
            self.launch(None, None);
        }
    }

    /// Whether the caller's handle is the only one.
    #[cfg(feature = "http")]
    pub(crate) fn is_sole(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 1
    }

    pub(crate) fn len(&self) -> usize {
        let state = self.state.lock();
        state.queue.len() + usize::from(state.current.as_ref().is_some_and(|current| current.started.is_none()))
    }

    pub(crate) fn stop_on_failure(&self) {
        self.state.lock().stop_on_failure = true;
    }

    /// Accepts a task, or hands it back.
    pub(crate) fn offer(self: &Arc<Self>, mut task: Task) -> Result<TaskId, Rejected> {
        let number = self.number();
        // Relaxed: only uniqueness is asked of it.
        let id = TaskId { line: number, place: self.places.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1) };
        task.accept(id, Instant::now());

        let mut rest = Rest::default();
        let mut state = self.state.lock();
        let unlisted = (!state.listed).then_some(self);
        let refusal = match state.refusal {
            Some(reason) => Err(reason),
            None => self.registry.inner.ledger.admit_to_set(number, unlisted),
        };
        if let Err(reason) = refusal {
            drop(state);
            return Err(Rejected::new(task, reason));
        }
        state.listed = true;
        state.queue.push_back(task);
        state.wake(&mut rest);
        let late = unlisted.is_some() && state.phase == Phase::Open && state.answered.is_some();
        drop(state);
        self.settle(rest);
        if late && self.registry.inner.is_shutting_down() {
            self.launch_answered();
        }
        self.registry.inner.warn_if_crowded(number);
        Ok(id)
    }

    /// Lets the drain begin, now or when the gate opens. Only the first call counts, and a gate is not
    /// put before a line that somebody else has launched.
    pub(crate) fn launch(self: &Arc<Self>, gate: Option<Arc<dyn Gate>>, ending: Option<Ending>) {
        let mut rest = Rest::default();
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        state.gate = gate;
        state.ending = ending;
        state.phase = Phase::Drained;
        if !state.queue.is_empty() {
            state.wake(&mut rest);
        }
        drop(state);
        self.settle(rest);
    }

    /// Notes that there is a response, so that a shutdown need not wait for the client to take it.
    #[cfg(feature = "http")]
    pub(crate) fn answered(self: &Arc<Self>, ending: Ending) {
        self.state.lock().answered = Some(ending);
        // A shutdown that looked at this line before has set its phase before: one of the two sees the other.
        if self.registry.inner.is_shutting_down() {
            self.launch_answered();
        }
    }

    /// Launches at once if there is a response, also past a gate that still waits for its bytes.
    pub(crate) fn launch_answered(self: &Arc<Self>) {
        let state = self.state.lock();
        let (answered, gate) = (state.answered, state.gate.clone());
        drop(state);
        if let Some(gate) = gate {
            gate.open_now();
        } else if answered.is_some() {
            self.launch(None, answered);
        }
    }

    /// The drain's question when it has no work in hand.
    pub(crate) fn next(self: &Arc<Self>) -> Next {
        let mut rest = Rest::default();
        let mut state = self.state.lock();
        if let Some(gate) = &state.gate {
            return Next::Gate(Arc::clone(gate));
        }
        let next = self.pop(&mut state, Instant::now(), &mut rest);
        drop(state);
        self.settle(rest);
        self.prepare(next)
    }

    /// The gate has opened: on to the tasks, or to none of them.
    pub(crate) fn gate_opened(self: &Arc<Self>, drain: bool) {
        let mut rest = Rest::default();
        let mut state = self.state.lock();
        state.gate = None;
        if !drain {
            self.discard_queue(&mut state, DiscardReason::Ending, &mut rest);
            state.refusal = Some(RejectReason::Ending);
        }
        drop(state);
        self.settle(rest);
    }

    /// A drain's work has returned. `None` if its outcome was counted by somebody else meanwhile: then that
    /// drain has been superseded.
    pub(crate) fn finish(self: &Arc<Self>, id: TaskId, outcome: Outcome) -> Option<Next> {
        let now = Instant::now();
        let mut rest = Rest::default();
        let mut state = self.state.lock();
        let current = state.take_current(id)?;
        self.end(&mut state, &current, outcome, now, &mut rest);
        let next = self.pop(&mut state, now, &mut rest);
        drop(state);
        self.settle(rest);
        Some(self.prepare(next))
    }

    /// The drain was dropped before its end, with `id` in hand or nothing. `false` if it had been superseded;
    /// otherwise the runtime has ended, and with it the line.
    pub(crate) fn abandon(self: &Arc<Self>, id: Option<TaskId>) -> bool {
        let now = Instant::now();
        let mut rest = Rest::default();
        let mut state = self.state.lock();
        if let Some(id) = id {
            let Some(current) = state.take_current(id) else { return false };
            self.end(&mut state, &current, Outcome::unfinished(Stage::of(current.started)), now, &mut rest);
        }
        self.discard_queue(&mut state, DiscardReason::Closed, &mut rest);
        self.drained(&mut state, &mut rest);
        drop(state);
        self.settle(rest);
        true
    }

    /// Aborts one task, wherever it stands.
    pub(crate) fn abort(self: &Arc<Self>, id: TaskId) -> bool {
        let now = Instant::now();
        let mut rest = Rest::default();
        let mut state = self.state.lock();
        let found = if let Some(place) = state.queue.iter().position(|task| task.meta().id == id) {
            let task = state.queue.remove(place);
            self.end_pending(&mut state, task, Outcome::Aborted, now, &mut rest);
            self.drained_if_idle(&mut state, &mut rest);
            true
        } else {
            self.cut(&mut state, id, Outcome::Aborted, now, &mut rest)
        };
        drop(state);
        self.settle(rest);
        found
    }

    /// Takes back what has not started.
    pub(crate) fn clear(self: &Arc<Self>) -> usize {
        let now = Instant::now();
        let mut rest = Rest::default();
        let mut state = self.state.lock();
        self.discard_queue(&mut state, DiscardReason::Cleared, &mut rest);
        match &state.current {
            Some(Current { identity, started: None, .. }) => {
                let id = identity.id;
                self.cut(&mut state, id, Outcome::Discarded(DiscardReason::Cleared), now, &mut rest);
            }
            Some(_) | None => self.drained_if_idle(&mut state, &mut rest),
        }
        let count = rest.ended.len();
        drop(state);
        self.settle(rest);
        count
    }

    /// Ends everything: what is queued, and what is running.
    pub(crate) fn shut(self: &Arc<Self>) {
        let now = Instant::now();
        let mut rest = Rest::default();
        let mut state = self.state.lock();
        self.discard_queue(&mut state, DiscardReason::Closed, &mut rest);
        match &state.current {
            Some(Current { identity, started, .. }) => {
                let (id, stage) = (identity.id, Stage::of(*started));
                self.cut(&mut state, id, Outcome::unfinished(stage), now, &mut rest);
            }
            None => self.drained_if_idle(&mut state, &mut rest),
        }
        drop(state);
        self.settle(rest);
    }

    /// The waiting task has its permit; `false` if it is no longer current.
    pub(crate) fn start(&self, id: TaskId, now: Instant) -> bool {
        let mut state = self.state.lock();
        let Some(current) = state.current.as_mut().filter(|current| current.identity.id == id) else { return false };
        current.started = Some(now);
        self.registry.inner.ledger.start(id.line);
        true
    }

    /// The token of the running task, made when first asked for.
    pub(crate) fn token(&self, id: TaskId, make: impl FnOnce() -> CancellationToken) -> Option<CancellationToken> {
        let mut state = self.state.lock();
        let current = state.current.as_mut().filter(|current| current.identity.id == id)?;
        Some(current.token.get_or_insert_with(make).clone())
    }

    /// The token of the running task, if somebody has asked for it.
    pub(crate) fn token_in_use(&self, id: TaskId) -> Option<CancellationToken> {
        let state = self.state.lock();
        state.current.as_ref().filter(|current| current.identity.id == id)?.token.clone()
    }

    /// Calls `task` for each live task, under the lock, and says whether the line has yet to be launched.
    pub(crate) fn survey(&self, mut task: impl FnMut(Identity, Option<Instant>)) -> bool {
        let state = self.state.lock();
        if let Some(current) = &state.current {
            task(current.identity, current.started);
        }
        for queued in &state.queue {
            task(queued.meta().identity(), None);
        }
        state.phase == Phase::Open && !state.queue.is_empty()
    }

    /// What the line's tasks have come to so far, and a way to learn when it is empty; `None` if it is.
    pub(crate) fn wait_drained(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state.lock();
        if state.phase == Phase::Drained {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push(sender);
        Some(receiver)
    }

    pub(crate) fn report(&self) -> DrainReport {
        self.state.lock().report
    }

    /// Takes the next task to the head of the line, started if nothing stands in its way.
    fn pop(self: &Arc<Self>, state: &mut State, now: Instant, rest: &mut Rest) -> Option<Popped> {
        let Some(task) = state.queue.pop_front() else {
            self.drained(state, rest);
            return None;
        };
        let meta = task.meta();
        let plain = self.registry.inner.runs_plain(meta);
        if plain {
            self.registry.inner.ledger.start(meta.id.line);
        }
        state.current = Some(Current { identity: meta.identity(), started: plain.then_some(now), token: None });
        Some(Popped { work: task.work, plain, ending: state.ending })
    }

    fn prepare(&self, popped: Option<Popped>) -> Next {
        match popped {
            None => Next::Done,
            Some(Popped { work, plain: true, .. }) => Next::Work(work),
            Some(Popped { work, ending, .. }) => Next::Work(run::under_policy(work, &self.registry, ending)),
        }
    }

    /// Counts the end of the current task, and of those that its failure stops.
    fn end(&self, state: &mut State, current: &Current, outcome: Outcome, now: Instant, rest: &mut Rest) {
        self.registry.inner.ledger.end(&current.identity, current.started, &outcome, now);
        state.report.count(&outcome);
        let stops = state.stop_on_failure && outcome.is_failure();
        rest.ended.push(Ended { identity: current.identity, started: current.started, outcome, now });
        if stops {
            self.discard_queue(state, DiscardReason::PreviousFailed, rest);
            state.refusal = Some(RejectReason::PreviousFailed);
        }
    }

    fn end_pending(&self, state: &mut State, task: Option<Task>, outcome: Outcome, now: Instant, rest: &mut Rest) {
        let Some(task) = task else { return };
        let identity = task.meta().identity();
        self.registry.inner.ledger.end(&identity, None, &outcome, now);
        state.report.count(&outcome);
        rest.ended.push(Ended { identity, started: None, outcome, now });
        rest.dropped.push(task);
    }

    fn discard_queue(&self, state: &mut State, reason: DiscardReason, rest: &mut Rest) {
        if state.queue.is_empty() {
            return;
        }
        let now = Instant::now();
        for task in mem::take(&mut state.queue) {
            self.end_pending(state, Some(task), Outcome::Discarded(reason), now, rest);
        }
    }

    /// Cuts the current task loose: its outcome is counted now, and another drain takes over the line. The
    /// old one is told to end, whenever its work lets it.
    fn cut(self: &Arc<Self>, state: &mut State, id: TaskId, outcome: Outcome, now: Instant, rest: &mut Rest) -> bool {
        let Some(mut current) = state.take_current(id) else { return false };
        if current.started.is_some() {
            self.registry.inner.stuck.insert(current.identity);
        }
        rest.token = current.token.take();
        rest.join = state.join.take();
        self.end(state, &current, outcome, now, rest);
        state.phase = Phase::Drained;
        if state.queue.is_empty() {
            self.drained(state, rest);
        } else {
            state.wake(rest);
        }
        true
    }

    /// The line is empty and nothing of it runs.
    fn drained(&self, state: &mut State, rest: &mut Rest) {
        state.phase = Phase::Drained;
        rest.waiting.append(&mut state.waiting);
        if rest.join.is_none() {
            // That of the drain which has just found the line empty. Dropped, not aborted: see `settle`.
            drop(state.join.take());
        }
        self.delist(state, rest);
    }

    fn delist(&self, state: &mut State, rest: &mut Rest) {
        if mem::take(&mut state.listed) {
            rest.delisted = self.registry.inner.ledger.delist(self.number());
        }
    }

    /// After tasks were taken from the queue: strikes an open line off the list. A draining one is left to
    /// its drain, which will find it empty.
    fn drained_if_idle(&self, state: &mut State, rest: &mut Rest) {
        if state.queue.is_empty() && state.phase != Phase::Draining {
            self.delist(state, rest);
        }
    }

    /// Everything that must not happen under the lock.
    fn settle(self: &Arc<Self>, rest: Rest) {
        if let Some(token) = rest.token {
            token.cancel();
        }
        if let Some(join) = rest.join {
            join.abort();
        }
        for task in rest.dropped {
            drop_quietly(task);
        }
        for ended in rest.ended {
            self.registry.inner.settle(ended);
        }
        drop(rest.delisted);
        for waiting in rest.waiting {
            // Whoever has stopped waiting need not be told.
            let _unheard = waiting.send(());
        }
        if let Some(number) = rest.spawn {
            self.spawn_drain(number);
        }
    }

    fn spawn_drain(self: &Arc<Self>, number: u64) {
        let join = self.registry.inner.spawn_drain(Arc::clone(self));
        let mut state = self.state.lock();
        if state.phase == Phase::Draining && state.drains == number {
            state.join = Some(join);
        } else {
            drop(state);
            // It has ended, and this does nothing; or it was superseded before anybody could tell it.
            join.abort();
        }
    }
}

impl State {
    /// Sees to it that the queue is drained, if the line is launched.
    fn wake(&mut self, rest: &mut Rest) {
        if self.phase == Phase::Drained {
            self.phase = Phase::Draining;
            self.drains += 1;
            rest.spawn = Some(self.drains);
        }
    }

    fn take_current(&mut self, id: TaskId) -> Option<Current> {
        self.current.take_if(|current| current.identity.id == id)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("number", &self.number.get()).finish_non_exhaustive()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A listed line is held by the ledger, so only a line without tasks gets here.
        debug_assert!(self.state.get_mut().queue.is_empty(), "a line with tasks was dropped");
    }
}
