//! Tasks that fail, and are tried again.

use postlude::{RetryPolicy, Task, TaskId, TaskRegistry, TaskState, attempt};

use super::{Journal, SECOND, until};

pub(crate) fn each_second() -> RetryPolicy {
    RetryPolicy::constant(SECOND).attempts(4)
}

/// Fails until its `last` attempt.
pub(crate) fn succeeds_at(last: u32, policy: RetryPolicy, journal: &Journal) -> Task {
    let journal = journal.clone();
    Task::retrying(policy, move || {
        let journal = journal.clone();
        async move {
            journal.note(format!("attempt {}", attempt()));
            if attempt() < last { Err(format!("attempt {}", attempt())) } else { Ok(()) }
        }
    })
}

pub(crate) fn never() -> Task {
    succeeds_at(u32::MAX, each_second(), &Journal::default())
}

/// Waits until the task is between two attempts.
pub(crate) async fn until_retrying(registry: &TaskRegistry, id: TaskId) {
    let is_retrying = |task: &postlude::TaskInfo| task.id == id && task.state == TaskState::Retrying;
    until(|| registry.tasks().iter().any(is_retrying)).await;
}
