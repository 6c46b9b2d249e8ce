//! The methods of `TaskRegistry`: spawn, look up, list, abort.

use std::{cmp::Reverse, fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    engine::{
        guards::ShutdownGuard, keys, run::under_policy, set_queue::SetQueue, shared::TaskRegistry, spawned::Spawned,
        start_limit,
    },
    ledger::live::LiveTask,
    model::{Outcome, Page, RejectReason, SetId, TaskId, TaskInfo, TaskName, TaskReport, TaskStatus, next_number},
    registry::{builder::TaskRegistryBuilder, handle::TaskHandle, set::TaskSet},
    task::{IntoTask, Rejected, Task, TaskOutput},
    telemetry::subscription::{EventBuffer, TaskEvents},
    util::{clock::Timestamp, panic::drop_catching},
};

/// How many live tasks are looked at for one page, except that a piece is not broken off.
const TASKS_PER_PAGE: usize = 10_000;

impl TaskRegistry {
    /// Creates a registry with default settings, on the current tokio runtime.
    ///
    /// # Panics
    /// Panics outside a tokio runtime, and in a runtime without a timer. [`TaskRegistryBuilder::build`] returns an
    /// error instead, and [`TaskRegistryBuilder::handle`] takes a runtime's handle.
    #[must_use]
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "a `default()` that panics outside a runtime would surprise")]
    #[expect(clippy::panic, reason = "documented, with an alternative")]
    pub fn new() -> Self {
        match Self::builder().build() {
            Ok(registry) => registry,
            Err(error) => panic!("{error}"),
        }
    }

    /// Creates a builder, which sets limits and hooks.
    pub fn builder() -> TaskRegistryBuilder {
        TaskRegistryBuilder::default()
    }

    /// Starts a task now. This never fails and never blocks. The handle is optional.
    ///
    /// If the task can't be accepted, because the registry is shut down or full or its admission filter refuses it, the
    /// task ends at once as [`Outcome::Discarded`](crate::Outcome::Discarded), which is logged, counted and reported to
    /// the failure hook. To keep such a task, use [`try_spawn`](Self::try_spawn).
    #[doc(alias = "background")]
    #[doc(alias = "fire and forget")]
    #[doc(alias = "waitUntil")]
    #[track_caller]
    pub fn spawn(&self, task: impl IntoTask) -> TaskHandle {
        self.spawn_task(task.into_task()).unwrap_or_else(|rejected| {
            let (name, outcome) = (rejected.name(), rejected.outcome());
            let id = self.shared.discard(rejected);
            TaskHandle::ended(id, name, self.clone(), outcome)
        })
    }

    /// Starts a task now, or hands it back. This never blocks.
    ///
    /// # Errors
    /// Returns the task and the reason if the registry is shut down or at its capacity, or if its
    /// [admission filter](TaskRegistryBuilder::admit) refuses the task. A task that is handed back is not counted.
    #[track_caller]
    pub fn try_spawn(&self, task: impl IntoTask) -> Result<TaskHandle, Rejected> {
        self.spawn_task(task.into_task())
    }

    /// Starts a blocking closure: a shorthand for [`spawn`](Self::spawn) with [`Task::blocking`].
    #[track_caller]
    pub fn spawn_blocking<F, T>(&self, closure: F) -> TaskHandle
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        self.spawn(Task::blocking(closure))
    }

    /// Creates an empty set.
    #[must_use]
    pub fn set(&self) -> TaskSet {
        TaskSet::counted(SetQueue::new(self.clone()))
    }

    /// The live tasks, pending and running, the oldest first.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskInfo> {
        let (now, paused) = (Timestamp::now(), self.shared.admission.paused_names());
        let mut tasks = Vec::new();
        let mut list = |task: &LiveTask| tasks.push(paused.marked(task.info(now)));
        for set in self.shared.ledger.survey(&mut list) {
            set.survey(&mut list);
        }
        tasks.sort_by_key(|task| (Reverse(task.age), task.id));
        tasks
    }

    /// A page of the live tasks that `filter` accepts, in the order of their ids: at most `limit` tasks, with ids after
    /// `after`. A limit of 0 counts as 1.
    ///
    /// Unlike [`tasks`](Self::tasks), a page looks at some 10,000 tasks at most, however many a set has, so it may be
    /// short, or empty, although there is a [next](Page::next) one. Tasks that are added or end between two pages make
    /// the pages neither repeat nor skip other tasks. The filter runs without a lock.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry, TaskState};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let tasks = registry.set();
    /// let first = tasks.add(Task::new(async {}).named("welcome"));
    /// let second = tasks.add(Task::new(async {}).named("invoice"));
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
        let (now, paused) = (Timestamp::now(), self.shared.admission.paused_names());
        let mut looked_at = 0;
        // All tasks up to here were looked at.
        let mut last = after;
        // Two more: that of `after`, which may have been looked at, and one by which it is known whether there is a
        // next page.
        for number in self.shared.ledger.numbers_from(after.map_or(0, |id| id.number), TASKS_PER_PAGE + 2) {
            let mut from = match after {
                Some(after) if after.number == number => after.index.checked_add(1),
                _ => Some(0),
            };
            while let Some(index) = from {
                if looked_at >= TASKS_PER_PAGE {
                    page.next = last;
                    return page;
                }
                let (tasks, next) = self.live_piece(number, index, now);
                looked_at += tasks.len().max(1);
                for task in tasks.into_iter().map(|task| paused.marked(task)) {
                    if filter(&task) && !page.push(task, limit, |last| last.id) {
                        return page;
                    }
                }
                last = Some(TaskId { number, index: next.map_or(u64::MAX, |next| next - 1) });
                from = next;
            }
        }
        page
    }

    /// Some of the live tasks of a set, from an index on, and the index to go on from; or a spawned task, whose index
    /// is 0.
    fn live_piece(&self, number: u64, from: u64, now: Timestamp) -> (Vec<TaskInfo>, Option<u64>) {
        let mut tasks = Vec::new();
        if let Some(set) = self.shared.ledger.set(number) {
            let next = set.chunk(from, |live| tasks.push(live.info(now)));
            return (tasks, next);
        }
        if from == 0 {
            tasks.extend(self.shared.ledger.shard(number).spawned.get(number).map(|live| live.info(now)));
        }
        (tasks, None)
    }

    /// The status of one task, live or ended; `None` if there is no task with this id, or its outcome is no longer
    /// [remembered](crate::TaskRegistryBuilder::history).
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry, TaskStatus};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let mail = Task::new(async { Err::<(), _>("no such mailbox") });
    /// let id = registry.spawn(mail.named("mail")).id();
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

    /// The reports of the last outcomes that the registry [remembers](crate::TaskRegistryBuilder::history), the latest
    /// first.
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

    /// A page of the remembered outcomes that `filter` accepts, the latest first: at most `limit` reports, which follow
    /// the one of the task `after` in this order. A limit of 0 counts as 1.
    ///
    /// If the outcome of `after` is no longer [remembered](crate::TaskRegistryBuilder::history), the page is empty,
    /// because all later reports in this order are older and no longer remembered either. The filter runs without a
    /// lock.
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

    /// Aborts a task, pending or running. Its outcome, [`Outcome::Aborted`](crate::Outcome::Aborted), is counted at
    /// once, and its [`cancellation()`](crate::cancellation) token is cancelled. Its future is dropped before the next
    /// task of its set starts. A future that is inside a poll, and a closure that is running, can't be stopped and are
    /// abandoned.
    ///
    /// Returns `false` if no such task is live.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn abort(&self, id: TaskId) -> bool {
        self.shared.abort(id)
    }

    /// [Aborts](Self::abort) all live tasks of a set, and returns their number. Tasks that are added meanwhile are not
    /// aborted.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn abort_set(&self, set: SetId) -> usize {
        self.shared.ledger.set(set.0).map_or(0, |set| set.end_all(|_| true, &Outcome::Aborted))
    }

    /// [Aborts](Self::abort) all live tasks of a name, and returns their number. Tasks that are added meanwhile may not
    /// be aborted.
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
        aborted + sets.iter().map(|set| set.end_all(is_named, &Outcome::Aborted)).sum::<usize>()
    }

    /// Subscribes to the events of all tasks from now on, as a stream.
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
    /// A reader never delays a task. The latest 4,096 events are kept for slow readers. A reader that is further behind
    /// loses the oldest events and gets [`TaskEvent::Missed`](crate::TaskEvent::Missed) in their place. Without
    /// readers, no event is kept, and an event costs one branch.
    ///
    /// The stream ends after the last clone of the registry was dropped and its last task has ended. Code that waits
    /// for the end of the stream must not hold a clone.
    #[must_use = "events are kept for the subscription until it is dropped"]
    pub fn subscribe(&self) -> TaskEvents {
        EventBuffer::subscribe(self.shared.telemetry.buffer())
    }

    /// Whether a [`shutdown`](Self::shutdown) has begun. The registry then closes when the last live task has ended, or
    /// at the deadline.
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
    /// assert!(registry.is_shutting_down()); // also after the shutdown
    /// # }
    /// ```
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shared.losses.has_begun()
    }

    /// Whether the registry accepts no more tasks: a [`shutdown`](Self::shutdown) has closed it, or its runtime has
    /// ended.
    ///
    /// ```
    /// use postlude::{RejectReason, TaskRegistry};
    ///
    /// let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    /// let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    /// assert!(!registry.is_closed());
    ///
    /// drop(runtime);
    /// assert!(registry.is_closed());
    /// assert_eq!(registry.try_spawn(async {}).unwrap_err().reason(), RejectReason::RuntimeEnded);
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.ledger.is_closed()
    }

    /// Whether the registry is at its [capacity](TaskRegistryBuilder::capacity). If it is, a new task is discarded, or
    /// handed back by `try_add` and `try_spawn`. Always `false` without a capacity.
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

    /// How many async tasks of this name would start now, without waiting for a permit or a rate and without exceeding
    /// the [capacity](TaskRegistryBuilder::capacity). `usize::MAX` if nothing limits them; 0 if the registry is closed
    /// or the name is [paused](Self::pause).
    ///
    /// For code that fetches work only when there is room for it, such as the worker of a queue. A task that is spawned
    /// meanwhile may take the room. With a rate limit, the number is at most 1.
    /// [`limits_changed`](Self::limits_changed) waits for a change of the limits.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::builder().limit_by_name("mail", 2).build().unwrap();
    /// assert_eq!(registry.may_start("mail"), 2);
    /// registry.spawn(Task::new(std::future::pending::<()>()).named("mail"));
    /// assert_eq!(registry.may_start("mail"), 1);
    /// assert_eq!(registry.may_start("report"), usize::MAX);
    /// # }
    /// ```
    #[must_use]
    pub fn may_start(&self, name: impl Into<TaskName>) -> usize {
        if self.is_closed() {
            return 0;
        }
        self.shared.admission.may_start(name.into()).min(self.shared.ledger.free_slots())
    }

    /// A token that is cancelled when the registry closes: at the end of a shutdown, or at its deadline.
    ///
    /// Use it for work outside the registry that should end with it. Cancelling this token cancels nothing else.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.shared.token.child_token()
    }

    /// A guard that a [`shutdown`](Self::shutdown) waits for when the tasks have ended: for code that has something to
    /// do then, and that has to know when a shutdown begins.
    pub fn shutdown_guard(&self) -> ShutdownGuard {
        ShutdownGuard::new(&self.shared)
    }

    #[inline]
    #[track_caller]
    pub(crate) fn spawn_task(&self, task: Task) -> Result<TaskHandle, Rejected> {
        let task = self.prepare(task)?;
        if task.meta().is_unique() && keys::is_live(&self.shared, task.meta()) {
            return Err(Rejected::new(task, RejectReason::Duplicate));
        }
        match self.admit(&task) {
            Ok(passed_mark) => Ok(self.start(task, passed_mark)),
            Err(reason) => Err(Rejected::new(task, reason)),
        }
    }

    /// Gives a task that will be spawned its number, and asks the admission filter. Never call this under a lock.
    #[inline]
    pub(crate) fn prepare(&self, mut task: Task) -> Result<Task, Rejected> {
        let id = TaskId { number: next_number(), index: 0 };
        task.meta_mut().accept(id, Timestamp::now(), &self.shared.telemetry);
        match self.shared.consider(task.meta_mut()) {
            Ok(()) => Ok(task),
            Err(refusal) => Err(Rejected::refused(task, refusal)),
        }
    }

    /// Counts and lists a task that will be spawned, if it is accepted. Returns whether a high-water mark was reached.
    /// If this succeeds, the task must be [started](Self::start).
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
        let (shared, mut work) = (&self.shared, task.work);
        let identity = work.meta().identity();
        start_limit::start(shared, work.as_mut().meta_mut());
        let start_by = work.meta().start_by();
        let mut displaced = None;
        if work.meta().is_unique() {
            keys::claim_spawned(shared, work.as_mut().meta_mut(), displaced.get_or_insert_default());
            if let Some(other) = work.meta().duplicate_of() {
                shared.notify_added(identity);
                keys::end_duplicate(shared, work, other);
                return TaskHandle::joined_to(identity.id, identity.name, self.clone(), other);
            }
        }
        // Permits are taken here, because the runtime does not first poll tasks in the order in which they were
        // spawned.
        if !shared.runs_with_permits(&mut work) {
            work = under_policy(work, shared, None);
        }
        shared.notify_added(identity);
        if let Some(displaced) = displaced {
            displaced.end(shared);
        }
        if let Some(until) = start_by {
            start_limit::check(shared, identity.id, until);
        }
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
