//! The queue of a set: which tasks it has, and when it drains.
//!
//! # Invariants
//! 1. At most one [`Drain`](crate::engine::drain::Drain) at a time drains a queue: in phase `Draining` there is one, in the
//!    other phases there is none. A drain whose task was abandoned, or waits beside the queue, drains it no longer.
//! 2. Tasks leave from the front, and the next one leaves only when `current` is empty and the work of the last one was
//!    dropped, or was abandoned inside a poll.
//! 3. Whoever takes `current` out, under the lock, counts its outcome: its drain when the work has returned, an abort, a
//!    time limit, or the drain's `Drop` when the runtime ends.
//! 4. A task that is added in phase `Idle` starts a drain, under the same lock under which the last drain found the queue
//!    empty: there is no moment at which it could be lost.

use std::{fmt, mem, sync::Arc};

use tokio::sync::oneshot;

#[cfg(feature = "http")]
use crate::engine::hold::HoldState;
use crate::{
    engine::{
        poll_mark::PollMark,
        shared::{Shared, TaskRegistry},
        state::{Phase, QueueState},
        transition::Transition,
    },
    ledger::live::LiveTask,
    model::{DrainReport, Ending, Outcome, RejectReason, TaskId, TaskInfo, TaskName, next_number},
    task::{Rejected, Task},
    util::{
        clock::Timestamp,
        loom::{
            Mutex, MutexGuard,
            atomic::{AtomicU64, AtomicUsize, Ordering},
        },
        panic::drop_catching,
    },
};

/// Whether a set drains, by how its request ended.
pub(crate) type DrainCondition = dyn Fn(&Ending) -> bool + Send + Sync;

pub(crate) struct SetQueue {
    pub(crate) registry: TaskRegistry,
    pub(crate) condition: Option<Arc<DrainCondition>>,
    /// The handles of users, layers and bodies. The last one to be dropped drains the set.
    handles: AtomicUsize,
    /// Zero until it is drawn.
    number: AtomicU64,
    last_index: AtomicU64,
    pub(crate) mark: PollMark,
    #[cfg(feature = "http")]
    pub(crate) holds: HoldState,
    pub(crate) state: Mutex<QueueState>,
}

/// The tasks of a set wait for its request.
pub(crate) struct RequestInProgress;

/// Whether a drain may poll the task that it runs.
pub(crate) enum PollPermission {
    Granted,
    /// The task was stopped. Its drain drops the work and goes on.
    Stopped,
    /// The task was ended, and another drain has taken over.
    Superseded,
}

impl SetQueue {
    /// A queue of which the caller has this many handles.
    pub(crate) fn new(registry: TaskRegistry, condition: Option<Arc<DrainCondition>>, handles: usize) -> Arc<Self> {
        Arc::new(Self {
            registry,
            condition,
            handles: AtomicUsize::new(handles),
            number: AtomicU64::new(0),
            last_index: AtomicU64::new(0),
            mark: PollMark::default(),
            #[cfg(feature = "http")]
            holds: HoldState::default(),
            state: Mutex::default(),
        })
    }

