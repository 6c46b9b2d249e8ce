//! The work: what it is, where it was made, and the policy it carries.

use std::{
    fmt,
    future::Future,
    panic::Location,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tracing::Span;

use crate::{
    BoxError, Ending, Outcome, TaskId,
    run::{BoxedWork, Work},
};

pub(crate) const UNNAMED: &str = "unnamed";

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
    #[track_caller]
    pub fn blocking<F, T>(closure: F) -> Self
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        Self::from_record(Kind::Blocking, Call(Some(closure)))
    }

    /// Names the task, by a literal. Names become metric labels and appear in logs: keep their number small, and
    /// put no ids into them. An empty name counts as none: `unnamed`.
    pub fn named(mut self, name: &'static str) -> Self {
        self.meta_mut().name = if name.is_empty() { UNNAMED } else { name };
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
    pub fn name(&self) -> &'static str {
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
        let meta = Meta {
            id: TaskId::UNASSIGNED,
            name: UNNAMED,
            location: Location::caller(),
            added: None,
            span: None,
            policy: None,
            kind,
            started: false,
        };
        Self { work: Box::pin(Record { meta, future }) }
    }

    pub(crate) fn meta(&self) -> &Meta {
        self.work.meta()
    }

    fn meta_mut(&mut self) -> &mut Meta {
        self.work.as_mut().meta_mut()
    }

    fn policy_mut(&mut self) -> &mut Policy {
        self.meta_mut().policy.get_or_insert_default()
    }

    /// Gives the task its id and, if somebody listens, its span: made while the request's own span is open,
    /// and following from it.
    pub(crate) fn accept(&mut self, id: TaskId, now: Instant) {
        let meta = self.meta_mut();
        meta.id = id;
        meta.added = Some(now);
        let span = crate::events::task_span(id, meta.name);
        meta.span = (!span.is_disabled()).then(|| Box::new(span));
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

/// What a task may return: `()`, `Result<(), E>` of anything that is or becomes an error, and `!`, the type
/// of a loop without end.
///
/// ```
/// use std::time::Duration;
/// use postlude::TaskRegistry;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// registry.spawn(async { /* nothing to tell */ });
/// registry.spawn(async {
///     std::fs::read("/dev/null")?;
///     Ok::<(), std::io::Error>(())
/// });
/// let heartbeat = registry.spawn(async {
///     loop {
///         tokio::time::sleep(Duration::from_secs(1)).await;
///     }
/// });
/// # heartbeat.abort();
/// # registry.wait_idle().await;
/// # assert_eq!(registry.metrics().completed, 2);
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "a task can't return `{Self}`",
    label = "neither `()` nor `Result<(), E>`",
    note = "a task's result goes nowhere: end it with `Ok(())` or `()`, or drop it with `.map(drop)`; what it has \
            computed goes through a channel",
    note = "its error must be, or become, a `Box<dyn std::error::Error + Send + Sync>`"
)]
pub trait TaskOutput: Send + 'static {
    #[doc(hidden)]
    fn into_outcome(self) -> Outcome;
}

impl TaskOutput for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Completed
    }
}

impl<E> TaskOutput for Result<(), E>
where
    E: Into<BoxError> + Send + 'static,
{
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(()) => Outcome::Completed,
            Err(error) => Outcome::Failed(Arc::new(error.into())),
        }
    }
}

impl TaskOutput for <fn() -> ! as never::FnOutput>::Output {
    fn into_outcome(self) -> Outcome {
        self
    }
}

/// Names the type `!` on a stable compiler.
mod never {
    #[expect(unnameable_types, reason = "a detour to a type that has no name of its own")]
    pub trait FnOutput {
        type Output;
    }

    impl<R> FnOutput for fn() -> R {
        type Output = R;
    }
}

/// Where a task's work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Async,
    Blocking,
}

pub(crate) type Condition = Box<dyn Fn(&Ending) -> bool + Send>;

/// What only some tasks carry, so that the others pay one pointer for it.
#[derive(Default)]
pub(crate) struct Policy {
    pub(crate) timeout: Option<Duration>,
    pub(crate) when: Option<Condition>,
}

/// What tells a task from another, in lists, logs and reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) id: TaskId,
    pub(crate) name: &'static str,
    pub(crate) location: &'static Location<'static>,
    pub(crate) added: Instant,
}

/// What is known of a task besides its work.
pub(crate) struct Meta {
    pub(crate) id: TaskId,
    pub(crate) name: &'static str,
    pub(crate) location: &'static Location<'static>,
    pub(crate) added: Option<Instant>,
    pub(crate) span: Option<Box<Span>>,
    pub(crate) policy: Option<Box<Policy>>,
    pub(crate) kind: Kind,
    pub(crate) started: bool,
}

impl Meta {
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            id: self.id,
            name: self.name,
            location: self.location,
            added: self.added.unwrap_or_else(Instant::now),
        }
    }
}

pin_project! {
    /// A task's one allocation: what is known of it, and its work.
    pub(crate) struct Record<F> {
        pub(crate) meta: Meta,
        #[pin]
        pub(crate) future: F,
    }
}

impl<F> Work for Record<F>
where
    F: Future + Send,
    F::Output: TaskOutput,
{
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(self: Pin<&mut Self>) -> &mut Meta {
        self.project().meta
    }

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        self.project().future.poll(context).map(TaskOutput::into_outcome)
    }
}

/// A blocking closure as a future that is ready at its first poll, which takes as long as the closure takes.
struct Call<F>(Option<F>);

impl<F> Unpin for Call<F> {}

impl<F, T> Future for Call<F>
where
    F: FnOnce() -> T,
{
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<T> {
        match self.0.take() {
            Some(closure) => Poll::Ready(closure()),
            None => Poll::Pending,
        }
    }
}
