//! The state that all clones of a registry share. The only file that spawns tasks on the runtime.

use std::{
    future::Future,
    panic::{RefUnwindSafe, UnwindSafe},
    sync::{Arc, Weak},
    task::Waker,
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "http")]
use crate::engine::hold::HoldLimit;
use crate::{
    engine::{
        abandoned::Abandoned, guards::Guards, name_policies::NamePolicies, requests::Requests, set_queue::SetQueue,
        stuck_watch::StuckWatch, time_limit,
    },
    ledger::{
        Ledger,
        dead_letters::DeadLetterStore,
        finished::{EndedBy, Finish},
        live::LiveTask,
        losses::Losses,
        shard::ShardState,
    },
    limits::{AdmissionControl, NameLimits, PausedNames},
    model::{BoxError, DiscardReason, Outcome, RejectReason, TaskId, TaskInfo, TaskName, TaskState},
    task::work::{BoxedWork, Kind, Meta, Policy},
    telemetry::Telemetry,
    util::{
        clock::Timestamp,
        delay_queue::DelayQueue,
        loom::{MutexGuard, atomic::AtomicU64},
        panic::drop_catching,
    },
};

/// Owns tasks: those of sets, and those spawned on it. Cheap to clone; all clones refer to one registry.
///
/// The registry keeps each task alive until it has its outcome. It counts outcomes, lists and aborts live tasks, and
/// reports lost tasks at shutdown. Dropping the registry, even its last clone, stops no task: only
/// [`shutdown`](Self::shutdown) and the end of the runtime do.
///
/// ```
/// use std::time::Duration;
/// use postlude::{Outcome, Task, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let minute = Duration::from_secs(60);
/// let registry = TaskRegistry::builder().default_timeout(minute).build().unwrap();
///
/// registry.spawn(async { /* the handle is not needed */ });
/// let outcome = registry.spawn(Task::blocking(|| { /* write a file */ }).named("report")).await;
/// assert!(matches!(outcome, Outcome::Completed));
///
/// let report = registry.shutdown(Duration::from_secs(10)).await;
/// assert!(report.is_clean());
/// # }
/// ```
///
/// # Comparison
/// `tokio::spawn` keeps a task alive, but the task can't be listed, and the end of the runtime drops it silently.
/// `tokio_util::task::TaskTracker` waits for tasks, but does not list, count, limit or abort them.
/// `tokio::task::JoinSet` keeps the result of each task until it is joined, and aborts all tasks when dropped.
#[derive(Clone)]
#[doc(alias = "BackgroundTasks")]
#[doc(alias = "background")]
#[doc(alias = "job")]
#[doc(alias = "queue")]
pub struct TaskRegistry {
    pub(crate) shared: Arc<Shared>,
}

/// How long a set waits to drain after its last hold was released.
///
/// The server may still have to write bytes that belong to no chunk: h2 releases a chunk when it copies the last, short
/// piece into its own buffer, just before the write of the same poll; and the end of a stream and an empty body have no
/// chunk. Yielding to the scheduler instead of a timer is too short much more often.
pub(crate) const FLUSH_DELAY: Duration = Duration::from_millis(2);

/// An entry of the registry's timer.
pub(crate) enum Expiry {
    /// The last bytes of a set's response have had the time to be written.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only responses are held"))]
    Hold(Arc<SetQueue>),
    /// A set may have waited long enough for its client.
    #[cfg(feature = "http")]
    HoldLimit(HoldLimit),
    /// The time limit of an attempt is over.
    TimeLimit(TimeLimit),
    /// The time within which a task must start is over.
    StartLimit(StartLimit),
}

/// The time within which a task must start.
pub(crate) struct StartLimit {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: TaskId,
}

/// The time limit of one attempt of a future.
///
/// A future that waits is dropped by the tokio task that runs it. A future that is inside a poll can't be dropped: it
/// is abandoned, and its set goes on. If another attempt may follow, it waits until the poll returns.
pub(crate) struct TimeLimit {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: TaskId,
    pub(crate) attempt: u32,
    pub(crate) duration: Duration,
    pub(crate) retries: bool,
}

