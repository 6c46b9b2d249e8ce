//! `TestRegistry`

use std::{
    fmt::{self, Write as _},
    ops::Deref,
    pin::pin,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    model::{BuildError, TaskReport},
    registry::{TaskRegistry, builder::TaskRegistryBuilder},
    util::{loom::Mutex, semaphore::Permit},
};

/// How many async tasks run at a time, if the builder sets no limit: so that there are permits to keep back.
const MAX_CONCURRENT: usize = 10_000;

/// For how long [`TestRegistry::run`] waits, in real time.
const PATIENCE: Duration = Duration::from_secs(10);

/// For how long it waits on a paused clock, which passes at once.
const PAUSED_PATIENCE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The first time after which it looks for more sets to drain.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// How many tasks a message lists.
const LISTED: usize = 50;

/// A registry for tests: it holds back what is added, runs it when it is told to, and keeps the reports.
///
/// ```
/// use postlude::{Task, testing::TestRegistry};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let tasks = TestRegistry::new();
/// tasks.spawn(Task::new(async { Err::<(), _>("connection refused") }).named("welcome_mail"));
/// tasks.run().await;
///
/// let reports = tasks.reports();
/// assert_eq!(reports[0].outcome.to_string(), "failed: connection refused");
/// # }
/// ```
///
/// It derefs to its [`TaskRegistry`]: give `TaskLayer::new` a clone of [`registry`](Self::registry). Until
/// [`run`](Self::run), each task is pending, whether it was spawned or added to a set, and whatever became of its
/// response. So don't wait for a handle, a drain or [`wait_idle`](TaskRegistry::wait_idle) before: nothing would end.
///
/// It holds back the permits of all kinds of tasks. An async task needs one only if there is a limit, so without
/// [`max_concurrent`](TaskRegistryBuilder::max_concurrent) the limit is 10,000.
pub struct TestRegistry {
    registry: TaskRegistry,
    reports: Arc<Mutex<Vec<TaskReport>>>,
    /// All free permits, while nothing may start.
    held: Mutex<Vec<Permit>>,
    patience: Duration,
}

