//! Where the calling code runs: in a request, in a task of a set, in a spawned task, or in none of them.

use std::{cell::Cell, mem, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{IntoTask, RejectReason, Rejected, TaskId, TaskRegistry, TaskSet, apart::Apart, line::Line};

/// What the calling code belongs to.
#[derive(Clone, Default)]
pub(crate) enum Scope {
    #[default]
    None,
    /// The handling of a request.
    Request(Arc<Line>),
    /// A task of a set.
    InSet(Arc<Line>),
    /// A spawned task.
    Spawned(TaskRegistry),
    /// Work of a task that runs apart from it.
    Apart(Arc<Apart>),
}

/// A scope, and the task that runs in it, if one does.
#[derive(Clone)]
pub(crate) struct Here {
    scope: Scope,
    task: TaskId,
}

thread_local! {
    static CURRENT: (Cell<Scope>, Cell<TaskId>) = const { (Cell::new(Scope::None), Cell::new(TaskId::UNASSIGNED)) };
}

impl Here {
    pub(crate) fn current() -> Self {
        // A thread that is ending has no current scope any more.
        let current = CURRENT.try_with(|(current, task)| {
            let scope = current.take();
            let clone = scope.clone();
            current.set(scope);
            Self { scope: clone, task: task.get() }
        });
        current.unwrap_or(Self { scope: Scope::None, task: TaskId::UNASSIGNED })
    }

    /// The line to which is added here.
    fn into_line(self) -> Option<Arc<Line>> {
        match self.scope {
            Scope::Request(line) | Scope::InSet(line) => Some(line),
            Scope::Apart(apart) => apart.here.clone().into_line(),
            Scope::Spawned(_) | Scope::None => None,
        }
    }

    fn token(&self) -> CancellationToken {
        match &self.scope {
            Scope::InSet(line) => line.registry.inner.token_of(self.task),
            Scope::Spawned(registry) => registry.inner.token_of(self.task),
            Scope::Apart(apart) if apart.is_given_up() => {
                let token = CancellationToken::new();
                token.cancel();
                token
            }
            Scope::Apart(apart) => apart.here.token(),
            Scope::Request(_) | Scope::None => CancellationToken::new(),
        }
    }
}

/// Makes a scope the current one, and a task the one that runs, for as long as it lives. The scope is moved there and
/// back, not cloned: this is done at every poll.
#[must_use]
pub(crate) struct Entered<'a> {
    scope: &'a mut Scope,
    outer_task: TaskId,
}

impl<'a> Entered<'a> {
    #[inline]
    pub(crate) fn new(scope: &'a mut Scope, task: TaskId) -> Self {
        let outer_task = swap(scope, task);
        Self { scope, outer_task }
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        swap(self.scope, self.outer_task);
    }
}

/// Runs `inside` with `scope` as the current one, and `task` as the task that runs.
#[inline]
pub(crate) fn enter<R>(scope: &mut Scope, task: TaskId, inside: impl FnOnce() -> R) -> R {
    let _entered = Entered::new(scope, task);
    inside()
}

#[inline]
fn swap(scope: &mut Scope, task: TaskId) -> TaskId {
    // On a thread that is ending there is nothing to swap with, both times.
    let swapped = CURRENT.try_with(|(current, current_task)| {
        *scope = current.replace(mem::take(scope));
        current_task.replace(task)
    });
    swapped.unwrap_or(task)
}

/// Adds a task to the set of the request that is being handled, or of the task that is running.
///
/// It is [`TaskSet::current`] and [`TaskSet::try_add`] in one, for code far from the handler's arguments.
///
/// # Errors
/// Gives the task back if there is no such set: outside a [`TaskLayer`](crate::TaskLayer), in a tokio task
/// that the handler spawned (move a clone of the [`TaskSet`] there), in a task spawned on the registry; or
/// for a reason of [`TaskSet::try_add`].
///
/// ```
/// use postlude::{TaskRegistry, after};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let answer = registry.set().run_after(async {
///     after(async { /* send the mail */ }).expect("a set is current here");
///     "thank you"
/// });
/// assert_eq!(answer.await, "thank you");
/// registry.wait_idle().await;
/// assert_eq!(registry.metrics().completed, 1);
/// assert!(after(async {}).is_err(), "no request is being handled here");
/// # }
/// ```
#[track_caller]
pub fn after(task: impl IntoTask) -> Result<TaskId, Rejected> {
    let task = task.into_task();
    match Here::current().into_line() {
        Some(line) => line.offer(task),
        None => Err(Rejected::new(task, RejectReason::NoSet)),
    }
}

/// The cancellation token of the task in which it is called, async or blocking. It is cancelled when the
/// task times out, is aborted, or is still running when a shutdown has run out of time.
///
/// An async task that yields needs it only to clean up: it is dropped anyway. A blocking closure can't be
/// stopped from outside; this is how it learns that nobody waits for it any more.
///
/// Outside a task the token is one that nobody cancels; in a tokio task or a thread that a task has started
/// by itself, too, so get the token before and move it there.
///
/// ```
/// use std::time::Duration;
/// use postlude::{Outcome, Task, TaskRegistry, cancellation};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let crunch = Task::blocking(|| {
///     let token = cancellation();
///     while !token.is_cancelled() {
///         std::thread::yield_now(); // a slice of the work
///     }
/// });
/// let outcome = registry.spawn(crunch.timeout(Duration::from_millis(10))).await;
/// assert!(matches!(outcome, Outcome::TimedOut(_)));
/// # }
/// ```
#[must_use]
pub fn cancellation() -> CancellationToken {
    Here::current().token()
}

/// The attempt in which this is called, from 1; 0 outside a task.
///
/// It is more than 1 only in a [retrying](crate::Task::retrying) task.
///
/// ```
/// use postlude::{RetryPolicy, Task, TaskRegistry, attempt};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let flaky = Task::retrying(RetryPolicy::default(), || async {
///     if attempt() == 1 { Err("once more") } else { Ok(()) }
/// });
/// assert!(registry.spawn(flaky).await.is_completed());
/// assert_eq!(attempt(), 0);
/// # }
/// ```
#[must_use]
pub fn attempt() -> u32 {
    let here = Here::current();
    let attempt = match here.scope {
        Scope::InSet(line) => line.with_live(here.task, |live| live.attempt()),
        Scope::Spawned(registry) => registry.inner.with_live(here.task, |live| live.attempt()),
        Scope::Apart(apart) => Some(apart.attempt),
        Scope::Request(_) | Scope::None => None,
    };
    attempt.unwrap_or(0)
}

impl TaskSet {
    /// The set of the request that is being handled, or of the task that is running.
    ///
    /// It is known in the request's own tokio task: in the handler, its extractors, the layers and services
    /// inside the [`TaskLayer`](crate::TaskLayer), the stream of a response's body; and in tasks of a set,
    /// async or blocking. A tokio task that one of these has spawned knows of none: move a clone there.
    #[must_use]
    pub fn current() -> Option<Self> {
        Here::current().into_line().map(Self::of)
    }
}