    #[inline]
    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.registry.shared
    }

    /// The set's number: drawn when the first task needs it, so that a set without tasks costs none.
    pub(crate) fn number(&self) -> u64 {
        // Relaxed, here and below: it stands for nothing but itself.
        let number = self.number.load(Ordering::Relaxed);
        if number != 0 {
            return number;
        }
        let drawn = next_number();
        match self.number.compare_exchange(0, drawn, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => drawn,
            Err(number) => number,
        }
    }

    /// Whether a task was ever offered.
    pub(crate) fn has_number(&self) -> bool {
        self.number.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn handle_made(&self) {
        // Relaxed: a new handle comes from one that exists, or from a queue that nobody else knows.
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn handle_dropped(self: &Arc<Self>) {
        // AcqRel: what other handles did happens before the last one drains.
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 && self.has_number() {
            self.drain(None);
        }
    }

    /// Whether a task was offered, or may be by somebody other than the caller, who has a handle.
    #[cfg(feature = "http")]
    pub(crate) fn may_have_tasks(&self) -> bool {
        // Acquire: pairs with the release in `handle_dropped`, so that what the other handles offered is seen.
        self.handles.load(Ordering::Acquire) != 1 || self.has_number()
    }

    /// How many tasks have not started.
    pub(crate) fn len(&self) -> usize {
        let state = self.state.lock();
        state.pending.len() + state.dequeued().filter(|task| !task.has_started()).count()
    }

    pub(crate) fn stop_on_failure(&self) {
        self.state.lock().stop_on_failure = true;
    }

    /// Accepts a task, or hands it back.
    #[inline]
    pub(crate) fn offer(self: &Arc<Self>, mut task: Task) -> Result<TaskId, Rejected> {
        let shared = self.shared();
        // Relaxed: the index only has to be unique.
        let index = self.last_index.fetch_add(1, Ordering::Relaxed) + 1;
        let id = TaskId { number: self.number(), index };
        task.meta_mut().accept(id, Timestamp::now(), &shared.telemetry);
        if let Err(refusal) = shared.consider(task.meta()) {
            return Err(Rejected::refused(task, refusal));
        }
        let mut state = self.state.lock();
        let was_listed = state.is_listed;
        let passed_mark = match self.admit(&mut state, task.meta().name) {
            Ok(passed_mark) => passed_mark,
            Err(reason) => {
                drop(state);
                return Err(Rejected::new(task, reason));
            }
        };
        let added = shared.telemetry.has_observers().then(|| task.meta().identity());
        state.pending.push(index, task);
        let drain = state.wake();
        let is_late = !was_listed
            && (state.phase == Phase::Holding || state.phase == Phase::Collecting && state.response.is_some());
        drop(state);
        if let Some(identity) = added {
            shared.added(identity);
        }
        if drain {
            self.spawn_drain();
        }
        if is_late && shared.losses.has_begun() {
            self.drain_if_answered();
        }
        if passed_mark {
            shared.warn_of_high_water(id.number);
        }
        Ok(id)
    }

    /// Counts one more task; says whether a high-water mark was reached.
    #[inline]
    fn admit(self: &Arc<Self>, state: &mut QueueState, name: TaskName) -> Result<bool, RejectReason> {
        if let Some(reason) = state.refusal {
            return Err(reason);
        }
        let is_first = state.is_empty();
        state.account.admit(&self.shared().ledger, self.number(), name, self, is_first, &mut state.is_listed)
    }

    /// Drains the set. Only the first call counts, and none counts while the set is held for its response.
    pub(crate) fn drain(self: &Arc<Self>, ending: Option<Ending>) {
        let mut state = self.state.lock();
        if state.phase == Phase::Collecting {
            state.ending = ending;
            self.start_draining(state);
        }
    }

    /// Holds the set until its response has left: until it is [released](Self::release). `false` if it drains already.
    #[cfg(feature = "http")]
    pub(crate) fn hold(self: &Arc<Self>, ending: Ending) -> bool {
        let mut state = self.state.lock();
        if state.phase != Phase::Collecting {
            return false;
        }
        state.ending = Some(ending);
        state.phase = Phase::Holding;
        true
    }

    /// The response has left, or the wait for it is over. Only the first call counts.
    pub(crate) fn release(self: &Arc<Self>) {
        let state = self.state.lock();
        if state.phase == Phase::Holding {
            self.start_draining(state);
        }
    }

    /// Whether the set waits for its request or for its response.
    #[cfg(feature = "http")]
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Collecting | Phase::Holding)
    }

    /// The wait for the client has lasted as long as it may.
    #[cfg(feature = "http")]
    pub(crate) fn hold_limit_over(self: &Arc<Self>) {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Collecting => {
                state.ending = state.response.map(Ending::stalled);
                self.start_draining(state);
            }
            Phase::Holding => self.start_draining(state),
            Phase::Draining | Phase::Idle => {}
        }
    }

    fn start_draining(self: &Arc<Self>, mut state: MutexGuard<'_, QueueState>) {
        state.phase = Phase::Idle;
        let drain = !state.pending.is_empty() && state.wake();
        drop(state);
        if drain {
            self.spawn_drain();
        }
    }

    /// There is a response, so that a shutdown need not wait until the client has taken it.
    #[cfg(feature = "http")]
    pub(crate) fn response_ready(self: &Arc<Self>, ending: Ending) {
        self.state.lock().response = Some(ending);
        // A shutdown that looked at this queue before has begun before: one of the two sees the other.
        if self.shared().losses.has_begun() {
            self.drain_if_answered();
        }
    }

    /// Drains at once if there is a response, even if it is on its way.
    pub(crate) fn drain_if_answered(self: &Arc<Self>) {
        let response = self.state.lock().response;
        if response.is_some() {
            self.drain(response);
        }
        self.release();
    }

    pub(crate) fn spawn_drain(self: &Arc<Self>) {
        (self.shared().spawn_drain)(Arc::clone(self));
    }

    /// Makes one step under the locks, and then does what follows from it without them.
    pub(crate) fn transition<R>(self: &Arc<Self>, step: impl FnOnce(&mut Transition<'_>) -> R) -> R {
        let mut transition = Transition::new(self);
        let result = step(&mut transition);
        transition.finish();
        result
    }

    /// The drain that runs a task is about to poll it again.
    pub(crate) fn begin_poll(&self, id: TaskId) -> PollPermission {
        if self.mark.begin(id.index) || self.state.lock().is_sleeping(id) {
            PollPermission::Granted
        } else if self.mark.is_stopped(id.index) {
            PollPermission::Stopped
        } else {
            PollPermission::Superseded
        }
    }

    /// The drain that runs a task has returned from a poll, and the task waits. `false` if it was ended meanwhile.
    pub(crate) fn end_poll(&self, id: TaskId) -> bool {
        self.mark.end(id.index) || self.state.lock().is_sleeping(id)
    }

    /// Starts an attempt of a task; `false` if the task has ended.
    pub(crate) fn start(&self, id: TaskId, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        let Some(task) = state.live(id) else {
            return false;
        };
        let name = task.identity.name;
        if task.start(now) {
            state.account.start(name);
        } else {
            self.shared().ledger.shard(id.number).retry(name);
        }
        true
    }

    /// Looks at a task that has left `pending`, under the lock.
    pub(crate) fn with_live<R>(&self, id: TaskId, look: impl FnOnce(&mut LiveTask) -> R) -> Option<R> {
        self.state.lock().live(id).map(look)
    }

    /// A live task, as lists show it.
    pub(crate) fn info(&self, id: TaskId, now: Timestamp) -> Option<TaskInfo> {
        let mut state = self.state.lock();
        if let Some(task) = state.live(id) {
            return Some(task.info(now));
        }
        let pending = state.pending.find(id)?;
        Some(LiveTask::new(pending.meta().identity()).info(now))
    }

    /// Calls `task`, under the lock, for some of the live tasks whose index is `from` or above, by index. Returns the index to
    /// go on from; `None` after the last one.
    pub(crate) fn piece(&self, from: u64, task: impl FnMut(&LiveTask)) -> Option<u64> {
        self.state.lock().piece(from, task)
    }

    /// Calls `task` for each live task, by index: under the lock, which is held for a few at a time.
    pub(crate) fn survey(&self, mut task: impl FnMut(&LiveTask)) {
        let mut from = Some(0);
        while let Some(index) = from {
            from = self.piece(index, &mut task);
        }
    }

    /// Since when the oldest pending task could have started; `Err` if the set's request is still in progress, which its
    /// tasks wait for.
    pub(crate) fn oldest_pending(&self) -> Result<Option<Timestamp>, RequestInProgress> {
        let state = self.state.lock();
        if state.phase == Phase::Collecting && !state.pending.is_empty() {
            return Err(RequestInProgress);
        }
        let mut oldest = state.oldest_in_line();
        drop(state);
        let mut from = Some(0);
        while let Some(index) = from {
            let (sleeping, next) = self.state.lock().oldest_sleeping(index);
            oldest = oldest.into_iter().chain(sleeping).min();
            from = next;
        }
        Ok(oldest)
    }

    /// A few of its live tasks, as lists show them: those that were taken from the queue, and then the first of the queue.
    pub(crate) fn first_infos(&self, count: usize, now: Timestamp) -> Vec<TaskInfo> {
        let state = self.state.lock();
        let dequeued = state.dequeued().map(|task| task.info(now));
        let pending = state.pending.iter().map(|task| LiveTask::new(task.meta().identity()).info(now));
        dequeued.chain(pending).take(count).collect()
    }

    /// Whether `is_so` holds for all live tasks. Pending ones wait for the current one, or can start now.
    pub(crate) fn all_live(&self, mut is_so: impl FnMut(&LiveTask) -> bool) -> bool {
        let state = self.state.lock();
        let pending_are_so = state.pending.is_empty() || state.current.as_ref().is_some_and(&mut is_so);
        pending_are_so && state.dequeued().all(is_so)
    }

    /// Flushes the set's account, for a reader of the counters and the history.
    pub(crate) fn flush(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.account.is_empty() {
            return;
        }
        let mut evicted = Vec::new();
        let mut shard = self.shared().ledger.shard(self.number());
        state.account.flush(&mut shard, |error| evicted.push(error));
        drop(shard);
        drop(state);
        evicted.into_iter().for_each(drop_catching);
    }

    /// A way to learn when the set has drained; `None` if it has.
    pub(crate) fn wait_drained(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state.lock();
        if state.is_drained() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push(sender);
        Some(receiver)
    }

    /// The log and the observers were notified of this many ends; returns those who have waited for the last one.
    pub(crate) fn reported(&self, ends: usize) -> Vec<oneshot::Sender<()>> {
        let mut state = self.state.lock();
        state.unreported -= ends;
        if state.is_drained() { mem::take(&mut state.waiting) } else { Vec::new() }
    }

    /// Counts a task that was refused, but not handed back.
    pub(crate) fn count_refused(&self, outcome: &Outcome) {
        self.state.lock().outcomes.count(outcome.kind());
    }

    /// The outcomes of the set's tasks so far.
    pub(crate) fn report(&self) -> DrainReport {
        DrainReport::new(self.state.lock().outcomes)
    }
}

impl fmt::Debug for SetQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetQueue").field("number", &self.number.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

impl Drop for SetQueue {
    fn drop(&mut self) {
        // A listed queue is held by the ledger, so only a queue without tasks gets here.
        debug_assert!(self.state.get_mut().pending.is_empty(), "a queue with tasks was dropped");
    }
}