impl TestRegistry {
    /// A registry with the default settings.
    ///
    /// # Panics
    /// Outside a tokio runtime, and in one without a timer.
    #[must_use]
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it depends on the runtime")]
    #[expect(clippy::panic, reason = "it is for tests")]
    pub fn new() -> Self {
        Self::build(TaskRegistry::builder()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A registry with the settings of a builder: limits, time limits, hooks and observers.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::{TaskRegistry, testing::TestRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let builder = TaskRegistry::builder().default_timeout(Duration::from_secs(30));
    /// let tasks = TestRegistry::build(builder).unwrap();
    /// tasks.spawn(std::future::pending::<()>());
    /// tasks.run().await;
    /// assert_eq!(tasks.metrics().timed_out, 1);
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`TaskRegistryBuilder::build`].
    pub fn build(mut builder: TaskRegistryBuilder) -> Result<Self, BuildError> {
        let reports = Arc::<Mutex<Vec<TaskReport>>>::default();
        let kept = Arc::clone(&reports);
        builder.limits.max_concurrent.get_or_insert(MAX_CONCURRENT);
        let registry = builder.observe(move |report: &TaskReport| kept.lock().push(report.clone())).build()?;
        let held = Mutex::new(registry.shared.admission.take_free_permits());
        Ok(Self { registry, reports, held, patience: PATIENCE })
    }

    /// How long [`run`](Self::run) waits before it panics, in real time. Default: 10 s.
    #[must_use]
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// The registry, for code that takes one.
    #[must_use]
    pub const fn registry(&self) -> &TaskRegistry {
        &self.registry
    }

    /// Runs what was added, and what that adds, until every task has its outcome.
    ///
    /// Each response counts as taken by its client, also if the test has not read it and still holds it: its set drains
    /// with the ending `Sent`. A set without a request drains, too. A set whose handler has not returned drains when it
    /// has. Then tasks are held back again.
    ///
    /// With paused time, delays and waits between attempts pass at once. Without, they are waited for.
    ///
    /// # Panics
    /// If a task is still live after the [patience](Self::patience), or after ten years of paused time. The message
    /// lists the tasks that are live.
    ///
    /// # Cancel safety
    /// If it is dropped, tasks are no longer held back, until the next run has ended.
    #[expect(clippy::panic, reason = "it is for tests")]
    pub async fn run(&self) {
        let shared = &*self.registry.shared;
        drop(std::mem::take(&mut *self.held.lock()));
        let mut patience = Patience::begin(self.patience);
        let mut idle = pin!(shared.ledger.wait_idle());
        let (mut waited, mut wait) = (Duration::ZERO, FIRST_LOOK);
        loop {
            let no_request = shared.requests.count() == 0;
            self.registry.for_each_set(|set| set.drain_for_test(no_request)).await;
            let is_over = tokio::select! {
                biased;
                () = &mut idle => break,
                () = patience.over() => true,
                () = shared.timer.sleep(wait) => waited >= PAUSED_PATIENCE,
            };
            if is_over || shared.ledger.has_runtime_ended() {
                panic!("some tasks have not ended:{}", self.listing(false));
            }
            waited += wait;
            wait *= 2;
        }
        // Another run may have ended before.
        self.held.lock().extend(shared.admission.take_free_permits());
    }

    /// The reports of the tasks that have ended, in the order of their ends.
    #[must_use]
    pub fn reports(&self) -> Vec<TaskReport> {
        self.reports.lock().clone()
    }

    /// Checks that a task of this name has run and completed.
    ///
    /// # Panics
    /// If none has. The message lists what did run.
    #[track_caller]
    pub fn assert_ran(&self, name: &str) {
        let ran = self.completed(name);
        assert!(ran > 0, "no task `{name}` has run and completed:{}", self.listing(true));
    }

    /// Checks that exactly `times` tasks of this name have run and completed.
    ///
    /// # Panics
    /// If it was another number. The message lists what did run.
    #[track_caller]
    pub fn assert_ran_times(&self, name: &str, times: usize) {
        let ran = self.completed(name);
        assert!(ran == times, "{ran} tasks `{name}` have run and completed, and not {times}:{}", self.listing(true));
    }

    /// Checks that no task of this name was added, whatever became of it.
    ///
    /// # Panics
    /// If one was. The message lists what was added.
    #[track_caller]
    pub fn assert_not_added(&self, name: &str) {
        let ended = self.reports.lock().iter().any(|report| report.name == *name);
        let is_added = ended || self.registry.tasks().iter().any(|task| task.name == *name);
        assert!(!is_added, "a task `{name}` was added:{}", self.listing(true));
    }

    /// Checks that no task was [lost](crate::Outcome::is_loss): none has failed, panicked, timed out or been aborted,
    /// and none was discarded against the will of who added it.
    ///
    /// # Panics
    /// If one was. The message lists what did run.
    #[track_caller]
    pub fn assert_none_failed(&self) {
        let lost = self.reports.lock().iter().filter(|report| report.outcome.is_loss()).count();
        assert!(lost == 0, "{lost} tasks were lost:{}", self.listing(true));
    }

    fn completed(&self, name: &str) -> usize {
        self.reports.lock().iter().filter(|report| report.name == *name && report.outcome.is_completed()).count()
    }

    /// The tasks that are live, and those that have ended if asked for, a line each.
    fn listing(&self, with_ended: bool) -> String {
        let (reports, live) = (if with_ended { self.reports() } else { Vec::new() }, self.registry.tasks());
        let mut lines = String::new();
        for TaskReport { id, name, location, outcome, .. } in reports.iter().take(LISTED) {
            let _infallible = write!(lines, "\n  task {id} `{name}` ({location}): {outcome}");
        }
        for task in live.iter().take(LISTED) {
            let _infallible = write!(lines, "\n  {task}");
        }
        let unlisted = reports.len().saturating_sub(LISTED) + live.len().saturating_sub(LISTED);
        if unlisted > 0 {
            let _infallible = write!(lines, "\n  and {unlisted} more");
        }
        if reports.is_empty() && live.is_empty() {
            lines.push_str("\n  no task was added");
        } else if with_ended && !live.is_empty() && !self.held.lock().is_empty() {
            lines.push_str("\n  what is pending starts with `run()`");
        }
        lines
    }
}

impl Deref for TestRegistry {
    type Target = TaskRegistry;

    fn deref(&self) -> &TaskRegistry {
        &self.registry
    }
}

impl fmt::Debug for TestRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestRegistry").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// A time limit on the real clock, also where tokio's is paused.
struct Patience {
    over: oneshot::Receiver<()>,
    /// Ends the thread when it is dropped.
    _done: mpsc::Sender<()>,
}

impl Patience {
    fn begin(limit: Duration) -> Self {
        let ((sender, over), (done, is_done)) = (oneshot::channel(), mpsc::channel());
        let wait = move || match is_done.recv_timeout(limit) {
            Err(mpsc::RecvTimeoutError::Timeout) => sender.send(()).is_ok(),
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => false,
        };
        // Without a thread there is no limit.
        drop(thread::Builder::new().name("postlude-test".to_owned()).spawn(wait));
        Self { over, _done: done }
    }

    /// Never ends without a thread.
    async fn over(&mut self) {
        if (&mut self.over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
