//! `progress`: what a task says of how far it has come.

use std::{fmt, sync::Arc};

use crate::{
    engine::context::{self, TaskContext},
    model::{TaskId, TaskProgress},
};

/// The longest message of a progress, in bytes. What lies beyond is cut off, because the history keeps it.
const MAX_MESSAGE: usize = 256;

/// The progress of the current task, which the task reports. The last report is in
/// [`TaskInfo::progress`](crate::TaskInfo::progress) while the task is live, and in
/// [`TaskReport::progress`](crate::TaskReport::progress) after its end.
///
/// Each attempt of a [retrying](crate::Task::retrying) task begins without a progress. Outside a task, and after the
/// task has ended, a report has no effect. In tokio tasks and threads that a task has started there is no current task:
/// get the progress before, and move it there. A task that does not call this function pays nothing for it.
///
/// ```
/// use postlude::{TaskRegistry, TaskStatus, progress};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let import = registry.spawn(async {
///     for page in 1..=3 {
///         // .. import 30 rows
///         progress().set(30 * page, 90).message(format!("page {page}"));
///     }
/// });
/// let id = import.id();
/// import.await;
/// let Some(TaskStatus::Ended(report)) = registry.get(id) else { panic!("it has ended") };
/// assert_eq!(report.progress.unwrap().to_string(), "90 of 90, page 3");
/// # }
/// ```
#[must_use = "a progress does nothing until something is reported to it"]
pub fn progress() -> Progress {
    let (context, task) = context::current();
    Progress { context, task }
}

/// Reports the progress of a task: see [`progress`].
#[derive(Clone)]
pub struct Progress {
    context: TaskContext,
    task: TaskId,
}

impl Progress {
    /// Reports that `done` of `total` steps are done, in any unit. A total of 0 is not known.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn set(&self, done: u64, total: u64) -> &Self {
        self.change(|progress| (progress.done, progress.total) = (done, total));
        self
    }

    /// Reports a text, such as `page 3`, of which the first 256 bytes are kept. Lists and the history show it to
    /// whoever may read them: keep secrets out of it.
    pub fn message(&self, text: impl Into<String>) -> &Self {
        let mut text = text.into();
        let end = (0..=MAX_MESSAGE.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        let text = text.into_boxed_str();
        self.change(|progress| progress.message = Some(text));
        self
    }

    /// What the current attempt has reported so far; `None` if that is nothing, or if the task has ended. Any thread
    /// may ask, with a clone of the progress.
    ///
    /// ```
    /// use postlude::{TaskRegistry, progress};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// registry.spawn(async {
    ///     progress().set(1, 2);
    ///     assert_eq!(progress().get().unwrap().to_string(), "1 of 2");
    /// });
    /// assert_eq!(progress().get(), None, "outside a task");
    /// # registry.wait_idle().await;
    /// # assert_eq!(registry.metrics().completed, 1);
    /// # }
    /// ```
    #[must_use]
    pub fn get(&self) -> Option<Arc<TaskProgress>> {
        self.context.with_live(self.task, |live| live.progress())?
    }

    fn change(&self, change: impl FnOnce(&mut TaskProgress)) {
        self.context.with_live(self.task, |live| change(Arc::make_mut(live.progress_mut())));
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("task", &self.task).finish_non_exhaustive()
    }
}
