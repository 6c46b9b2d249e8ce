//! The registry: owns every accepted task until its outcome.

pub(crate) mod batcher;
pub(crate) mod builder;
pub(crate) mod current;
pub(crate) mod dead_letters;
pub(crate) mod handle;
pub(crate) mod repeat;
#[cfg(feature = "signal")]
mod serve;
pub(crate) mod set;
pub(crate) mod shutdown;

use std::{cell::Cell, fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    engine::{queue::SetQueue, run::under_policy, shared::Shared, spawned::Spawned},
    ledger::{
        finished::{EndedBy, Finish},
        live::LiveTask,
        metrics::TaskMetrics,
    },
    model::{Outcome, RejectReason, TaskId, TaskInfo, TaskReport, TaskStatus},
    registry::{builder::TaskRegistryBuilder, handle::TaskHandle, set::TaskSet},
    task::{IntoTask, Rejected, Task, TaskOutput},
    telemetry::subscription::{EventBuffer, TaskEvents},
    util::{clock::Timestamp, loom::atomic::Ordering, panic::drop_catching},
};

/// Owns tasks: those of sets and those spawned on it. Cheap to clone; all clones are one registry.
///
/// Whoever adds a task may forget about it. The registry keeps it alive until it has its outcome, counts
/// that, lists what is live, aborts on demand, and says at the end what was lost. Dropping the registry, even
/// its last clone, stops nothing: only [`shutdown`](Self::shutdown) and the end of the runtime do.
///
/// ```
/// use std::time::Duration;
/// use postlude::{Outcome, Task, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::builder().default_timeout(Duration::from_secs(60)).build().unwrap();
///
/// registry.spawn(async { /* forgotten, and done all the same */ });
/// let outcome = registry.spawn(Task::blocking(|| { /* a file */ }).named("report")).await;
/// assert!(matches!(outcome, Outcome::Completed));
///
/// let report = registry.shutdown(Duration::from_secs(10)).await;
/// assert!(report.is_clean());
/// # }
/// ```
///
/// # Compared with its neighbours
/// `tokio::spawn` keeps a task alive, but nobody knows of it, and the end of the runtime drops it without a
/// word. `tokio_util::task::TaskTracker` waits for tasks, but does not list, count, limit or abort them.
/// `tokio::task::JoinSet` keeps the result of each until it is asked for, and aborts all when dropped.
#[derive(Clone)]
pub struct TaskRegistry {
    pub(crate) shared: Arc<Shared>,
}

