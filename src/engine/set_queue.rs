//! The queue of a set: its tasks, and when it drains.
//!
//! # Invariants
//! 1. At most one [`Drain`](crate::engine::drain::Drain) drains a queue at a time: in phase `Draining` there is one, in
//!    the other phases there is none. A drain whose task was abandoned or sleeps no longer drains the queue.
//! 2. Tasks leave from the front. The next task leaves only when `current` is empty and the work of the previous task
//!    was dropped, or was abandoned inside a poll.
//! 3. The code that takes `current` out, under the lock, counts its outcome: the drain when the work has returned, an
//!    abort, a time limit, or the drain's `Drop` when the runtime ends.
//! 4. A task that is added in phase `Idle` starts a drain, under the same lock under which the previous drain found the
//!    queue empty. So no add is lost.

use std::{
    fmt, mem,
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
};

use tokio::sync::oneshot;

#[cfg(feature = "http")]
use crate::engine::{hold::HoldState, request_line::RequestLine};
use crate::{
    engine::{
        keys::{self, Displaced},
        poll_mark::PollMark,
        queue_state::{OpenSet, Phase, QueueState, Waiting},
        shared::{Shared, TaskRegistry},
        start_limit,
        transition::Transition,
    },
    ledger::{live::LiveTask, oldest::Oldest},
    limits::PausedNames,
    model::{BoxError, DrainReport, Ending, Identity, Outcome, RejectReason, TaskId, TaskInfo, TaskName, next_number},
    task::{Rejected, Task, work::Meta},
    util::{
        clock::Timestamp,
        loom::{
            Mutex, MutexGuard,
            atomic::{AtomicU64, AtomicUsize, Ordering},
        },
        panic::drop_catching,
    },
};

/// Decides whether a set drains, by the ending of its request.
///
/// Boxed once more than it has to be, so that each set pays one word for it.
pub(crate) type DrainCondition = Box<dyn Fn(&Ending) -> bool + Send + Sync>;

pub(crate) struct SetQueue {
    pub(crate) registry: TaskRegistry,
    pub(crate) condition: Option<Arc<DrainCondition>>,
    /// The number of handles held by users, layers and bodies. Dropping the last one drains the set.
    handles: AtomicUsize,
    /// The set's number; zero until it is drawn.
    number: AtomicU64,
    last_index: AtomicU64,
    pub(crate) mark: PollMark,
    /// Of its request.
    #[cfg(feature = "http")]
    pub(crate) request_line: RequestLine,
    #[cfg(feature = "http")]
    pub(crate) holds: HoldState,
    pub(crate) state: Mutex<QueueState>,
}

/// Since when a task waits in a set that does not drain yet.
pub(crate) struct OpenSince {
    pub(crate) since: Timestamp,
    /// Whether the set has its response, and waits for the client or the body.
    pub(crate) is_held: bool,
}

/// What follows from the add of a task.
struct Admitted {
    /// A high-water mark was reached.
    passed_mark: bool,
    /// The response was there before the first task.
    is_late: bool,
}

/// What few adds have to do: those of a task that has to start in time, has a key, or is observed.
struct AddExtras {
    identity: Identity,
    start_by: Option<Timestamp>,
    is_unique: bool,
    displaced: Displaced,
}

impl AddExtras {
    /// Starts the time within which the task must start.
    #[cold]
    fn start(shared: &Arc<Shared>, meta: &mut Meta) -> Box<Self> {
        start_limit::start(shared, meta);
        Box::new(Self {
            identity: meta.identity(),
            start_by: meta.start_by(),
            is_unique: meta.is_unique(),
            displaced: Displaced::default(),
        })
    }

    /// Locks the queue, and what is needed to claim the key.
    #[cold]
    fn lock<'a>(&self, queue: &'a Arc<SetQueue>, meta: &mut Meta) -> MutexGuard<'a, QueueState> {
        if self.is_unique { keys::lock_for_claim(queue, meta) } else { queue.state.lock() }
    }

    /// Whether the task must be refused, because its key is live.
    #[cold]
    fn is_skipped(&self, shared: &Shared, state: &QueueState, task: &Task) -> bool {
        self.is_unique && keys::is_skipped(shared, state, task.meta())
    }

    /// Claims the key of the task, or leaves that to the drain.
    #[cold]
    fn claim(&mut self, shared: &Shared, state: &mut QueueState, task: &mut Task) {
        if self.is_unique && state.has_begun() {
            keys::claim(shared, task.meta_mut(), &mut self.displaced);
        } else if self.is_unique {
            state.has_unclaimed = true;
        }
    }

    /// Called without the lock when the task was added.
    #[cold]
    fn finish(self, shared: &Arc<Shared>) {
        shared.notify_added(self.identity);
        self.displaced.end(shared);
        if let Some(until) = self.start_by {
            start_limit::check(shared, self.identity.id, until);
        }
    }
}

