//! The registry: what users hold of it.

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

use std::{cell::Cell, cmp::Reverse, fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

use self::{builder::TaskRegistryBuilder, handle::TaskHandle, set::TaskSet};
use crate::{
    engine::{queue::SetQueue, run::under_policy, spawned::Spawned},
    ledger::{live::LiveTask, metrics::TaskMetrics},
    model::{Page, RejectReason, SetId, TaskId, TaskInfo, TaskReport, TaskState, TaskStatus},
    task::{IntoTask, Rejected, Task, TaskOutput},
    telemetry::{
        log,
        subscription::{EventBuffer, TaskEvents},
    },
    util::{clock::Timestamp, loom::atomic::Ordering, panic::drop_catching},
};

pub use crate::engine::shared::TaskRegistry;

/// How many sets and spawned tasks are looked at for one page.
const ENTRIES_PER_PAGE: usize = 10_000;

impl TaskRegistry {
    /// A registry without limits, on the runtime in which this is called.
    ///
    /// # Panics
    /// Outside a tokio runtime, and in one without a timer. [`TaskRegistryBuilder::build`] gives an error instead, and
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

    /// Starts a task now. Never fails, never blocks; the handle is optional.
    ///
    /// A task that can't be accepted, because the registry is shut down or full or its admission filter refuses it, ends
    /// at once as [`Outcome::Discarded`]: logged, counted, reported to the failure hook, and the handle says so. To keep
    /// such a task, use [`try_spawn`](Self::try_spawn).
    #[doc(alias = "fire and forget")]
    #[track_caller]
    pub fn spawn(&self, task: impl IntoTask) -> TaskHandle {
        self.spawn_task(task.into_task()).unwrap_or_else(|rejected| {
            let (name, outcome) = (rejected.name(), rejected.outcome());
            let id = self.shared.discard(rejected);
            TaskHandle::ended(id, name, self.clone(), outcome)
        })
    }

    /// Starts a task now, or hands it back. Never blocks.
    ///
    /// # Errors
    /// Gives the task back, with the reason, if the registry is shut down or at its capacity, or if its
    /// [admission filter](TaskRegistryBuilder::admit) refuses it. Nothing is counted then.
    #[track_caller]
    pub fn try_spawn(&self, task: impl IntoTask) -> Result<TaskHandle, Rejected> {
        self.spawn_task(task.into_task())
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

    /// A new, empty set.
    #[must_use]
    pub fn set(&self) -> TaskSet {
        TaskSet::counted(SetQueue::new(self.clone(), None, 1))
    }

    /// What has been counted so far. Takes a short lock per shard, and time in proportion to the live tasks.
    #[must_use]
    pub fn metrics(&self) -> TaskMetrics {
        let shared = &*self.shared;
        let mut metrics = TaskMetrics::default();
        let now = Timestamp::now();
        let oldest = Cell::new(None::<Timestamp>);
        let mut look = |task: &LiveTask| {
            metrics.retrying += u64::from(task.state() == TaskState::Retrying);
            oldest.set(oldest.get().into_iter().chain(task.pending_since()).min());
        };
        let mut open_sets = 0;
        for set in shared.ledger.survey(&mut look) {
            let so_far = oldest.get();
            if set.survey(&mut look) {
                open_sets += 1;
                // Its tasks wait for their request, which may be a stream without end.
                oldest.set(so_far);
            }
            set.flush();
        }
        shared.ledger.sum(&mut metrics);
        metrics.open_sets = open_sets;
        metrics.oldest_pending = oldest.get().map(|oldest| now.since(oldest)).unwrap_or_default();
        (metrics.dead_letters, metrics.dead_letters_evicted) = shared.dead_letters.counts();
        metrics.stuck = shared.abandoned.len() as u64;
        metrics.hook_panics = shared.telemetry.hook_panics();
        metrics.log_suppressed = log::suppressed();
        // Relaxed: a statistic.
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
        tasks.sort_by_key(|task| (Reverse(task.age), task.id));
        tasks
    }

    /// A page of the live tasks that `filter` accepts, in the order of their ids: at most `limit` of them, with ids after
    /// `after`. A limit of 0 counts as 1.
    ///
    /// Unlike [`tasks`](Self::tasks), a page looks at 10,000 sets and spawned tasks at most, so it may be short, or empty,
    /// although there is a [next](Page::next) one. Tasks that are added or end between two pages make the pages neither
    /// repeat nor skip other tasks. The filter runs without a lock.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry, TaskState};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let tasks = registry.set();
    /// let [first, second] = ["welcome", "invoice"].map(|name| tasks.add(Task::new(async {}).named(name)));
    ///
    /// let page = registry.live_page(None, 1, |task| task.state == TaskState::Pending);
    /// assert_eq!((page.items[0].id, page.next), (first, Some(first)));
    /// let page = registry.live_page(page.next, 1, |task| task.state == TaskState::Pending);
    /// assert_eq!((page.items[0].id, page.next), (second, None));
    /// # }
    /// ```
    #[must_use]
    pub fn live_page(
        &self,
        after: Option<TaskId>,
        limit: usize,
        mut filter: impl FnMut(&TaskInfo) -> bool,
    ) -> Page<TaskInfo> {
        let mut page = Page::new();
        let now = Timestamp::now();
        let numbers = self.shared.ledger.numbers_from(after.map_or(0, |id| id.number), ENTRIES_PER_PAGE);
        for number in &numbers {
            let mut tasks = self.live_in(*number, now);
            tasks.sort_unstable_by_key(|task| task.id);
            for task in tasks {
                let is_wanted = after.is_none_or(|after| task.id > after) && filter(&task);
                if is_wanted && !page.push(task, limit, |last| last.id) {
                    return page;
                }
            }
        }
        if numbers.len() == ENTRIES_PER_PAGE {
            // There may be more: the next page starts after all tasks of the last one.
            page.next = numbers.last().map(|number| TaskId { number: *number, index: u64::MAX });
        }
        page
    }

    /// The live tasks of one set, or a spawned task.
    fn live_in(&self, number: u64, now: Timestamp) -> Vec<TaskInfo> {
        let mut tasks = Vec::new();
        if let Some(set) = self.shared.ledger.set(number) {
            set.survey(|live| tasks.push(live.info(now)));
        } else {
            tasks.extend(self.shared.ledger.shard(number).spawned(number).map(|live| live.info(now)));
        }
        tasks
    }

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
        // In this order: a task is removed from the ledger and remembered under one lock.
        let live = self.shared.info(id).map(TaskStatus::Live);
        live.or_else(|| {
            if let Some(set) = self.shared.ledger.set(id.number) {
                set.flush();
            }
            self.shared.ledger.finished(id).map(|finished| TaskStatus::Ended(finished.report(Timestamp::now())))
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
            set.flush();
        }
        let now = Timestamp::now();
        let mut all = self.shared.ledger.history();
        all.sort_by_key(|finished| Reverse((finished.ended, finished.identity.id)));
        let surplus = all.split_off(all.len().min(self.shared.ledger.history_capacity()));
        surplus.into_iter().for_each(drop_catching);
        all.into_iter().map(|finished| finished.report(now)).collect()
    }

    /// A page of the remembered outcomes that `filter` accepts, the latest first: at most `limit` of them, that come
    /// after the outcome of the task `after` in this order. A limit of 0 counts as 1.
    ///
    /// If the outcome of `after` is no longer [remembered](crate::TaskRegistryBuilder::history), the page is empty, because
    /// all that would come after it is older and no longer remembered either. The filter runs without a lock.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// registry.spawn(Task::new(async { Err::<(), _>("no such mailbox") }).named("mail")).await;
    /// registry.spawn(Task::new(async {}).named("mail")).await;
    ///
    /// let page = registry.history_page(None, 10, |report| !report.outcome.is_completed());
    /// assert_eq!(page.items[0].outcome.to_string(), "failed: no such mailbox");
    /// assert_eq!((page.items.len(), page.next), (1, None));
    /// # }
    /// ```
    #[must_use]
    pub fn history_page(
        &self,
        after: Option<TaskId>,
        limit: usize,
        mut filter: impl FnMut(&TaskReport) -> bool,
    ) -> Page<TaskReport> {
        let mut page = Page::new();
        let mut history = self.history().into_iter();
        if let Some(after) = after {
            history.by_ref().find(|report| report.id == after);
        }
        for report in history {
            if filter(&report) && !page.push(report, limit, |last| last.id) {
                break;
            }
        }
        page
    }

    /// Aborts a task, pending or running. Its outcome, [`Outcome::Aborted`], is counted at once, and its
    /// [`cancellation()`](crate::cancellation) token is cancelled. Its future is dropped before the next task of its set
    /// starts; a future that is inside a poll, or a closure that has its thread, goes on by itself.
    ///
    /// `false` if no such task is live.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn abort(&self, id: TaskId) -> bool {
        self.shared.abort(id)
    }

    /// [Aborts](Self::abort) all live tasks of a set, and returns how many there were.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn abort_set(&self, set: SetId) -> usize {
        self.shared.ledger.set(set.0).map_or(0, |set| set.transition(|step| step.abort_all(|_| true)))
    }

    /// [Aborts](Self::abort) all live tasks of a name, and returns how many there were. Tasks that are added meanwhile may
    /// be left.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// for _ in 0..3 {
    ///     registry.spawn(Task::new(std::future::pending::<()>()).named("import"));
    /// }
    /// assert_eq!(registry.abort_named("import"), 3);
    /// # }
    /// ```
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn abort_named(&self, name: &str) -> usize {
        let is_named = |task: &LiveTask| task.identity.name == *name;
        let mut spawned = Vec::new();
        let sets = self.shared.ledger.survey(|task| {
            if is_named(task) {
                spawned.push(task.identity.id);
            }
        });
        let aborted = spawned.into_iter().filter(|id| self.shared.abort(*id)).count();
        aborted + sets.iter().map(|set| set.transition(|step| step.abort_all(is_named))).sum::<usize>()
    }

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
        EventBuffer::subscribe(self.shared.telemetry.buffer())
    }

    /// Whether a [`shutdown`](Self::shutdown) has begun. From then on the tasks that are live come to their end, and
    /// the registry closes when the last one has ended, or at the deadline.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// assert!(!registry.is_shutting_down());
    /// registry.shutdown(Duration::ZERO).await;
    /// assert!(registry.is_shutting_down()); // and it stays so
    /// # }
    /// ```
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shared.losses.has_begun()
    }

    /// Whether as many tasks are live as the registry's [capacity](TaskRegistryBuilder::capacity) allows: a task that is
    /// added now is discarded, or handed back by `try_add` and `try_spawn`. Always `false` without a capacity.
    ///
    /// ```
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::builder().capacity(1).build().unwrap();
    /// let tasks = registry.set();
    /// assert!(!registry.is_full());
    /// tasks.add(async {});
    /// assert!(registry.is_full());
    /// # }
    /// ```
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.ledger.is_full()
    }

    /// A token that is cancelled when the registry closes: at the end of a shutdown, or at its deadline.
    ///
    /// It is for work outside the registry that should end with it. Cancelling it cancels nothing else.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.shared.token.child_token()
    }

    /// Waits until no task is live: every task that was added has its outcome. Work that was abandoned because it can't be
    /// stopped may still go on; [`TaskMetrics::stuck`] counts it.
    ///
    /// A set whose request is in progress counts once it has a task. A task that waits for this waits for itself.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn wait_idle(&self) {
        self.shared.ledger.wait_idle().await;
    }

    #[inline]
    #[track_caller]
    pub(crate) fn spawn_task(&self, task: Task) -> Result<TaskHandle, Rejected> {
        let task = self.prepare(task)?;
        match self.admit(&task) {
            Ok(passed_mark) => Ok(self.start(task, passed_mark)),
            Err(reason) => Err(Rejected::new(task, reason)),
        }
    }

    /// Gives a task that is to be spawned its number, and asks the admission filter. Never under a lock.
    #[inline]
    pub(crate) fn prepare(&self, mut task: Task) -> Result<Task, Rejected> {
        let id = TaskId { number: self.shared.ledger.next_number(), index: 0 };
        task.meta_mut().accept(id, Timestamp::now(), &self.shared.telemetry);
        match self.shared.consider(task.meta()) {
            Ok(()) => Ok(task),
            Err(refusal) => Err(Rejected::refused(task, refusal)),
        }
    }

    /// Counts and lists a task that is to be spawned, if it is accepted; says whether a high-water mark was reached. From
    /// here on it must be [started](Self::start).
    #[inline]
    pub(crate) fn admit(&self, task: &Task) -> Result<bool, RejectReason> {
        let mut live = LiveTask::new(task.meta().identity());
        if let Some(dead) = task.meta().policy.as_ref().and_then(|policy| policy.replay_of) {
            live.replays(dead);
        }
        self.shared.admit_spawned(live)
    }

    #[inline]
    #[track_caller]
    pub(crate) fn start(&self, task: Task, passed_mark: bool) -> TaskHandle {
        let shared = &self.shared;
        let identity = task.meta().identity();
        let work = if shared.runs_plain(task.meta()) { task.work } else { under_policy(task.work, shared, None) };
        shared.added(identity);
        let join = shared.spawn(Spawned::new(work, Arc::clone(shared)));
        if passed_mark {
            shared.warn_of_high_water(identity.id.number);
        }
        TaskHandle::live(identity.id, identity.name, self.clone(), join)
    }
}

impl fmt::Debug for TaskRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskRegistry").field("live", &self.shared.ledger.live()).finish_non_exhaustive()
    }
}