impl TaskRegistry {
    /// A registry without limits, on the runtime in which this is called.
    ///
    /// # Panics
    /// Outside a tokio runtime. [`TaskRegistryBuilder::build`] gives an error instead, and
    /// [`TaskRegistryBuilder::handle`] takes a runtime's handle.
    #[must_use]
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "a `default()` that panics outside a runtime would surprise")]
    #[expect(clippy::panic, reason = "documented, with a way around it")]
    pub fn new() -> Self {
        match Self::builder().build() {
            Ok(registry) => registry,
            Err(error) => panic!("{error}"),
        }
    }

    /// A builder, to set limits and hooks.
    pub fn builder() -> TaskRegistryBuilder {
        TaskRegistryBuilder::default()
    }

    /// A new, empty set.
    #[must_use]
    pub fn set(&self) -> TaskSet {
        TaskSet::counted(SetQueue::new(self.clone(), None, 1))
    }

    /// Starts a task now. Never fails, never blocks; the handle is optional.
    ///
    /// A task that can't be accepted, because the registry is shut down or full or its rule says no, ends at once as
    /// [`Outcome::Discarded`]: logged, counted, reported to the failure hook, and the handle says so. To keep
    /// such a task, use [`try_spawn`](Self::try_spawn).
    #[track_caller]
    pub fn spawn(&self, task: impl IntoTask) -> TaskHandle {
        self.launch(task.into_task()).unwrap_or_else(|rejected| {
            let (name, outcome) = (rejected.name(), rejected.outcome());
            let id = self.discard(rejected);
            TaskHandle::ended(id, name, self.clone(), outcome)
        })
    }

    /// Starts a task now, or hands it back. Never blocks.
    ///
    /// # Errors
    /// Gives the task back, with the reason, if the registry is shut down or at its capacity, or if its
    /// [rule](crate::TaskRegistryBuilder::admit) says no. Nothing is counted then.
    #[track_caller]
    pub fn try_spawn(&self, task: impl IntoTask) -> Result<TaskHandle, Rejected> {
        self.launch(task.into_task())
    }

    /// Starts a blocking closure: short for [`spawn`](Self::spawn) with [`Task::blocking`].
    #[track_caller]
    pub fn spawn_blocking<F, T>(&self, closure: F) -> TaskHandle
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        self.spawn(Task::blocking(closure))
    }

    /// What has been counted so far. Takes a short lock per shard, and time in proportion to the live tasks.
    #[must_use]
    pub fn metrics(&self) -> TaskMetrics {
        let shared = &*self.shared;
        let mut metrics = TaskMetrics::default();
        let now = Timestamp::now();
        let oldest = Cell::new(None::<Timestamp>);
        let mut look = |task: &LiveTask| {
            metrics.retrying += u64::from(task.is_resting());
            oldest.set(oldest.get().into_iter().chain(task.pending_since()).min());
        };
        let mut open_sets = 0;
        for set in shared.ledger.survey(&mut look) {
            let so_far = oldest.get();
            if set.survey(&mut look) {
                open_sets += 1;
                // Its tasks wait for their request, which may be a stream without end, and not for a turn.
                oldest.set(so_far);
            }
            set.book();
        }
        shared.ledger.add_up(&mut metrics);
        metrics.open_sets = open_sets;
        metrics.oldest_pending = oldest.get().map(|oldest| now.since(oldest)).unwrap_or_default();
        (metrics.dead_letters, metrics.dead_letters_displaced) = shared.dead_letters.figures();
        metrics.stuck = shared.stuck.len() as u64;
        // Relaxed: statistics.
        metrics.hook_panics = shared.hook_panics.load(Ordering::Relaxed);
        metrics.shed = shared.shed.load(Ordering::Relaxed);
        metrics
    }

    /// What is live: pending and running tasks, the oldest first.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskInfo> {
        let now = Timestamp::now();
        let mut tasks = Vec::new();
        let mut list = |task: &LiveTask| tasks.push(task.info(now));
        for set in self.shared.ledger.survey(&mut list) {
            set.survey(&mut list);
        }
        tasks.sort_by_key(|task| (std::cmp::Reverse(task.age), task.id));
        tasks
    }

    /// Aborts a task, pending or running. Its outcome, [`Outcome::Aborted`], is counted at once and its set
    /// goes on; its future is dropped as soon as it yields, and its [`cancellation()`](crate::cancellation)
    /// token is cancelled.
    ///
    /// `false` if no such task is live.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn abort(&self, id: TaskId) -> bool {
        match id.set() {
            Some(_) => self.shared.ledger.set(id.line).is_some_and(|set| set.abort(id)),
            None => self.shared.end_spawned(id, |_| Outcome::Aborted, EndedBy::Caller),
        }
    }

    /// A token that is cancelled when the registry closes: at the end of a shutdown, or at its deadline.
    ///
    /// It is for work outside the registry that should end with it. Cancelling it cancels nothing else.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.shared.token.child_token()
    }

    /// Waits until no task is live: every task that was added has its outcome. Work that was given up and can't be
    /// stopped may still go on; [`TaskMetrics::stuck`] counts it.
    ///
    /// A set whose request is still being handled counts once it has a task. A task that waits for this waits
    /// for itself.
    ///
    /// # Cancel safety
    /// May be given up at any time.
    pub async fn wait_idle(&self) {
        self.shared.ledger.wait_idle().await;
    }

    #[inline]
    pub(crate) fn launch(&self, task: Task) -> Result<TaskHandle, Rejected> {
        let task = self.prepare(task)?;
        match self.enter(&task) {
            Ok(crowded) => Ok(self.start(task, crowded)),
            Err(reason) => Err(Rejected::new(task, reason)),
        }
    }

    /// Gives a task that is to be spawned its number, and asks the rule of the user's. Never under a lock.
    #[inline]
    pub(crate) fn prepare(&self, mut task: Task) -> Result<Task, Rejected> {
        let id = TaskId { line: self.shared.ledger.next_line(), place: 0 };
        task.accept(id, Timestamp::now(), self.shared.spans);
        match self.shared.consider(task.meta()) {
            Ok(()) => Ok(task),
            Err(refusal) => Err(Rejected::refused(task, refusal)),
        }
    }

    /// Counts and lists a task that is to be spawned, if it is accepted; says whether that made a crowd. From here on
    /// it must be [started](Self::start).
    #[inline]
    pub(crate) fn enter(&self, task: &Task) -> Result<bool, RejectReason> {
        let mut live = LiveTask::new(task.meta().identity());
        if let Some(dead) = task.meta().policy.as_ref().and_then(|policy| policy.replay_of) {
            live.replays(dead);
        }
        self.shared.admit_spawned(live)
    }

    #[inline]
    pub(crate) fn start(&self, task: Task, crowded: bool) -> TaskHandle {
        let shared = &*self.shared;
        let identity = task.meta().identity();
        let work = if shared.runs_plain(task.meta()) { task.work } else { under_policy(task.work, self, None) };
        shared.added(identity);
        let join = shared.spawn(Spawned::new(work, self.clone()));
        if crowded {
            shared.warn_if_crowded(identity.id.line);
        }
        TaskHandle::live(identity.id, identity.name, self.clone(), join)
    }

    /// Counts and reports a task that was not accepted, and drops it.
    pub(crate) fn discard(&self, rejected: Rejected) -> TaskId {
        let outcome = rejected.outcome();
        let (task, refusal) = rejected.into_parts();
        let identity = task.meta().identity();
        drop_catching(task);
        let (mut live, now) = (LiveTask::new(identity), identity.added);
        if let Some(refusal) = refusal {
            live.refuse(refusal);
        }
        let past = live.past(outcome.clone(), now);
        let forgotten = self.shared.ledger.books(identity.id.line).refuse(past);
        drop_catching(forgotten);
        self.shared.added(identity);
        self.shared.tell(Finish { live, outcome, now, side: EndedBy::Caller, quiet: false });
        identity.id
    }
}