/// Whether a drain may poll the task that it runs.
pub(crate) enum PollPermission {
    Granted,
    /// The task was stopped. The drain drops the work and goes on.
    Stopped,
    /// The task was ended, and another drain has taken over.
    Superseded,
}

// No foreign code runs under a lock, so a panic of it leaves nothing half done.
impl UnwindSafe for SetQueue {}
impl RefUnwindSafe for SetQueue {}

impl SetQueue {
    /// Creates a queue of which the caller has one handle.
    pub(crate) fn new(registry: TaskRegistry) -> Arc<Self> {
        Arc::new(Self::made(registry))
    }

    /// The same for a request. The caller has two handles.
    #[cfg(feature = "http")]
    pub(crate) fn of_request(
        registry: TaskRegistry,
        condition: Option<Arc<DrainCondition>>,
        request_line: RequestLine,
    ) -> Arc<Self> {
        let mut queue = Self::made(registry);
        (queue.condition, queue.request_line, queue.handles) = (condition, request_line, AtomicUsize::new(2));
        Arc::new(queue)
    }

    fn made(registry: TaskRegistry) -> Self {
        Self {
            registry,
            condition: None,
            handles: AtomicUsize::new(1),
            number: AtomicU64::new(0),
            last_index: AtomicU64::new(0),
            mark: PollMark::default(),
            #[cfg(feature = "http")]
            request_line: RequestLine::NONE,
            #[cfg(feature = "http")]
            holds: HoldState::default(),
            state: Mutex::default(),
        }
    }

