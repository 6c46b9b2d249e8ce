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

use std::{fmt, mem, sync::Arc};

use tokio::sync::oneshot;

#[cfg(feature = "http")]
use crate::engine::hold::HoldCount;
use crate::{
    engine::state::{Phase, State},
    ledger::{
        live::{LiveTask, Stage},
        shard::ShardState,
    },
    model::{DrainReport, Ending, Outcome, RejectReason, TaskId, TaskInfo},
    registry::TaskRegistry,
    task::{Rejected, Task},
    util::{
        clock::Timestamp,
        loom::{
            Mutex, MutexGuard,
            atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
        },
        panic::drop_catching,
    },
};

/// Whether a line is to be drained, by how its request ended.
pub(crate) type DrainCondition = dyn Fn(&Ending) -> bool + Send + Sync;

pub(crate) struct SetQueue {
    pub(crate) registry: TaskRegistry,
    pub(crate) condition: Option<Arc<DrainCondition>>,
    /// The handles that users, layers and bodies hold; the last one to go launches the line.
    handles: AtomicUsize,
    /// Zero until it is drawn.
    number: AtomicU64,
    places: AtomicU32,
    /// What keeps the line from launching once its response is leaving.
    #[cfg(feature = "http")]
    pub(crate) held: HoldCount,
    pub(crate) state: Mutex<State>,
}

impl SetQueue {
    /// A line of which whoever makes it has so many handles.
    pub(crate) fn new(registry: TaskRegistry, condition: Option<Arc<DrainCondition>>, handles: usize) -> Arc<Self> {
        Arc::new(Self {
            registry,
            condition,
            handles: AtomicUsize::new(handles),
            number: AtomicU64::new(0),
            places: AtomicU32::new(0),
            #[cfg(feature = "http")]
            held: HoldCount::default(),
            state: Mutex::default(),
        })
    }

    /// The line's number: drawn when the first task needs it, so that a set without tasks costs none.
    pub(crate) fn number(&self) -> u64 {
        // Relaxed, here and below: it stands for nothing but itself.
        let number = self.number.load(Ordering::Relaxed);
        if number != 0 {
            return number;
        }
        let drawn = self.registry.shared.ledger.next_line();
        match self.number.compare_exchange(0, drawn, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => drawn,
            Err(number) => number,
        }
    }