impl fmt::Debug for TaskRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskRegistry").field("live", &self.shared.ledger.live()).finish_non_exhaustive()
    }
}

impl TaskRegistry {
    /// Everything that happens to tasks from now on, as a stream.
    ///
    /// ```
    /// use postlude::{Task, TaskEvent, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let mut events = registry.subscribe();
    /// registry.spawn(Task::new(async {}).named("mail"));
    ///
    /// while let Some(event) = events.recv().await {
    ///     println!("{} {:?}", event.label(), event.id());
    ///     if let TaskEvent::Finished(report) = event {
    ///         assert_eq!(report.name, "mail");
    ///         break;
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// A reader delays no task: the latest 4,096 events are kept for those that are behind, and one that is
    /// further behind loses the oldest and gets [`TaskEvent::Missed`] in their place. Nothing is kept, and nothing
    /// is paid but a branch, while there is no reader.
    ///
    /// The stream ends when the registry is gone: after the last clone of it, and its last task. What waits for that
    /// end must not hold a clone.
    #[must_use = "events are kept for it as long as it lives"]
    pub fn subscribe(&self) -> TaskEvents {
        EventBuffer::subscribe(self.shared.telemetry.buffer.get_or_init(Arc::default))
    }
}

impl TaskRegistry {
    /// What is known of one task, live or ended; `None` if there is none of that id, or its outcome is no longer
    /// [remembered](crate::TaskRegistryBuilder::history).
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry, TaskStatus};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let id = registry.spawn(Task::new(async { Err::<(), _>("no such mailbox") }).named("mail")).id();
    /// assert_eq!(registry.get(id).unwrap().label(), "pending");
    ///
    /// registry.wait_idle().await;
    /// let Some(TaskStatus::Ended(report)) = registry.get(id) else { panic!("it has ended") };
    /// assert_eq!(report.outcome.to_string(), "failed: no such mailbox");
    /// # }
    /// ```
    #[must_use]
    pub fn get(&self, id: TaskId) -> Option<TaskStatus> {
        // In this order: a task is struck off the list and remembered under one lock.
        let live = self.shared.live(id).map(TaskStatus::Live);
        live.or_else(|| {
            if let Some(set) = self.shared.ledger.set(id.line) {
                set.book();
            }
            self.shared.ledger.remembered(id).map(|past| TaskStatus::Ended(past.report(Timestamp::now())))
        })
    }

    /// The last outcomes, the latest first: as many as the registry [remembers](crate::TaskRegistryBuilder::history).
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// for name in ["first", "second"] {
    ///     registry.spawn(Task::new(async {}).named(name)).await;
    /// }
    /// let names: Vec<_> = registry.history().iter().map(|report| report.name).collect();
    /// assert_eq!(names, ["second", "first"]);
    /// # }
    /// ```
    #[must_use]
    pub fn history(&self) -> Vec<TaskReport> {
        for set in self.shared.ledger.survey(|_| ()) {
            set.book();
        }
        let now = Timestamp::now();
        let mut all = self.shared.ledger.history();
        all.sort_by_key(|past| std::cmp::Reverse((past.ended, past.identity.id)));
        let forgotten = all.split_off(all.len().min(self.shared.ledger.remembers()));
        forgotten.into_iter().for_each(drop_catching);
        all.into_iter().map(|past| past.report(now)).collect()
    }
}
