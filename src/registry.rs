//! The registry: owns every accepted task until its outcome.

use std::{cell::Cell, fmt, future::Future, panic::Location, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    IntoTask, Outcome, Page, RejectReason, Rejected, Task, TaskHandle, TaskId, TaskInfo, TaskMetrics, TaskOutput,
    TaskRegistryBuilder, TaskSet,
    inner::{Inner, Side},
    line::Line,
    live::{Ended, Live},
    moment::Moment,
    outcome::drop_quietly,
    record::{Identity, UNNAMED},
    run,
    spawned::{Hand, Spawned},
    sync::atomic::Ordering,
};

/// How many sets and spawned tasks are looked at for one page.
const LINES_PER_PAGE: usize = 10_000;

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
    pub(crate) inner: Arc<Inner>,
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
        TaskSet::counted(Line::new(self.clone(), None, 1))
    }

    /// Starts a task now. Never fails, never blocks; the handle is optional.
    ///
    /// A task that can't be accepted, because the registry is shut down or full or its rule says no, ends at once as
    /// [`Outcome::Discarded`]: logged, counted, reported to the failure hook, and the handle says so. To keep
    /// such a task, use [`try_spawn`](Self::try_spawn).
    #[track_caller]
    pub fn spawn(&self, task: impl IntoTask) -> TaskHandle {
        task.spawn_on(self).unwrap_or_else(|rejected| {
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
        task.spawn_on(self)
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
        let inner = &*self.inner;
        let mut metrics = TaskMetrics::default();
        let now = Moment::now();
        let oldest = Cell::new(None::<Moment>);
        let mut look = |task: &Live| {
            metrics.retrying += u64::from(task.is_resting());
            oldest.set(oldest.get().into_iter().chain(task.pending_since()).min());
        };
        let mut open_sets = 0;
        for set in inner.ledger.survey(&mut look) {
            let so_far = oldest.get();
            if set.survey(&mut look) {
                open_sets += 1;
                // Its tasks wait for their request, which may be a stream without end, and not for a turn.
                oldest.set(so_far);
            }
            set.book();
        }
        inner.ledger.add_up(&mut metrics);
        metrics.open_sets = open_sets;
        metrics.oldest_pending = oldest.get().map(|oldest| now.since(oldest)).unwrap_or_default();
        (metrics.dead_letters, metrics.dead_letters_displaced) = inner.dead_letters.figures();
        metrics.stuck = inner.stuck.len() as u64;
        // Relaxed: statistics.
        metrics.hook_panics = inner.hook_panics.load(Ordering::Relaxed);
        metrics.shed = inner.shed.load(Ordering::Relaxed);
        metrics
    }

    /// What is live: pending and running tasks, the oldest first.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskInfo> {
        let now = Moment::now();
        let mut tasks = Vec::new();
        let mut list = |task: &Live| tasks.push(task.info(now));
        for set in self.inner.ledger.survey(&mut list) {
            set.survey(&mut list);
        }
        tasks.sort_by_key(|task| (std::cmp::Reverse(task.age), task.id));
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
        let now = Moment::now();
        let lines = self.inner.ledger.lines_from(after.map_or(0, |id| id.line), LINES_PER_PAGE);
        for line in &lines {
            let mut tasks = self.live_in(*line, now);
            tasks.sort_unstable_by_key(|task| task.id);
            for task in tasks {
                let is_wanted = after.is_none_or(|after| task.id > after) && filter(&task);
                if is_wanted && !page.push(task, limit, |last| last.id) {
                    return page;
                }
            }
        }
        if lines.len() == LINES_PER_PAGE {
            // There may be more lines: the next page starts after all tasks of the last one.
            page.next = lines.last().map(|line| TaskId { line: *line, place: u32::MAX });
        }
        page
    }

    /// The live tasks of one line.
    fn live_in(&self, line: u64, now: Moment) -> Vec<TaskInfo> {
        let mut tasks = Vec::new();
        if let Some(set) = self.inner.ledger.set(line) {
            set.survey(|live| tasks.push(live.info(now)));
        } else {
            tasks.extend(self.inner.ledger.books(line).spawned(line).map(|live| live.info(now)));
        }
        tasks
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
        self.inner.is_shutting_down()
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
        self.inner.ledger.is_full()
    }

    /// Aborts a task, pending or running. Its outcome, [`Outcome::Aborted`], is counted at once and its set
    /// goes on; its future is dropped as soon as it yields, and its [`cancellation()`](crate::cancellation)
    /// token is cancelled.
    ///
    /// `false` if no such task is live.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn abort(&self, id: TaskId) -> bool {
        match id.set() {
            Some(_) => self.inner.ledger.set(id.line).is_some_and(|set| set.abort(id)),
            None => self.inner.end_spawned(id, |_| Outcome::Aborted, Side::Outside),
        }
    }

    /// A token that is cancelled when the registry closes: at the end of a shutdown, or at its deadline.
    ///
    /// It is for work outside the registry that should end with it. Cancelling it cancels nothing else.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.inner.token.child_token()
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
        self.inner.ledger.wait_idle().await;
    }

    /// Starts a future that no task was made of: without a box, if nothing stands in its way.
    #[track_caller]
    pub(crate) fn launch_bare<F>(&self, future: F) -> Result<TaskHandle, Rejected>
    where
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        if !self.inner.runs_bare() {
            return self.launch(Task::new(future));
        }
        let identity = Identity {
            id: TaskId { line: self.inner.ledger.next_line(), place: 0 },
            name: UNNAMED,
            location: Location::caller(),
            added: Moment::now(),
        };
        match self.inner.admit_spawned(Live::new(identity)) {
            Ok(crowded) => Ok(self.run(identity, Spawned::bare(identity.id.line, future, self.clone()), crowded)),
            Err(reason) => {
                let mut task = Task::new(future);
                task.accept(identity.id, identity.added, self.inner.spans);
                Err(Rejected::new(task, reason))
            }
        }
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
        let id = TaskId { line: self.inner.ledger.next_line(), place: 0 };
        task.accept(id, Moment::now(), self.inner.spans);
        match self.inner.consider(task.meta()) {
            Ok(()) => Ok(task),
            Err(refusal) => Err(Rejected::refused(task, refusal)),
        }
    }

    /// Counts and lists a task that is to be spawned, if it is accepted; says whether that made a crowd. From here on
    /// it must be [started](Self::start).
    #[inline]
    pub(crate) fn enter(&self, task: &Task) -> Result<bool, RejectReason> {
        let mut live = Live::new(task.meta().identity());
        if let Some(dead) = task.meta().policy.as_ref().and_then(|policy| policy.replay_of) {
            live.replays(dead);
        }
        self.inner.admit_spawned(live)
    }

    #[inline]
    pub(crate) fn start(&self, task: Task, crowded: bool) -> TaskHandle {
        let inner = &*self.inner;
        let identity = task.meta().identity();
        let work = if inner.runs_plain(task.meta()) { task.work } else { run::under_policy(task.work, self, None) };
        self.run(identity, Spawned::boxed(work, self.clone()), crowded)
    }

    #[inline]
    fn run<H: Hand + 'static>(&self, identity: Identity, spawned: Spawned<H>, crowded: bool) -> TaskHandle {
        let inner = &*self.inner;
        inner.added(identity);
        let join = inner.spawn(spawned);
        if crowded {
            inner.warn_if_crowded(identity.id.line);
        }
        TaskHandle::live(identity.id, identity.name, self.clone(), join)
    }

    /// Counts and reports a task that was not accepted, and drops it.
    pub(crate) fn discard(&self, rejected: Rejected) -> TaskId {
        let outcome = rejected.outcome();
        let (task, refusal) = rejected.into_parts();
        let identity = task.meta().identity();
        drop_quietly(task);
        let (mut live, now) = (Live::new(identity), identity.added);
        if let Some(refusal) = refusal {
            live.refuse(refusal);
        }
        let past = live.past(outcome.clone(), now);
        let forgotten = self.inner.ledger.books(identity.id.line).refuse(past);
        drop_quietly(forgotten);
        self.inner.added(identity);
        self.inner.tell(Ended { live, outcome, now, side: Side::Outside, quiet: false });
        identity.id
    }
}

impl fmt::Debug for TaskRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskRegistry").field("live", &self.inner.ledger.live()).finish_non_exhaustive()
    }
}