    /// Whether a task was ever offered.
    pub(crate) fn has_number(&self) -> bool {
        self.number.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, ShardState> {
        self.registry.shared.ledger.books(self.number())
    }

    pub(crate) fn handle_made(&self) {
        // Relaxed: a new handle comes from one that exists, or from a line nobody else knows.
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn handle_dropped(self: &Arc<Self>) {
        // AcqRel: what other handles did happens before the last one launches.
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 && self.has_number() {
            self.launch(None);
        }
    }

    /// Whether the caller's handle is the only one.
    #[cfg(feature = "http")]
    pub(crate) fn is_sole(&self) -> bool {
        // Acquire: pairs with the release in `handle_dropped`.
        self.handles.load(Ordering::Acquire) == 1
    }

    /// How many tasks have not started.
    pub(crate) fn len(&self) -> usize {
        let state = self.state.lock();
        state.queue.len() + state.taken().filter(|live| live.stage() == Stage::Pending).count()
    }

    pub(crate) fn stop_on_failure(&self) {
        self.state.lock().stop_on_failure = true;
    }

    /// Accepts a task, or hands it back.
    #[inline]
    pub(crate) fn offer(self: &Arc<Self>, mut task: Task) -> Result<TaskId, Rejected> {
        let number = self.number();
        // Relaxed: only uniqueness is asked of it.
        let id = TaskId { line: number, place: self.places.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1) };
        task.accept(id, Timestamp::now(), self.registry.shared.spans);

        let shared = &self.registry.shared;
        if let Err(refusal) = shared.consider(task.meta()) {
            return Err(Rejected::refused(task, refusal));
        }
        let mut state = self.state.lock();
        let was_listed = state.listed;
        let crowded = match self.admit(&mut state) {
            Ok(crowded) => crowded,
            Err(reason) => {
                drop(state);
                return Err(Rejected::new(task, reason));
            }
        };
        let told = shared.telemetry.has_observers().then(|| task.meta().identity());
        state.queue.push(task);
        let drain = state.wake();
        let late_answer =
            !was_listed && (state.phase == Phase::Leaving || state.phase == Phase::Open && state.answered.is_some());
        drop(state);
        if let Some(identity) = told {
            shared.added(identity);
        }
        if drain {
            self.spawn_drain();
        }
        if late_answer && shared.is_shutting_down() {
            self.launch_answered();
        }
        if crowded {
            shared.warn_if_crowded(number);
        }
        Ok(id)
    }

    /// Counts one more task, and lists the line if it is not; says whether that made a crowd.
    fn admit(self: &Arc<Self>, state: &mut State) -> Result<bool, RejectReason> {
        if let Some(reason) = state.refusal {
            return Err(reason);
        }
        let ledger = &self.registry.shared.ledger;
        ledger.reserve()?;
        if !state.is_empty() && !ledger.is_closed() && state.account.add() {
            return Ok(false);
        }
        let mut books = self.books();
        books.book_begun(&mut state.account);
        let admitted = books.admit();
        books.make_room(&mut state.account);
        if admitted.is_err() {
            ledger.give_back();
        } else if !state.listed {
            books.list_set(self.number(), Arc::clone(self));
            state.listed = true;
        }
        admitted
    }

    /// Lets the drain begin. Only the first call counts, and none counts for a line whose response is leaving.
    pub(crate) fn launch(self: &Arc<Self>, ending: Option<Ending>) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.ending = ending;
            self.begin(state);
        }
    }

    /// Launches the line for as soon as its response, which was [noted](Self::answered) before, [has
    /// left](Self::left). `false` if it was launched already: by hand, or by a shutdown.
    #[cfg(feature = "http")]
    pub(crate) fn depart(self: &Arc<Self>, ending: Ending) -> bool {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return false;
        }
        state.ending = Some(ending);
        state.phase = Phase::Leaving;
        true
    }

    /// The response has left, or is waited for no longer. Only the first call counts.
    pub(crate) fn left(self: &Arc<Self>) {
        let state = self.state.lock();
        if state.phase == Phase::Leaving {
            self.begin(state);
        }
    }

    /// Drains from here on.
    fn begin(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        state.phase = Phase::Drained;
        let drain = !state.queue.is_empty() && state.wake();
        drop(state);
        if drain {
            self.spawn_drain();
        }
    }

    /// Notes that there is a response, so that a shutdown need not wait for the client to take it.
    #[cfg(feature = "http")]
    pub(crate) fn answered(self: &Arc<Self>, ending: Ending) {
        self.state.lock().answered = Some(ending);
        // A shutdown that looked at this line before has set its phase before: one of the two sees the other.
        if self.registry.shared.is_shutting_down() {
            self.launch_answered();
        }
    }

    /// Launches at once if there is a response, also one that is still leaving.
    pub(crate) fn launch_answered(self: &Arc<Self>) {
        let answered = self.state.lock().answered;
        if answered.is_some() {
            self.launch(answered);
        }
        self.left();
    }

    /// Brings the books up to date.
    pub(crate) fn book(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.account.is_empty() {
            return;
        }
        let mut forgotten = Vec::new();
        self.books().book(&mut state.account, |error| forgotten.push(error));
        drop(state);
        forgotten.into_iter().for_each(drop_catching);
    }

    /// The waiting task has its permit; `false` if it has ended.
    pub(crate) fn start(&self, id: TaskId, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        let Some(live) = state.live(id) else {
            return false;
        };
        if live.start(now) {
            state.account.start();
        } else {
            self.books().retry(live.identity.name);
        }
        true
    }

    /// Looks at a task that has left the queue, under the lock.
    pub(crate) fn with_live<R>(&self, id: TaskId, look: impl FnOnce(&mut LiveTask) -> R) -> Option<R> {
        self.state.lock().live(id).map(look)
    }

    /// A live task, as lists show it.
    pub(crate) fn info(&self, id: TaskId, now: Timestamp) -> Option<TaskInfo> {
        let mut state = self.state.lock();
        if let Some(live) = state.live(id) {
            return Some(live.info(now));
        }
        let queued = state.queue.iter().find(|task| task.meta().id() == id)?;
        Some(LiveTask::new(queued.meta().identity()).info(now))
    }

    /// Calls `task` for each live task, under the lock, and says whether the line has yet to be launched.
    pub(crate) fn survey(&self, mut task: impl FnMut(&LiveTask)) -> bool {
        let state = self.state.lock();
        state.taken().for_each(&mut task);
        for queued in state.queue.iter() {
            task(&LiveTask::new(queued.meta().identity()));
        }
        state.phase == Phase::Open && !state.queue.is_empty()
    }

    /// Whether all that live are so. What is queued waits for the current task, or for nothing but its turn.
    pub(crate) fn all_live(&self, mut is_so: impl FnMut(&LiveTask) -> bool) -> bool {
        let state = self.state.lock();
        let queue_is_so = state.queue.is_empty() || state.current.as_ref().is_some_and(&mut is_so);
        queue_is_so && state.taken().all(is_so)
    }

    /// A way to learn when the line is empty; `None` if it is.
    pub(crate) fn wait_drained(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state.lock();
        if state.is_at_rest() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.retain(|waiting| !waiting.is_closed());
        state.waiting.push(sender);
        Some(receiver)
    }

    /// So many ends have been told; returns those who have waited for the last one.
    pub(crate) fn told(&self, ends: usize) -> Vec<oneshot::Sender<()>> {
        let mut state = self.state.lock();
        state.untold -= ends;
        if state.is_at_rest() { mem::take(&mut state.waiting) } else { Vec::new() }
    }

    /// Counts a task that was refused, but not handed back.
    pub(crate) fn count_refused(&self, outcome: &Outcome) {
        self.state.lock().report.count(outcome);
    }

    /// What the line's tasks have come to so far.
    pub(crate) fn report(&self) -> DrainReport {
        self.state.lock().report
    }
}

impl fmt::Debug for SetQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetQueue").field("number", &self.number.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

impl Drop for SetQueue {
    fn drop(&mut self) {
        // A listed line is held by the ledger, so only a line without tasks gets here.
        debug_assert!(self.state.get_mut().queue.is_empty(), "a line with tasks was dropped");
    }
}
