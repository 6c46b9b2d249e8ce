//! The work: what it is, where it was made, and the policy it carries.

pub(crate) mod batch_signal;
pub(crate) mod exhausted;
mod output;
mod rejected;
pub(crate) mod work;

pub(crate) use self::output::IntoOutcome;
pub use self::{
    output::TaskOutput,
    rejected::{Rejected, RejectedItem},
};

use std::{cell::RefCell, fmt, future::Future, mem, panic::Location, sync::Arc, time::Duration};

#[cfg(feature = "http")]
use crate::model::Ending;
use crate::{
    model::{Priority, RetryPolicy, TaskId, TaskName},
    task::{
        batch_signal::{BatchGuard, BatchSignal},
        work::{BoxedWork, Call, Kind, Meta, Policy, Record, Source},
    },
    util::panic::drop_catching,
};

/// One unit of work: a future or a blocking closure, its name, its place in the source and its policy.
///
/// A bare future is a task too: [`TaskSet::add`](crate::TaskSet::add) and
/// [`TaskRegistry::spawn`](crate::TaskRegistry::spawn) take either.
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
/// A task does nothing by itself: dropped without being added, it is gone, like any future.
#[must_use = "a task does nothing until it is added to a set or spawned"]
pub struct Task {
    pub(crate) work: BoxedWork,
}

impl Task {
    /// A task that polls `future` to its end.
    ///
    /// An `async` block with `?` in it needs to be told its error: end it with `Ok::<(), postlude::BoxError>(())`.
    ///
    /// The future should yield now and then, as any future should: one that does not can't be timed out or
    /// aborted, only given up. For work that blocks a thread there is [`Task::blocking`].
    #[track_caller]
    pub fn new<F>(future: F) -> Self
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput,
    {
        Self::from_record(Kind::Async, future)
    }

