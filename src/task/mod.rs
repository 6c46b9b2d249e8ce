//! Tasks: work with a name, a location and a policy.

pub(crate) mod batch_signal;
pub(crate) mod exhausted;
pub(crate) mod keyed;
mod output;
pub(crate) mod output_task;
pub(crate) mod profiled;
mod rejected;
mod verdict;
pub(crate) mod work;

pub(crate) use self::output::IntoOutcome;
pub use self::{
    output::TaskOutput,
    output_task::{IntoOutputTask, OutputTask},
    rejected::{Rejected, RejectedItem},
};

use std::{cell::RefCell, fmt, future::Future, mem, panic::Location, sync::Arc, time::Duration};

#[cfg(feature = "http")]
use crate::model::Ending;
use crate::{
    model::{BoxError, Priority, RetryPolicy, TaskId, TaskKey, TaskName, UniquePolicy},
    task::{
        batch_signal::{BatchGuard, BatchSignal},
        keyed::{Claim, Keyed},
        verdict::{Judged, Verdict},
        work::{BoxedWork, Call, Kind, Meta, Policy, Record, Source},
    },
    util::panic::drop_catching,
};

/// One unit of work: a future or a closure, with a name, a source location and a policy.
///
/// [`TaskSet::add`](crate::TaskSet::add) and [`TaskRegistry::spawn`](crate::TaskRegistry::spawn) also take a plain
/// future.
///
/// ```
/// use std::time::Duration;
/// use postlude::Task;
///
/// let mail = Task::new(async { Ok::<(), std::io::Error>(()) })
///     .named("welcome_mail")
///     .timeout(Duration::from_secs(30));
/// let audit = Task::blocking(|| std::fs::write("/dev/null", "signed up")).named("audit_log");
/// # drop((mail, audit));
/// ```
///
/// A task does nothing until it is added to a set or spawned. Like a future, it can be dropped before that.
#[must_use = "a task does nothing until it is added to a set or spawned"]
#[doc(alias = "background")]
#[doc(alias = "job")]
#[doc(alias = "BackgroundTask")]
pub struct Task {
    pub(crate) work: BoxedWork,
}

impl Task {
    /// A task that polls `future` to its end.
    ///
    /// An `async` block with `?` needs an error type: end it with `Ok::<(), postlude::BoxError>(())`.
    ///
    /// Like any future, it should yield regularly. A future that does not yield can't be stopped when it times out or
    /// is aborted; it is abandoned. For work that blocks a thread, use [`Task::blocking`].
    #[track_caller]
    pub fn new<F>(future: F) -> Self
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput,
    {
        Self::from_record(Kind::Async, future)
    }

