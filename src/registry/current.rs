//! What code can ask that runs in a request or in a task.

use tokio_util::sync::CancellationToken;

use crate::{
    engine::context,
    model::{RejectReason, TaskId},
    task::{IntoTask, Rejected},
};

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
    match context::current().0.queue() {
        Some(queue) => queue.offer(task),
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
    let (context, task) = context::current();
    context.token(task)
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
    let (context, task) = context::current();
    context.attempt(task)
}
