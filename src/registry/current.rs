//! Functions for code that runs in a request or in a task.

use tokio_util::sync::CancellationToken;

use crate::{
    engine::context,
    model::{RejectReason, TaskId},
    task::{IntoTask, Rejected},
};

/// Adds a task to the current set: of the request that is being handled, or of the task that is running.
///
/// A shorthand for [`TaskSet::current`](crate::TaskSet::current) and [`TaskSet::try_add`](crate::TaskSet::try_add), for
/// code that has no access to the handler's arguments.
///
/// # Errors
/// Returns the task if no set is current: outside a [`TaskLayer`], in a tokio task that the handler has spawned (move a
/// clone of the [`TaskSet`](crate::TaskSet) there), and in a task spawned on the registry. Also returns the task for
/// the reasons of [`TaskSet::try_add`](crate::TaskSet::try_add).
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
/// assert!(after(async {}).is_err(), "no set is current here");
/// # }
/// ```
///
#[cfg_attr(feature = "http", doc = "[`TaskLayer`]: crate::TaskLayer")]
#[cfg_attr(not(feature = "http"), doc = "[`TaskLayer`]: crate#features")]
#[doc(alias = "background")]
#[doc(alias = "fire and forget")]
#[doc(alias = "waitUntil")]
#[track_caller]
pub fn after(task: impl IntoTask) -> Result<TaskId, Rejected> {
    let task = task.into_task();
    match context::current().0.queue() {
        Some(queue) => queue.offer(task),
        None => Err(Rejected::new(task, RejectReason::NoSet)),
    }
}

/// The cancellation token of the current task. It is cancelled when the task times out, is aborted, or is still running
/// at the deadline of a shutdown.
///
/// An async task that yields is dropped anyway, and needs the token only to clean up. A blocking closure can't be
/// stopped from outside, and should check the token to end early.
///
/// Outside a task, the token is never cancelled. This includes tokio tasks and threads that a task has started: get the
/// token before, and move it there.
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
    let (context, task) = context::current();
    context.token(task)
}

/// The number of the current attempt, from 1; 0 outside a task.
///
/// The number is greater than 1 only in a [retrying](crate::Task::retrying) task.
///
/// ```
/// use postlude::{RetryPolicy, Task, TaskRegistry, attempt};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let flaky = Task::retrying(RetryPolicy::default(), || async {
///     if attempt() == 1 { Err("try again") } else { Ok(()) }
/// });
/// assert!(registry.spawn(flaky).await.is_completed());
/// assert_eq!(attempt(), 0);
/// # }
/// ```
#[must_use]
pub fn attempt() -> u32 {
    let (context, task) = context::current();
    context.attempt(task)
}
