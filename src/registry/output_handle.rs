//! `spawn_with_output`, and its handle.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    model::{Outcome, TaskId, TaskName},
    registry::{TaskRegistry, handle::TaskHandle},
    task::output_task::{IntoOutputTask, OutputSlot},
};

impl TaskRegistry {
    /// Starts a task now, and keeps its output for the handle. Like [`spawn`](Self::spawn), this never fails and never
    /// blocks.
    ///
    /// An error that the task returns is its outcome: it is logged, counted and reported, and the handle returns
    /// [`Outcome::Failed`]. Give the task a name and limits with an [`OutputTask`](crate::OutputTask).
    ///
    /// ```
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let handle = registry.spawn_with_output(async {
    ///     let text = String::from_utf8(b"42".to_vec())?;
    ///     Ok::<i32, postlude::BoxError>(text.parse()?)
    /// });
    /// match handle.await {
    ///     Ok(number) => assert_eq!(number, 42),
    ///     Err(outcome) => println!("no number: the task {outcome}"),
    /// }
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_with_output<T>(&self, work: impl IntoOutputTask<T>) -> OutputHandle<T> {
        let work = work.into_output_task();
        OutputHandle { handle: self.spawn(work.task), output: work.output }
    }
}

/// The handle of a task whose output is kept: see [`TaskRegistry::spawn_with_output`]. Awaiting it returns the output,
/// or the [`Outcome`] of a task that did not complete.
///
/// The handle is optional. Dropping it does not affect the task, whose output is then dropped with it.
///
/// # Cancel safety
/// The handle is cancel safe: it can be awaited by reference (`&mut handle`), dropped at any time, and awaited again.
/// The output is returned once. If the handle is polled again after that, it returns `Err(Outcome::Completed)`.
pub struct OutputHandle<T> {
    handle: TaskHandle,
    output: OutputSlot<T>,
}

impl<T> OutputHandle<T> {
    /// The task's id.
    #[must_use]
    pub const fn id(&self) -> TaskId {
        self.handle.id()
    }

    /// The task's name.
    #[must_use]
    pub const fn name(&self) -> TaskName {
        self.handle.name()
    }

    /// Aborts the task: see [`TaskRegistry::abort`]. Returns `false` if it had already ended.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn abort(&self) -> bool {
        self.handle.abort()
    }

    /// Whether the task has its outcome.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Future for OutputHandle<T> {
    type Output = Result<T, Outcome>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let outcome = ready!(Pin::new(&mut this.handle).poll(context));
        // A task that was ended while it returned its output did not complete: the output is not handed out.
        let output = if outcome.is_completed() { this.output.lock().take() } else { None };
        Poll::Ready(output.ok_or(outcome))
    }
}

impl<T> fmt::Debug for OutputHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OutputHandle").field(&self.handle).finish()
    }
}