/// Whether a task that starts has a permit of its name.
#[derive(Clone, Copy)]
pub(crate) enum OfName {
    /// It has none, because its name had no limits when it was asked for.
    None,
    /// It has one.
    Permit,
    /// It has none, and was given its thread when its name had no limits.
    Thread,
}

/// What has become of a start.
pub(crate) enum Start {
    /// The task has started. Its time limit counts from this time on.
    At(Timestamp),
    /// The task has ended, which an observer of the start may also have done.
    Ended,
    /// The name of the task was given limits.
    MustWait,
}

/// The timer for all waits of a registry.
pub(crate) type Timer = DelayQueue<Expiry>;

pub(crate) struct Shared {
    pub(crate) handle: Handle,
    /// Spawns the drain of a set.
    pub(crate) spawn_drain: fn(&Arc<SetQueue>),
    pub(crate) timer: Arc<Timer>,
    pub(crate) ledger: Ledger<SetQueue>,
    pub(crate) admission: AdmissionControl,
    pub(crate) abandoned: Abandoned,
    pub(crate) stuck_watch: StuckWatch,
    pub(crate) requests: Requests,
    pub(crate) guards: Guards,
    pub(crate) default_timeout: Option<Duration>,
    pub(crate) name_policies: NamePolicies,
    pub(crate) settle_time: Duration,
    pub(crate) telemetry: Telemetry,
    pub(crate) dead_letters: DeadLetterStore,
    pub(crate) losses: Losses,
    /// The number of requests that were shed.
    pub(crate) shed: AtomicU64,
    /// The parent of every task's token.
    pub(crate) token: CancellationToken,
}

// No foreign code runs under a lock, so a panic of it leaves nothing half done.
impl UnwindSafe for Shared {}
impl RefUnwindSafe for Shared {}

impl PausedNames {
    /// Whether a task waits until its name is resumed.
    pub(crate) fn has(&self, task: &LiveTask) -> bool {
        self.stop(task.identity.name, task.state())
    }
}

impl Shared {
    /// Starts the timer, whose driver is also the first to learn of the end of the runtime.
    #[cfg(not(all(test, postlude_loom)))]
    pub(crate) fn watch_runtime(self: &Arc<Self>) {
        let shared = Arc::downgrade(self);
        self.timer.start(move || {
            if let Some(shared) = shared.upgrade() {
                shared.runtime_ended();
            }
        });
    }

    /// The runtime has ended: from here on, nothing is accepted. The runtime drops what it runs, and a set that is
    /// still open is discarded when it would drain. Called by whatever the runtime drops first, before that frees
    /// anything.
    pub(crate) fn runtime_ended(&self) {
        if self.ledger.has_runtime_ended() {
            return;
        }
        self.ledger.close_with_runtime();
        let live = self.ledger.live();
        if live > 0 {
            self.telemetry.log(|| {
                tracing::error!(
                    target: "postlude", live,
                    "the tokio runtime of a registry has ended before its tasks: those that run are aborted, and the \
                     others discarded; await `shutdown` before the runtime ends"
                );
            });
        }
        self.telemetry.run_foreign("a waker", || self.token.cancel());
    }

    /// Waits without keeping the registry, and returns it then: `None` if it is gone, or its runtime has ended.
    pub(crate) async fn after(shared: &Weak<Self>, wait: Duration) -> Option<Arc<Self>> {
        let sleep = shared.upgrade()?.timer.sleep(wait);
        sleep.await;
        // Without a runtime, every wait for a time is over at once.
        shared.upgrade().filter(|shared| !shared.ledger.has_runtime_ended())
    }

    /// The time limit of each attempt of a task.
    #[inline]
    pub(crate) fn time_limit(&self, policy: Option<&Policy>) -> Option<Duration> {
        policy.and_then(Policy::time_limit).or(self.default_timeout)
    }

    /// Gives a name limits, if it has none. The tasks of the name that are running are counted first, so this takes
    /// time in proportion to the live tasks, and locks for a few of them at a time.
    pub(crate) fn limits_of(&self, name: TaskName, change: impl FnOnce(&NameLimits)) {
        let (limits, is_new) = self.admission.limits_of(name);
        // From here on, no task of the name starts without a permit.
        change(limits);
        if !is_new {
            return;
        }
        let is_running = |task: &LiveTask| task.identity.name == name && task.state() == TaskState::Running;
        let mut running = Vec::new();
        let mut list = |task: &LiveTask| running.extend(is_running(task).then_some(task.identity.id));
        for set in self.ledger.survey(&mut list) {
            set.survey(&mut list);
        }
        for id in running {
            self.with_live(id, |live| {
                if is_running(live) {
                    live.adopt(&limits.permits);
                }
            });
        }
        limits.permits.counted();
    }