    /// A task that calls `closure` on one of tokio's blocking threads.
    ///
    /// At most [`max_blocking`](crate::TaskRegistryBuilder::max_blocking) blocking tasks run at a time. A closure can't
    /// be stopped from outside. When it times out or is aborted, its outcome is counted at once and its set goes on,
    /// while the closure runs to its end. The closure can check [`cancellation()`](crate::cancellation) to end early.
    ///
    /// A closure holds its permit while it waits for another blocking task. If as many as the limit allows do so, all
    /// wait for ever.
    #[track_caller]
    pub fn blocking<F, T>(closure: F) -> Self
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        Self::from_record(Kind::Blocking, Call(Some(closure)))
    }

    /// A task that calls `closure` on a thread of its own, for CPU-bound work.
    ///
    /// At most [`max_cpu`](crate::TaskRegistryBuilder::max_cpu) CPU tasks run at a time, by default one per core. The
    /// others wait, by [priority](Self::priority). CPU tasks have permits of their own, so a burst of them delays
    /// neither async nor blocking tasks. [The guide][work] compares the three kinds.
    ///
    /// The thread is one of tokio's blocking threads, and runs nothing else until the closure returns. Like a
    /// [blocking](Self::blocking) closure, the closure can't be stopped from outside, can check
    /// [`cancellation()`](crate::cancellation) to end early, and delays the shutdown of the runtime. Rayon's parallel
    /// iterators run on rayon's own pool. The threads of that pool do not belong to the task, so get the token before
    /// the iteration. A panic in a job that `rayon::spawn` has detached is not the task's: rayon aborts the process,
    /// unless its pool has a `panic_handler`.
    ///
    /// A CPU task that waits for another CPU task may wait forever, if all permits are held by tasks that wait.
    ///
    /// ```
    /// use postlude::{Outcome, Task, TaskRegistry, cancellation};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let primes = Task::cpu(|| {
    ///     let token = cancellation();
    ///     let numbers = (2..10_000_u32).take_while(|_| !token.is_cancelled());
    ///     let count = numbers.filter(|n| (2..*n).all(|d| n % d > 0)).count();
    ///     assert_eq!(count, 1229);
    /// });
    /// assert!(matches!(registry.spawn(primes.named("primes")).await, Outcome::Completed));
    /// # }
    /// ```
    ///
    #[cfg_attr(feature = "axum", doc = "[work]: crate::guide::work")]
    #[cfg_attr(not(feature = "axum"), doc = "[work]: crate#features")]
    #[track_caller]
    pub fn cpu<F, T>(closure: F) -> Self
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        Self::from_record(Kind::Cpu, Call(Some(closure)))
    }

    /// A task that is retried when it fails: `factory` makes the future of each attempt, and `policy` decides whether
    /// and when the next one follows.
    ///
    /// An attempt is retried if it returns an error or takes longer than the [`timeout`](Self::timeout), and with
    /// [`retry_panics`](RetryPolicy::retry_panics) also if it panics. Between two attempts the task holds no permit,
    /// and the next task of its set runs. (In a set that [stops on failure](crate::TaskSet::stop_on_failure), the
    /// others wait.) A task that has used up its attempts is kept as a
    /// [dead letter](crate::TaskRegistry::dead_letters).
    ///
    /// The factory should only make the future, and do the work inside it. It is called within the attempt, so
    /// [`attempt()`](crate::attempt) returns the attempt's number, and a panic of the factory counts as a panic of the
    /// attempt.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::{RetryPolicy, Task, TaskRegistry, attempt};
    ///
    /// async fn deliver(url: &str) -> Result<(), std::io::Error> {
    ///     # let _ = url;
    ///     if attempt() < 3 { Err(std::io::Error::other("receiver is down")) } else { Ok(()) }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let url = String::from("http://receiver/hook");
    /// let webhook = Task::retrying(RetryPolicy::default(), move || {
    ///     let url = url.clone();
    ///     async move { deliver(&url).await }
    /// });
    /// let outcome = registry.spawn(webhook.named("webhook").timeout(Duration::from_secs(10))).await;
    /// assert!(outcome.is_completed());
    /// assert_eq!(registry.metrics().retries, 2);
    /// # }
    /// ```
    #[track_caller]
    pub fn retrying<F, Fut>(policy: RetryPolicy, mut factory: F) -> Self
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        Self::from_source(Kind::Async, policy, move |meta| Box::pin(Record { meta, future: factory() }))
    }

    /// Like [`retrying`](Self::retrying), for a [blocking](Self::blocking) closure, which is called for each attempt.
    ///
    /// A closure that has timed out can't be stopped and may still be running when the next attempt calls it. This is
    /// why it must be `Fn + Sync`.
    #[track_caller]
    pub fn retrying_blocking<F, T>(policy: RetryPolicy, closure: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: TaskOutput,
    {
        let closure = Arc::new(closure);
        Self::from_source(Kind::Blocking, policy, move |meta| {
            let closure = Arc::clone(&closure);
            Box::pin(Record { meta, future: Call(Some(move || closure())) })
        })
    }

    /// Like [`retrying`](Self::retrying), with a condition on the task's own type of error: another attempt follows
    /// only if `condition` returns `true`, and `policy` allows it.
    ///
    /// The condition is asked about the error that the attempt has returned, before it becomes a
    /// [`BoxError`](crate::BoxError). [`RetryPolicy::retry_if`] is asked about the boxed error, in which the error of
    /// an `anyhow::Error` or an `eyre::Report` can't be found by `downcast_ref`.
    ///
    /// The condition is called within the attempt. It is not called after a timeout or a panic, which the policy
    /// decides. If the condition panics, the panic is logged and counted, and the condition is treated as true.
    ///
    /// ```
    /// use std::fmt;
    /// use postlude::{RetryPolicy, Task, TaskRegistry};
    ///
    /// #[derive(Debug)]
    /// struct Answer(u16);
    ///
    /// impl fmt::Display for Answer {
    ///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    ///         write!(f, "the receiver answered {}", self.0)
    ///     }
    /// }
    ///
    /// impl std::error::Error for Answer {}
    ///
    /// async fn deliver() -> anyhow::Result<()> {
    ///     Err(Answer(400))?;
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let is_temporary = |error: &anyhow::Error| match error.downcast_ref::<Answer>() {
    ///     Some(Answer(status)) => *status >= 500,
    ///     None => true,
    /// };
    /// let webhook = Task::retrying_if(RetryPolicy::default(), is_temporary, deliver);
    /// registry.spawn(webhook.named("webhook")).await;
    /// assert_eq!(registry.metrics().retries, 0);
    /// # }
    /// ```
    #[track_caller]
    pub fn retrying_if<F, Fut, C, E>(policy: RetryPolicy, condition: C, mut factory: F) -> Self
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        C: Fn(&E) -> bool + Send + Sync + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let (condition, verdict) = (Arc::new(condition), Arc::new(Verdict::default()));
        Self::from_source(Kind::Async, policy.and_if(asked(&verdict)), move |meta| {
            let (condition, verdict) = (Arc::clone(&condition), verdict.begin());
            Box::pin(Record { meta, future: Judged { future: factory(), condition, verdict } })
        })
    }

    /// Like [`retrying_if`](Self::retrying_if), for a [blocking](Self::retrying_blocking) closure.
    ///
    /// ```
    /// use std::io;
    /// use postlude::{RetryPolicy, Task};
    ///
    /// let upload = || Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied));
    /// let is_temporary = |error: &io::Error| error.kind() != io::ErrorKind::PermissionDenied;
    /// let task = Task::retrying_blocking_if(RetryPolicy::default(), is_temporary, upload);
    /// # drop(task);
    /// ```
    #[track_caller]
    pub fn retrying_blocking_if<F, C, E>(policy: RetryPolicy, condition: C, closure: F) -> Self
    where
        F: Fn() -> Result<(), E> + Send + Sync + 'static,
        C: Fn(&E) -> bool + Send + Sync + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let (shared, verdict) = (Arc::new((closure, condition)), Arc::new(Verdict::default()));
        Self::from_source(Kind::Blocking, policy.and_if(asked(&verdict)), move |meta| {
            let (shared, verdict) = (Arc::clone(&shared), verdict.begin());
            let call = move || {
                let (closure, condition) = &*shared;
                let result = closure();
                verdict.judge(&result, condition);
                result
            };
            Box::pin(Record { meta, future: Call(Some(call)) })
        })
    }

    /// Names the task, with a string literal. Names are metric labels and appear in logs, so keep the number of names
    /// small, and put no ids into them. An empty name counts as no name: `unnamed`.
    pub fn named(mut self, name: impl Into<TaskName>) -> Self {
        self.meta_mut().name = name.into();
        self
    }

    /// Sets the place in the source that logs and lists show for the task, in place of the line that made it: for code
    /// that makes tasks on behalf of its callers, and can't be `#[track_caller]`.
    ///
    /// ```
    /// use std::panic::Location;
    /// use postlude::Task;
    ///
    /// let registered = Location::caller(); // kept since the caller has given its handler
    /// let task = Task::new(async {}).located_at(registered);
    /// assert_eq!(task.location(), registered);
    /// ```
    pub fn located_at(mut self, location: &'static Location<'static>) -> Self {
        self.meta_mut().location = location;
        self
    }

    /// Ends an attempt that takes longer than `limit` as [`Outcome::TimedOut`](crate::Outcome::TimedOut), in place of
    /// the registry's [`default_timeout`](crate::TaskRegistryBuilder::default_timeout).
    ///
    /// Waiting for a permit does not count. With a limit of zero the attempt times out before the first poll.
    /// `Duration::MAX` is no limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.policy_mut().timeout = Some(limit);
        self
    }

    /// Delays the start of the task. The delay begins when the task is spawned or, in a set, after the response has
    /// left and the tasks before it have ended.
    ///
    /// During the delay the task holds no permit, and the next task of its set runs. (In a set that
    /// [stops on failure](crate::TaskSet::stop_on_failure), the others wait.) A shutdown does not wait for a task that
    /// is due after its deadline. With `Duration::MAX` the task never starts.
    pub fn delay(mut self, duration: Duration) -> Self {
        self.policy_mut().delay = Some(duration);
        self
    }

    /// Discards the task if it has not started within `wait` of its add. It ends then as
    /// [`DiscardReason::Expired`](crate::DiscardReason::Expired), which is logged, counted and reported.
    ///
    /// Every wait counts: for the response of the request, for the tasks before it in its set, for a permit, a rate or
    /// a thread, and its own [delay](Self::delay). A task that has started does not expire, so the attempts after the
    /// first are not limited: see [`RetryPolicy::give_up_after`]. The task, with all that it has captured, is dropped
    /// when it expires, not at its turn. With a wait of zero the task never starts; `Duration::MAX` is no limit.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::{DiscardReason, Outcome, Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let minute = Duration::from_secs(60);
    /// let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    /// registry.spawn(async move { tokio::time::sleep(2 * minute).await });
    ///
    /// let code = Task::new(async { /* text a code that is valid for a minute */ });
    /// let outcome = registry.spawn(code.named("one_time_code").expires_after(minute)).await;
    /// assert!(matches!(outcome, Outcome::Discarded(DiscardReason::Expired)));
    /// # }
    /// ```
    pub fn expires_after(mut self, wait: Duration) -> Self {
        self.policy_mut().expires_after = Some(wait);
        self
    }

    /// Says which of all things its name is about the task is for, such as a user or a file.
    ///
    /// A key has an effect only on tasks of the same [name](Self::named), and only together with
    /// [`unique`](Self::unique) or with a [`limit_by_key`](crate::TaskRegistryBuilder::limit_by_key) of the name.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// // No user has more than two thumbnails in work, however many of them wait.
    /// let registry = TaskRegistry::builder().limit_by_key("thumbnail", 2).build().unwrap();
    /// for (user, image) in [("ann", 1), ("ann", 2), ("ann", 3), ("bob", 4)] {
    ///     let thumbnail = async move { /* scale the image */ _ = image };
    ///     registry.spawn(Task::new(thumbnail).named("thumbnail").key(user));
    /// }
    /// # registry.wait_idle().await;
    /// # }
    /// ```
    pub fn key(mut self, key: impl Into<TaskKey>) -> Self {
        self.keyed_mut().key = key.into();
        self
    }

    /// Lets at most one task of its name and [key](Self::key) be pending, and at most one run: the policy says what
    /// happens if there is one.
    ///
    /// A task has its key while it is live, from its add on. A task of a set has it from the moment its set begins to
    /// drain, so a request that is in progress, or whose set is cleared, has no key. Its [`when`](Self::when) is
    /// evaluated before that. A [retrying](Self::retrying) task has its key until its last attempt has ended. Without a
    /// key, the name alone must be unique. Tasks that are not unique are not compared.
    ///
    /// ```
    /// use postlude::{DiscardReason, Outcome, Task, TaskRegistry, UniquePolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # async fn refresh() {}
    /// let registry = TaskRegistry::new();
    /// let cache = || Task::new(refresh()).named("refresh").key("prices").unique(UniquePolicy::join());
    ///
    /// let first = registry.spawn(cache());
    /// let second = registry.spawn(cache());
    /// assert_eq!(second.joined(), Some(first.id()));
    /// assert!(matches!(second.await, Outcome::Discarded(DiscardReason::Duplicate)));
    /// assert!(first.await.is_completed());
    /// # }
    /// ```
    #[doc(alias = "debounce")]
    #[doc(alias = "deduplicate")]
    #[doc(alias = "single flight")]
    pub fn unique(mut self, policy: UniquePolicy) -> Self {
        self.keyed_mut().unique = Some(policy);
        self
    }

    /// Sets the [`Priority`]: of the tasks that wait for a permit, those of a higher priority start first. Default:
    /// [`Priority::Normal`].
    ///
    /// The priority only has an effect on tasks that wait for a limit: on their name, on their kind (async, blocking or
    /// CPU), or on their rate. It does not change the order within a set.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.meta_mut().priority = priority;
        self
    }

    /// Feature `http`.
    /// Runs the task only if `condition` returns `true` for the ending of the request. Otherwise the task ends as
    /// [`DiscardReason::Ending`](crate::DiscardReason::Ending).
    ///
    /// The condition is evaluated when the task is the next one of its set, after the layer's own
    /// [`drain_when`](crate::TaskLayer::drain_when). Without a request (a spawned task, or a set that is drained by
    /// hand) there is no ending, and the task runs. If the condition panics, the panic is logged and counted, and the
    /// task runs.
    #[cfg(feature = "http")]
    pub fn when(mut self, condition: impl Fn(&Ending) -> bool + Send + 'static) -> Self {
        self.policy_mut().when = Some(Box::new(condition));
        self
    }

    /// The task's name, or `unnamed`.
    #[must_use]
    pub fn name(&self) -> TaskName {
        self.meta().name
    }

    /// Where in the source the task was made.
    #[must_use]
    pub fn location(&self) -> &'static Location<'static> {
        self.meta().location
    }

    #[track_caller]
    fn from_record<F>(kind: Kind, future: F) -> Self
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput,
    {
        Self { work: Box::pin(Record { meta: Meta::new(kind), future }) }
    }

    #[track_caller]
    fn from_source(kind: Kind, retry: RetryPolicy, make: impl FnMut(Meta) -> BoxedWork + Send + 'static) -> Self {
        let policy = Policy { retry: Some(Box::new(retry)), ..Policy::default() };
        let mut meta = Meta::new(kind);
        *meta.policy = Some(Box::new(policy));
        Self { work: Box::pin(Source { meta, make }) }
    }

    #[inline]
    pub(crate) fn meta(&self) -> &Meta {
        self.work.meta()
    }

    /// The task of a dead letter, which starts again with the first attempt.
    pub(crate) fn replay(source: BoxedWork, dead: TaskId) -> Self {
        let mut task = Self { work: source };
        task.meta_mut().started = false;
        let policy = task.policy_mut();
        policy.replay_of = Some(dead);
        if let Some(keyed) = &mut policy.keyed {
            keyed.claim = Claim::None;
        }
        task
    }

    /// Makes a task and replaces its location.
    pub(crate) fn made_at(location: &'static Location<'static>, task: impl IntoTask) -> Self {
        let mut task = task.into_task();
        task.meta_mut().location = location;
        task
    }

    #[inline]
    pub(crate) fn meta_mut(&mut self) -> &mut Meta {
        self.work.as_mut().meta_mut()
    }

    fn keyed_mut(&mut self) -> &mut Keyed {
        self.policy_mut().keyed.get_or_insert_default()
    }

    fn policy_mut(&mut self) -> &mut Policy {
        self.meta_mut().policy.get_or_insert_default()
    }

    /// Makes the task of a batch wait for more items, until the signal is ready or `at_most` is over.
    pub(crate) fn batched(mut self, at_most: Duration, signal: Arc<BatchSignal>) -> Self {
        let policy = self.policy_mut();
        policy.delay = Some(at_most);
        policy.batched = Some(BatchGuard(signal));
        self
    }
}

