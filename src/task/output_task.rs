//! Tasks whose output somebody waits for.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use crate::{
    model::{BoxError, Priority, TaskKey, TaskName},
    task::Task,
    util::loom::Mutex,
};

/// Where a task leaves its output for its handle.
pub(crate) type OutputSlot<T> = Arc<Mutex<Option<T>>>;

/// A task whose output is kept for its handle: see
/// [`TaskRegistry::spawn_with_output`](crate::TaskRegistry::spawn_with_output).
///
/// A plain future can be spawned, too. This type gives it a name and limits, as [`Task`] does, and takes closures.
///
/// ```
/// use std::time::Duration;
/// use postlude::{OutputTask, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let count = OutputTask::blocking(|| Ok::<_, std::io::Error>(std::fs::read("/dev/null")?.len()));
/// let handle = registry.spawn_with_output(count.named("count").timeout(Duration::from_secs(10)));
/// assert_eq!(handle.await.unwrap(), 0);
/// # }
/// ```
#[must_use = "a task does nothing until it is spawned"]
pub struct OutputTask<T> {
    pub(crate) task: Task,
    pub(crate) output: OutputSlot<T>,
}

impl<T: Send + 'static> OutputTask<T> {
    /// A task that polls `future` to its end: see [`Task::new`].
    #[track_caller]
    pub fn new<F, E>(future: F) -> Self
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        Self::made(|slot| {
            Task::new(async move {
                let output = future.await?;
                *slot.lock() = Some(output);
                Ok::<(), E>(())
            })
        })
    }

    /// A task that calls `closure` on one of tokio's blocking threads: see [`Task::blocking`].
    #[track_caller]
    pub fn blocking<F, E>(closure: F) -> Self
    where
        F: FnOnce() -> Result<T, E> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        Self::made(|slot| Task::blocking(move || closure().map(|output| *slot.lock() = Some(output))))
    }

    /// A task that calls `closure`, which computes for long, on a thread of its own: see [`Task::cpu`].
    #[track_caller]
    pub fn cpu<F, E>(closure: F) -> Self
    where
        F: FnOnce() -> Result<T, E> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        Self::made(|slot| Task::cpu(move || closure().map(|output| *slot.lock() = Some(output))))
    }

    /// Names the task: see [`Task::named`].
    pub fn named(self, name: impl Into<TaskName>) -> Self {
        Self { task: self.task.named(name), ..self }
    }

    /// Limits how long the task runs: see [`Task::timeout`].
    pub fn timeout(self, limit: Duration) -> Self {
        Self { task: self.task.timeout(limit), ..self }
    }

    /// Discards the task if it has not started in time: see [`Task::expires_after`].
    pub fn expires_after(self, wait: Duration) -> Self {
        Self { task: self.task.expires_after(wait), ..self }
    }

    /// Delays the start of the task: see [`Task::delay`].
    pub fn delay(self, delay: Duration) -> Self {
        Self { task: self.task.delay(delay), ..self }
    }

    /// Gives the task a key, by which it can be limited: see [`Task::key`]. It can't be [unique](Task::unique), because
    /// the output of a task that another one stands for would never come.
    pub fn key(self, key: impl Into<TaskKey>) -> Self {
        Self { task: self.task.key(key), ..self }
    }

    /// Sets the priority of the task: see [`Task::priority`].
    pub fn priority(self, priority: Priority) -> Self {
        Self { task: self.task.priority(priority), ..self }
    }

    #[track_caller]
    fn made(task: impl FnOnce(OutputSlot<T>) -> Task) -> Self {
        let output = OutputSlot::default();
        let location = std::panic::Location::caller();
        Self { task: Task::made_at(location, task(Arc::clone(&output))), output }
    }
}

impl<T> fmt::Debug for OutputTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OutputTask").field(&self.task).finish()
    }
}

/// Conversion into an [`OutputTask`]: implemented by every `Send + 'static` future whose output is a `Result<T, E>`,
/// and by `OutputTask` itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be run as a task with an output",
    label = "not a task with an output",
    note = "it has to be a `Send + 'static` future whose output is a `Result<T, E>`, or a `postlude::OutputTask`",
    note = "end a block that can't fail with `Ok::<_, std::convert::Infallible>(output)`"
)]
pub trait IntoOutputTask<T> {
    /// Converts the value into a task.
    #[track_caller]
    fn into_output_task(self) -> OutputTask<T>;
}

impl<T> IntoOutputTask<T> for OutputTask<T> {
    fn into_output_task(self) -> Self {
        self
    }
}

impl<F, T, E> IntoOutputTask<T> for F
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    #[track_caller]
    fn into_output_task(self) -> OutputTask<T> {
        OutputTask::new(self)
    }
}