    /// Whether a task can be polled directly and without a permit: it is async, waits for nothing, and has no policy
    /// other than a time limit.
    #[inline]
    pub(crate) fn runs_plain(&self, meta: &Meta) -> bool {
        self.has_only_limits(meta) && self.admission.is_unlimited(meta)
    }

    /// Whether a task needs permits of its name and its kind, and a time limit, at most.
    #[inline]
    fn has_only_limits(&self, meta: &Meta) -> bool {
        meta.policy.as_ref().is_none_or(|policy| {
            policy.has_only_limits() && (policy.keyed.is_none() || !self.admission.limits_key(meta))
        })
    }

    /// Whether a task can be polled directly, and nothing has to be done before: it has no time limit, no observer is
    /// notified of its start, and it is not profiled.
    #[inline(always)]
    pub(crate) fn runs_at_once(&self, meta: &Meta) -> bool {
        meta.policy.is_none()
            && self.default_timeout.is_none()
            && self.admission.is_unlimited(meta)
            && !self.telemetry.has_observers()
            && self.telemetry.profiler.is_none()
    }

    /// Like [`runs_plain`](Self::runs_plain) for a task that may need permits: if they are free, it is given them.
    #[inline]
    pub(crate) fn runs_with_permits(&self, work: &mut BoxedWork) -> bool {
        let meta = work.as_mut().meta_mut();
        if meta.kind != Kind::Async || !self.has_only_limits(meta) {
            return false;
        }
        let permits = self.admission.try_admit(meta);
        permits.map(|permits| meta.permits = permits).is_some()
    }

    /// Starts the time limit, if there is one, of a task that is polled directly and that started at `started`.
    #[inline]
    pub(crate) fn start_time_limit(self: &Arc<Self>, work: &mut BoxedWork, started: Timestamp) {
        let meta = work.as_mut().meta_mut();
        meta.end_start_limit();
        if let Some(limit) = self.time_limit(meta.policy.as_deref()) {
            let entry = time_limit::start(self, meta.id(), 1, limit, false, started);
            *meta.time_limit = entry.map(Box::new);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the only place that spawns")]
    #[track_caller]
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(future)
    }

    #[expect(clippy::disallowed_methods, reason = "the only place that spawns")]
    pub(crate) fn spawn_blocking<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn_blocking(call)
    }

    /// Gives a task the policy of its name, asks the admission filter about it, and makes its wrappers. Never call this under a lock.
    ///
    /// # Errors
    /// If the filter refuses it.
    #[inline]
    pub(crate) fn consider(&self, meta: &mut Meta) -> Result<(), BoxError> {
        self.admission.note_priority(meta);
        self.name_policies.apply(meta);
        if self.telemetry.considers_tasks() { self.show(meta) } else { Ok(()) }
    }

    fn show(&self, meta: &mut Meta) -> Result<(), BoxError> {
        let identity = meta.identity();
        let task = self.admission.marked(LiveTask::new(identity).info(identity.added));
        self.telemetry.ask_filter(&task)?;
        if let Some(wrappers) = self.telemetry.wrappers(&task) {
            meta.set_wrappers(wrappers);
        }
        Ok(())
    }

    /// Counts and lists a spawned task. Returns whether a high-water mark was reached.
    #[inline]
    pub(crate) fn admit_spawned(&self, task: LiveTask) -> Result<bool, RejectReason> {
        self.ledger.reserve()?;
        let mut shard = self.ledger.shard(task.identity.id.number);
        let admitted = shard.admit(task.identity.name);
        if admitted.is_ok() {
            shard.insert_spawned(task);
        } else {
            self.ledger.release();
        }
        admitted
    }

    /// Accesses a spawned task, or a task that has left `pending` of its set, under its lock. `None` if it has ended.
    pub(crate) fn with_live<R>(&self, id: TaskId, access: impl FnOnce(&mut LiveTask) -> R) -> Option<R> {
        if id.set().is_some() {
            return self.ledger.set(id.number)?.with_live(id, access);
        }
        self.ledger.shard(id.number).spawned.get_mut(id.number).map(access)
    }