/// Whether a verdict allows another attempt.
fn asked(verdict: &Arc<Verdict>) -> impl Fn() -> bool + Send + Sync + use<> {
    let verdict = Arc::clone(verdict);
    move || verdict.allows_another()
}

/// Drops tasks one by one, because each drop may panic. A task may hold the last handle of another set, whose tasks are
/// then dropped, too. The outermost call drops those after its own, so that drops do not nest.
pub(crate) fn drop_tasks(tasks: Vec<Task>) {
    thread_local! {
        static DROPPING: RefCell<Option<Vec<Task>>> = const { RefCell::new(None) };
    }

    if tasks.is_empty() {
        return;
    }
    let mut tasks = Some(tasks);
    // On a thread that is ending, the thread-local is gone and the tasks are dropped here.
    let is_outermost = DROPPING.try_with(|dropping| match &mut *dropping.borrow_mut() {
        Some(outer) => {
            outer.extend(tasks.take().into_iter().flatten());
            false
        }
        none => {
            *none = Some(Vec::new());
            true
        }
    });
    let mut next = tasks;
    while let Some(tasks) = next.take() {
        tasks.into_iter().for_each(drop_catching);
        if is_outermost == Ok(true) {
            let added = DROPPING.try_with(|dropping| dropping.borrow_mut().as_mut().map(mem::take));
            next = added.ok().flatten().filter(|added| !added.is_empty());
        }
    }
    if is_outermost == Ok(true) {
        let _on_an_ending_thread = DROPPING.try_with(|dropping| dropping.borrow_mut().take());
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meta = self.meta();
        f.debug_struct("Task")
            .field("name", &meta.name)
            .field("location", &format_args!("{}", meta.location))
            .finish_non_exhaustive()
    }
}

/// Conversion into a [`Task`]: implemented by every `Send + 'static` future whose output is a [`TaskOutput`], and by
/// `Task` itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be run as a task",
    label = "not a task",
    note = "a task is a `Send + 'static` future whose output is `()` or `Result<(), E>`, or a `postlude::Task`",
    note = "move what the future needs into it (`async move`), and end it with `Ok(())` or `()`; \
            for a blocking closure, use `Task::blocking`"
)]
pub trait IntoTask {
    /// Converts the value into a task.
    #[track_caller]
    fn into_task(self) -> Task;
}

impl IntoTask for Task {
    fn into_task(self) -> Task {
        self
    }
}

impl<F> IntoTask for F
where
    F: Future + Send + 'static,
    F::Output: TaskOutput,
{
    #[track_caller]
    fn into_task(self) -> Task {
        Task::new(self)
    }
}