    #[inline]
    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.registry.shared
    }

    /// The set's number. Drawn for the first task, so that a set without tasks does not draw one.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        // Relaxed, here and below: the number protects no other data.
        let number = self.number.load(Ordering::Relaxed);
        if number == 0 { self.draw_number() } else { number }
    }

    #[cold]
    fn draw_number(&self) -> u64 {
        let drawn = next_number();
        match self.number.compare_exchange(0, drawn, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => drawn,
            Err(number) => number,
        }
    }

    /// Whether a task was ever offered to the set.
    pub(crate) fn has_number(&self) -> bool {
        self.number.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn handle_made(&self) {
        // Relaxed: a new handle is made from an existing one, or from a queue that is not shared yet.
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn handle_dropped(self: &Arc<Self>) {
        // AcqRel: the operations of other handles happen before the last one drains.
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

    /// The number of tasks that have not started.
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
        let meta = task.meta_mut();
        meta.accept(id, Timestamp::now(), &shared.telemetry);
        if let Err(refusal) = shared.consider(meta) {
            return Err(Self::refuse(task, refusal));
        }
        let name = meta.name;
        let has_extras = meta.has_extras_at_add() || shared.telemetry.has_observers();
        let mut extras = has_extras.then(|| AddExtras::start(shared, meta));
        let mut state = match &extras {
            Some(extras) => extras.lock(self, meta),
            None => self.state.lock(),
        };
        let is_skipped = extras.as_ref().is_some_and(|extras| extras.is_skipped(shared, &state, &task));
        let admitted = if is_skipped { Err(RejectReason::Duplicate) } else { self.admit(&mut state, id, name) };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => {
                drop(state);
                return Err(Self::reject(task, reason));
            }
        };
        if let Some(extras) = &mut extras {
            extras.claim(shared, &mut state, &mut task);
        }
        state.pending.push(index, task);
        let drains = state.wake();
        drop(state);
        if let Some(extras) = extras {
            extras.finish(shared);
        }
        if drains {
            self.spawn_drain();
        }
        if admitted.is_late && shared.losses.has_begun() {
            self.drain_if_answered();
        }
        if admitted.passed_mark {
            shared.warn_of_high_water(id.number);
        }
        Ok(id)
    }

    #[cold]
    fn refuse(task: Task, refusal: BoxError) -> Rejected {
        Rejected::refused(task, refusal)
    }

    #[cold]
    fn reject(mut task: Task, reason: RejectReason) -> Rejected {
        task.meta_mut().end_start_limit();
        Rejected::new(task, reason)
    }

    /// Counts one more task.
    #[inline]
    fn admit(self: &Arc<Self>, state: &mut QueueState, id: TaskId, name: TaskName) -> Result<Admitted, RejectReason> {
        if let Some(reason) = state.refusal {
            return Err(reason);
        }
        let (is_first, was_listed) = (state.is_empty(), state.is_listed);
        let passed_mark =
            state.account.admit(&self.shared().ledger, id.number, name, self, is_first, &mut state.is_listed)?;
        let is_late = !was_listed
            && (state.phase == Phase::Holding || state.phase == Phase::Collecting && state.response.is_some());
        Ok(Admitted { passed_mark, is_late })
    }

    /// Drains the set. Only the first call has an effect, and none has one while the set is held for its response.
    pub(crate) fn drain(self: &Arc<Self>, ending: Option<Ending>) {
        let mut state = self.state.lock();
        if state.phase == Phase::Collecting {
            state.ending = ending;
            self.start_draining(state);
        }
    }

    /// Holds the set until its response has left and it is [released](Self::release). `false` if it is already
    /// draining.
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

    /// Called when the response has left, or the wait for it is over. Only the first call has an effect.
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

    /// Notes that there is a response, so that a shutdown does not wait for the client.
    #[cfg(feature = "http")]
    pub(crate) fn response_ready(self: &Arc<Self>, ending: Ending) {
        self.state.lock().response = Some(ending);
        // If a shutdown has checked this queue before the store above, it has begun before that, and is seen here.
        if self.shared().losses.has_begun() {
            self.drain_if_answered();
        }
    }

    /// Drains at once if there is a response, even if it has not left yet.
    pub(crate) fn drain_if_answered(self: &Arc<Self>) {
        let response = self.state.lock().response;
        if response.is_some() {
            self.drain(response);
        }
        self.release();
    }

    /// Drains at once, as if a response had been taken by its client. A set that has neither a request nor a response
    /// drains if `no_request` is in flight.
    #[cfg(feature = "testing")]
    pub(crate) fn drain_for_test(self: &Arc<Self>, no_request: bool) {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Collecting if state.response.is_some() || no_request => {
                state.ending = state.response.map(Ending::taken);
                self.start_draining(state);
            }
            Phase::Holding => self.start_draining(state),
            Phase::Collecting | Phase::Draining | Phase::Idle => {}
        }
    }

    pub(crate) fn spawn_drain(self: &Arc<Self>) {
        (self.shared().spawn_drain)(self);
    }

    /// Runs one step under the locks, and then applies its effects without them.
    pub(crate) fn transition<R>(self: &Arc<Self>, step: impl FnOnce(&mut Transition<'_>) -> R) -> R {
        let mut transition = Transition::new(self);
        let result = step(&mut transition);
        transition.finish();
        result
    }

    /// Called before the drain that runs a task polls it again.
    pub(crate) fn begin_poll(&self, id: TaskId) -> PollPermission {
        if self.mark.begin(id.index) || self.state.lock().is_sleeping(id) {
            PollPermission::Granted
        } else if self.mark.is_stopped(id.index) {
            PollPermission::Stopped
        } else {
            PollPermission::Superseded
        }
    }

    /// Called when a poll of a task has returned `Pending`. `false` if the task was ended meanwhile.
    pub(crate) fn end_poll(&self, id: TaskId) -> bool {
        self.mark.end(id.index) || self.state.lock().is_sleeping(id)
    }

    /// Starts an attempt of a task if it may start, and returns whether it may. `None` if the task has ended.
    pub(crate) fn start(
        &self,
        id: TaskId,
        now: Timestamp,
        may_start: impl FnOnce(&mut LiveTask) -> bool,
    ) -> Option<bool> {
        let mut state = self.state.lock();
        let task = state.live(id)?;
        if !may_start(task) {
            return Some(false);
        }
        let name = task.identity.name;
        if task.start(now) {
            state.account.start(name);
        } else {
            self.shared().ledger.shard(id.number).retry(name);
        }
        Some(true)
    }

    /// Accesses a task that has left `pending`, under the lock.
    pub(crate) fn with_live<R>(&self, id: TaskId, access: impl FnOnce(&mut LiveTask) -> R) -> Option<R> {
        self.state.lock().live(id).map(access)
    }

    /// The info of a live task.
    pub(crate) fn info(&self, id: TaskId, now: Timestamp) -> Option<TaskInfo> {
        let mut state = self.state.lock();
        if let Some(task) = state.live(id) {
            return Some(task.info(now));
        }
        let pending = state.pending.find(id)?;
        Some(LiveTask::new(pending.meta().identity()).info(now))
    }

    /// Calls `task`, under the lock, for some of the live tasks whose index is `from` or above, by index. Returns the
    /// index to go on from; `None` after the last one.
    pub(crate) fn chunk(&self, from: u64, task: impl FnMut(&LiveTask)) -> Option<u64> {
        self.state.lock().chunk(from, task)
    }

    /// Calls `task` for each live task, by index: under the lock, which is held for a few at a time.
    pub(crate) fn survey(&self, mut task: impl FnMut(&LiveTask)) {
        let mut from = Some(0);
        while let Some(index) = from {
            from = self.chunk(index, &mut task);
        }
    }

    /// Calls `task`, under the lock, for each task that has left `pending`; a few at a time.
    pub(crate) fn dequeued(&self, mut task: impl FnMut(&LiveTask)) {
        let mut from = Some(0);
        while let Some(index) = from {
            from = self.state.lock().chunk_dequeued(index, &mut task);
        }
    }

    /// Since when the oldest tasks could have started, or have been running. Of a set that does not drain yet, the
    /// pending tasks are left out, and it is returned since when the first of them waits. Paused tasks, and those that
    /// wait behind one, are left out, too.
    pub(crate) fn oldest(&self, paused: &PausedNames) -> (Oldest, Option<OpenSince>) {
        let state = self.state.lock();
        let (first, open) = (state.first_added(), state.open());
        let waits = open.is_some() || state.current.as_ref().is_some_and(|task| paused.has(task));
        drop(state);
        let mut oldest = Oldest { pending: first.filter(|_| !waits), running: None };
        self.dequeued(|task| {
            if !paused.has(task) {
                oldest.absorb(Oldest::of(task));
            }
        });
        let is_held = open != Some(OpenSet::Collecting);
        (oldest, first.filter(|_| open.is_some()).map(|since| OpenSince { since, is_held }))
    }

    /// What the set waits for, and how many tasks are pending, if it does not drain yet.
    pub(crate) fn open(&self) -> Option<(OpenSet, usize)> {
        let state = self.state.lock();
        Some((state.open()?, state.pending.len()))
    }

    /// A few of its live tasks, as lists show them: those that were taken from the queue, and then the first of the
    /// queue.
    pub(crate) fn first_infos(&self, count: usize, now: Timestamp) -> Vec<TaskInfo> {
        let state = self.state.lock();
        let dequeued = state.dequeued().map(|task| task.info(now));
        let pending = state.pending.iter().map(|task| LiveTask::new(task.meta().identity()).info(now));
        dequeued.chain(pending).take(count).collect()
    }

    /// Whether `matches` holds for all live tasks. Pending tasks wait for the current task, so they match if it does.
    pub(crate) fn all_live(&self, mut matches: impl FnMut(&LiveTask) -> bool) -> bool {
        let state = self.state.lock();
        let pending_match = state.pending.is_empty() || state.current.as_ref().is_some_and(&mut matches);
        pending_match && state.dequeued().all(matches)
    }

    /// Flushes the set's account, before the counters or the history are read.
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

    /// A receiver that completes when the set has drained; `None` if it already has.
    pub(crate) fn wait_drained(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state.lock();
        if state.is_drained() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let mut closed = Vec::new();
        let waiting = state.waiting.get_or_insert_default();
        if waiting.len() == waiting.capacity() {
            // Those whose handle was dropped. Rarely, so that it does not cost each handle a look at all.
            (closed, **waiting) = mem::take(&mut **waiting).into_iter().partition(oneshot::Sender::is_closed);
        }
        waiting.push(sender);
        drop(state);
        // Without the lock: a sender may hold the last reference to the waker of a handle, which may be foreign code.
        closed.into_iter().for_each(drop_catching);
        Some(receiver)
    }

    /// Ends the live tasks that `wanted` selects, on behalf of a caller, and returns their number. Some are ended at a
    /// time, so that no add waits for all. Tasks that are added meanwhile are left.
    pub(crate) fn end_all(self: &Arc<Self>, wanted: impl Fn(&LiveTask) -> bool, outcome: &Outcome) -> usize {
        if !self.has_number() {
            return 0;
        }
        // Relaxed: whoever added a task before this call has seen its index.
        let last = self.last_index.load(Ordering::Relaxed);
        let is_wanted = |task: &LiveTask| task.identity.id.index <= last && wanted(task);
        let (mut ended, mut from) = (0, Some(0));
        while let Some(first) = from.filter(|first| *first <= last) {
            let (some, next) = self.transition(|step| step.end_some(first, is_wanted, outcome));
            ended += some;
            from = next;
        }
        ended
    }

    /// Notes that the log and the observers were notified of this many ends. If the set has drained, returns the
    /// senders of the tasks that wait for that.
    pub(crate) fn reported(&self, ends: usize) -> Waiting {
        let mut state = self.state.lock();
        state.unreported -= ends;
        if state.is_drained() { state.waiting.take().map(|waiting| *waiting).unwrap_or_default() } else { Vec::new() }
    }

    /// Counts a task that was refused but not handed back.
    pub(crate) fn count_refused(&self, outcome: &Outcome) {
        self.state.lock().outcomes.count(outcome.kind());
    }

    /// The outcomes of the set's tasks so far.
    pub(crate) fn report(&self) -> DrainReport {
        DrainReport::new(self.state.lock().outcomes.counts())
    }
}

impl fmt::Debug for SetQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetQueue").field("number", &self.number.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

impl Drop for SetQueue {
    fn drop(&mut self) {
        // The ledger keeps a listed queue alive, so only a queue without tasks is dropped.
        debug_assert!(self.state.get_mut().pending.is_empty(), "a queue with tasks was dropped");
    }
}