    /// Starts an attempt of a task that has what its limits require, as far as it is known.
    #[inline]
    pub(crate) fn start(&self, id: TaskId, permit: OfName) -> Start {
        let now = Timestamp::now();
        // Under the lock, so that either the task waits for the limits of its name, or they count it.
        let of_name = |live: &LiveTask| self.admission.of_name(live.identity.name);
        let may_start = |live: &mut LiveTask| match permit {
            OfName::Permit => true,
            OfName::None => of_name(live).is_none(),
            OfName::Thread => {
                if let Some(limits) = of_name(live) {
                    live.adopt(&limits.permits);
                }
                true
            }
        };
        let started = match id.set() {
            Some(_) => self.ledger.set(id.number).and_then(|set| set.start(id, now, may_start)),
            None => self.ledger.shard(id.number).start_spawned(id.number, now, may_start),
        };
        match started {
            None => Start::Ended,
            Some(false) => Start::MustWait,
            Some(true) => self.notify_started(id, now).map_or(Start::Ended, Start::At),
        }
    }

    /// The info of a live task.
    pub(crate) fn info(&self, id: TaskId) -> Option<TaskInfo> {
        let now = Timestamp::now();
        let info = match id.set() {
            Some(_) => self.ledger.set(id.number)?.info(id, now),
            None => self.with_live(id, |live| live.info(now)),
        };
        info.map(|info| self.admission.marked(info))
    }

    /// Ends a spawned task; `false` if it had already ended.
    pub(crate) fn end_spawned(
        self: &Arc<Self>,
        id: TaskId,
        outcome: impl FnOnce(&LiveTask) -> Outcome,
        by: EndedBy,
    ) -> bool {
        let now = Timestamp::now();
        let observed = self.telemetry.observes_completed();
        let shard = self.ledger.shard(id.number);
        self.end_spawned_in(shard, id, now, observed, outcome, by)
    }

    /// The same in its shard, which is locked.
    #[inline]
    fn end_spawned_in(
        self: &Arc<Self>,
        mut shard: MutexGuard<'_, ShardState<SetQueue>>,
        id: TaskId,
        now: Timestamp,
        observed: bool,
        outcome: impl FnOnce(&LiveTask) -> Outcome,
        by: EndedBy,
    ) -> bool {
        let Some(task) = shard.spawned.remove(id.number) else {
            // Unlock before `outcome` is dropped, because it may hold a user error.
            drop(shard);
            return false;
        };
        let outcome = outcome(&task);
        let is_unobserved = outcome.is_completed() && !observed;
        if let Some(completed) = task.completed(now).filter(|_| is_unobserved) {
            let evicted = shard.complete(&completed);
            let idle = shard.is_idle();
            drop(shard);
            if evicted.is_some() {
                drop_catching(evicted);
            }
            self.finish_unobserved(idle);
            return true;
        }
        let evicted = shard.finish(&task, &outcome, now);
        if by == EndedBy::Caller {
            // Under the lock, so that the runner finds the entry afterwards.
            self.abandoned.insert_stopped(&task, &outcome, now, false);
        }
        drop(shard);
        drop_catching(evicted);
        let mut finish = Finish { task, outcome, now, by };
        self.signal_stop(&mut finish);
        self.finish(finish);
        true
    }

    /// Ends a dequeued or spawned task, on behalf of a caller. `false` if it has ended, or is still pending in a set.
    pub(crate) fn stop(self: &Arc<Self>, id: TaskId, outcome: impl FnOnce(&LiveTask) -> Outcome, by: EndedBy) -> bool {
        match id.set() {
            Some(_) => self.ledger.set(id.number).is_some_and(|set| set.transition(|step| step.stop(id, outcome))),
            None => self.end_spawned(id, outcome, by),
        }
    }

    /// Aborts a task in any state; `false` if it has ended.
    pub(crate) fn abort(self: &Arc<Self>, id: TaskId) -> bool {
        match id.set() {
            Some(_) => {
                self.ledger.set(id.number).is_some_and(|set| set.transition(|step| step.end_any(id, Outcome::Aborted)))
            }
            None => self.end_spawned(id, |_| Outcome::Aborted, EndedBy::Caller),
        }
    }