    /// A task that calls `closure` on one of tokio's threads for blocking work.
    ///
    /// At most [`max_blocking`](crate::TaskRegistryBuilder::max_blocking) of them run at a time. A closure
    /// can't be stopped from outside: when it times out or is aborted, its outcome is counted at once and
    /// its set goes on, while the closure runs to its end; it can ask [`cancellation()`](crate::cancellation)
    /// and end by itself.
    ///
    /// A closure holds its permit while it waits for another blocking task. If as many as the limit allows do so, all wait
    /// for ever.
    #[track_caller]
    pub fn blocking<F, T>(closure: F) -> Self
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        Self::from_record(Kind::Blocking, Call(Some(closure)))
    }

    /// A task that calls `closure` on a thread of its own, for work that keeps a processor busy.
    ///
    /// At most [`max_cpu`](crate::TaskRegistryBuilder::max_cpu) of them run at a time: by default as many as there are
    /// cores. The others wait, by [priority](Self::priority). They have permits of their own, so a burst of them delays
    /// neither async nor blocking tasks. [The guide](crate::guide::work) compares the three kinds.
    ///
    /// The thread is one of tokio's threads for blocking work, and runs nothing else until the closure returns. Like a
    /// [blocking](Self::blocking) closure, it can't be stopped from outside, can ask
    /// [`cancellation()`](crate::cancellation) to end by itself, and holds up the end of the runtime. What it does with
    /// rayon's parallel iterators runs on rayon's own pool: get the token before, because the threads of that pool do
    /// not belong to the task.
    ///
    /// A CPU task that waits for another CPU task may wait for ever, if all permits are held by tasks that wait.
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
    #[track_caller]
    pub fn cpu<F, T>(closure: F) -> Self
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        Self::from_record(Kind::Cpu, Call(Some(closure)))
    }

    /// A task that is tried again when it fails: `factory` makes the future of each attempt, and `policy` says when the
    /// next one follows.
    ///
    /// An attempt that returns an error or takes longer than the [`timeout`](Self::timeout) is tried again, one that panics
    /// only [if asked](RetryPolicy::retry_panics). Between two attempts the task holds no permit, and the next task of
    /// its set runs: the retry comes by itself. (In a set that [stops on failure](crate::TaskSet::stop_on_failure) the
    /// others wait.)
    /// A task that has used up its attempts is kept as a [dead letter](crate::TaskRegistry::dead_letters).
    ///
    /// The factory should only make the future, and leave the work to that. It is called in the task, so
    /// [`attempt()`](crate::attempt) tells which attempt it is for; its panics count as the attempt's.
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

    /// The same for a [blocking](Self::blocking) closure, which is called anew for each attempt.
    ///
    /// A closure that has timed out can't be stopped and may still be running when the next attempt calls it: hence
    /// `Fn + Sync`.
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

    /// Names the task, by a literal. Names become metric labels and appear in logs: keep their number small, and
    /// put no ids into them. An empty name counts as none: `unnamed`.
    pub fn named(mut self, name: impl Into<TaskName>) -> Self {
        self.meta_mut().name = name.into();
        self
    }

    /// Ends an attempt that takes longer than `limit` as [`Outcome::TimedOut`], in place of the registry's
    /// [`default_timeout`](crate::TaskRegistryBuilder::default_timeout).
    ///
    /// Waiting for a turn does not count. A limit of zero is over before the first poll: the work never
    /// begins. `Duration::MAX` is no limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.policy_mut().timeout = Some(limit);
        self
    }

    /// Starts the task this much later than its turn: after it was spawned, or, in a set, after the response has left and
    /// the tasks before it have ended.
    ///
    /// While it waits it holds no permit, and the next task of its set runs. (In a set that
    /// [stops on failure](crate::TaskSet::stop_on_failure) the others wait.) A shutdown does not wait for a task that is due
    /// after its deadline. `Duration::MAX` never comes.
    pub fn delay(mut self, duration: Duration) -> Self {
        self.policy_mut().delay = Some(duration);
        self
    }

    /// Where the task has to wait for its turn, it goes before those of a lower [`Priority`]. Default:
    /// [`Priority::Normal`].
    ///
    /// It has an effect only where tasks wait: for the limit on their name, on async, blocking or CPU tasks, or
    /// for their rate. Tasks of a set keep their order among themselves.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.meta_mut().priority = priority;
        self
    }

    /// Runs the task only if `condition` says so of how the request ended; otherwise it ends as
    /// [`DiscardReason::Ending`](crate::DiscardReason::Ending).
    ///
    /// It is asked when the task's turn has come, after the layer's own
    /// [`drain_when`](crate::TaskLayer::drain_when). Where there is no request (a spawned task, a set that
    /// was drained by hand), there is no ending, and the task runs. A condition that panics is logged and
    /// counted, and the task runs.
    #[cfg(feature = "http")]
    pub fn when(mut self, condition: impl Fn(&Ending) -> bool + Send + 'static) -> Self {
        self.policy_mut().when = Some(Box::new(condition));
        self
    }

    /// The name it was given, or `unnamed`.
    #[must_use]
    pub fn name(&self) -> TaskName {
        self.meta().name
    }

    /// Where it was made.
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
        let policy = Policy { retry: Some(retry), ..Policy::default() };
        let mut meta = Meta::new(kind);
        meta.policy = Some(Box::new(policy));
        Self { work: Box::pin(Source { meta, make }) }
    }

    #[inline]
    pub(crate) fn meta(&self) -> &Meta {
        self.work.meta()
    }

    /// A dead letter, to be tried again from the start.
    pub(crate) fn replay(source: BoxedWork, dead: TaskId) -> Self {
        let mut task = Self { work: source };
        task.meta_mut().started = false;
        let policy = task.policy_mut();
        policy.replay_of = Some(dead);
        task
    }

    /// A task with another location than the one that made it.
    pub(crate) fn made_at(location: &'static Location<'static>, task: impl IntoTask) -> Self {
        let mut task = task.into_task();
        task.meta_mut().location = location;
        task
    }

    #[inline]
    pub(crate) fn meta_mut(&mut self) -> &mut Meta {
        self.work.as_mut().meta_mut()
    }

    fn policy_mut(&mut self) -> &mut Policy {
        self.meta_mut().policy.get_or_insert_default()
    }

    /// Makes the task of a batch wait for more items, until its signal is ready.
    pub(crate) fn batched(mut self, at_most: Duration, signal: Arc<BatchSignal>) -> Self {
        let policy = self.policy_mut();
        policy.delay = Some(at_most);
        policy.batched = Some(BatchGuard(signal));
        self
    }
}

/// Drops tasks one by one, because the drop of each may panic. A task may hold the last handle of another set, whose tasks
/// are then dropped, too: they are dropped here, one after another, and not each inside the drop of the one before.
pub(crate) fn drop_tasks(tasks: Vec<Task>) {
    thread_local! {
        static DROPPING: RefCell<Option<Vec<Task>>> = const { RefCell::new(None) };
    }

    if tasks.is_empty() {
        return;
    }
    let mut tasks = Some(tasks);
    // On a thread that is ending, they are dropped here and now.
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

/// What becomes a [`Task`]: every future that is `Send + 'static` and whose output is a [`TaskOutput`], and
/// `Task` itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be run as a task",
    label = "not a task",
    note = "a task is a `Send + 'static` future whose output is `()` or `Result<(), E>`, or a `postlude::Task`",
    note = "move what it needs into it (`async move`), and end it with `Ok(())` or `()`; \
            for a blocking closure there is `Task::blocking`"
)]
pub trait IntoTask {
    /// Makes the task.
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