    /// Discards a task that has not started: as a duplicate of the other task, if one is given.
    pub(crate) fn discard_unstarted(self: &Arc<Self>, id: TaskId, reason: DiscardReason, of: Option<TaskId>) {
        if id.set().is_some() {
            if let Some(set) = self.ledger.set(id.number) {
                set.transition(|step| step.discard_unstarted(id, reason, of));
            }
            return;
        }
        let now = Timestamp::now();
        let mut shard = self.ledger.shard(id.number);
        if let Some(task) = shard.spawned.get_mut(id.number).filter(|task| !task.has_started()) {
            of.into_iter().for_each(|of| task.note_duplicate(of));
            self.end_spawned_in(shard, id, now, true, |_| Outcome::Discarded(reason), EndedBy::Caller);
        }
    }

    /// Ends a task that has not started, because it has expired.
    pub(crate) fn expire(self: &Arc<Self>, id: TaskId) {
        self.discard_unstarted(id, DiscardReason::Expired, None);
    }

    /// The outcome of a spawned task that was ended by a caller while its tokio task still runs. If the task has no
    /// outcome yet, `waker` is woken when it has.
    pub(crate) fn outcome_by_caller(&self, id: TaskId, waker: &Waker) -> Option<Outcome> {
        let waker = waker.clone();
        let mut shard = self.ledger.shard(id.number);
        let Some(task) = shard.spawned.get_mut(id.number) else {
            drop(shard);
            return self.abandoned.outcome(id);
        };
        let replaced = task.set_waker(waker);
        drop(shard);
        drop_catching(replaced);
        None
    }

    /// The outcome of a spawned task whose runtime has ended.
    pub(crate) fn outcome_of_lost(&self, id: TaskId) -> Outcome {
        let known = self.abandoned.outcome(id);
        known.or_else(|| Some(self.ledger.finished(id)?.outcome().clone())).unwrap_or(Outcome::Aborted)
    }

    /// The cancellation token of a running task.
    pub(crate) fn token_of(&self, id: TaskId) -> CancellationToken {
        // Made before and dropped after the lock, because its parent has a lock of its own.
        let fresh = self.token.child_token();
        self.with_live(id, |live| live.token(&fresh)).unwrap_or_else(|| {
            // The task has its outcome, while its work still runs.
            fresh.cancel();
            fresh
        })
    }

    /// Notes that the first attempt of a task is due after `delay`, or earlier if it may start early. `false` if the
    /// task has ended.
    pub(crate) fn delay(&self, id: TaskId, delay: Duration, may_start_early: bool) -> bool {
        let due = Timestamp::now().plus(delay);
        let found = self.with_live(id, |live| live.delay_until(due, may_start_early)).is_some();
        self.detach_sleeping(id);
        found
    }

    /// Notes that the first attempt of a task is due now.
    pub(crate) fn start_early(&self, id: TaskId) {
        let now = Timestamp::now();
        self.with_live(id, |live| live.delay_until(now, false));
    }

    /// Notes that the next attempt of a task is probably due after `wait`.
    pub(crate) fn note_due(&self, id: TaskId, wait: Duration) {
        let due = Timestamp::now().plus(wait);
        self.with_live(id, |live| live.wait_until(due));
    }

    /// Moves a task that waits for a time to the sleeping tasks of its set, so that the next task runs.
    pub(crate) fn detach_sleeping(&self, id: TaskId) {
        if let (Some(_), Some(set)) = (id.set(), self.ledger.set(id.number)) {
            set.transition(|step| step.detach_sleeping(id));
        }
    }

    /// Called when the time limit of an attempt is over and another attempt may follow: wakes the tokio task that runs
    /// it. If the attempt is inside a poll, its set goes on without it.
    pub(crate) fn wake_or_detach(&self, id: TaskId) {
        if let (Some(_), Some(set)) = (id.set(), self.ledger.set(id.number)) {
            if set.mark.is_polling(id.index) {
                set.transition(|step| step.detach_sleeping(id));
            }
        }
        if let Some(runner) = self.with_live(id, |live| live.runner()).flatten() {
            runner.wake();
        }
    }
}
