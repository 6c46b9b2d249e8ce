//! `TaskInfoBuilder`

use std::{panic::Location, time::Duration};

use super::{in_set, unreal_task};
use crate::{
    model::{TaskInfo, TaskName, TaskProfile, TaskState},
    util::clock::Timestamp,
};

/// Makes a [`TaskInfo`], to test an admission filter or an observer.
///
/// ```
/// use postlude::{BoxError, TaskInfo, testing::TaskInfoBuilder};
///
/// fn only_mail(task: &TaskInfo) -> Result<(), BoxError> {
///     if task.name == "mail" { Ok(()) } else { Err("maintenance".into()) }
/// }
///
/// assert!(only_mail(&TaskInfoBuilder::new("mail").build()).is_ok());
/// assert!(only_mail(&TaskInfoBuilder::new("report").build()).is_err());
/// ```
///
/// # Default
/// A spawned task with an id of its own that has just been added. Its location is that of the call of
/// [`new`](Self::new).
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct TaskInfoBuilder(TaskInfo);

impl TaskInfoBuilder {
    /// The info of a task with this name.
    #[track_caller]
    pub fn new(name: impl Into<TaskName>) -> Self {
        let now = Timestamp::now();
        let mut info = unreal_task(name.into(), Location::caller()).info(now);
        info.age = Duration::ZERO;
        Self(info)
    }

    /// The task was added to a set.
    pub fn in_set(mut self) -> Self {
        self.0.id = in_set(self.0.id);
        self.0.set = self.0.id.set();
        self
    }

    /// The time since the task was added.
    pub fn age(mut self, age: Duration) -> Self {
        self.0.age = age;
        self
    }

    /// The task runs its attempt `attempt`, since `since`.
    pub fn running(mut self, attempt: u32, since: Duration) -> Self {
        (self.0.state, self.0.attempt, self.0.running_for) = (TaskState::Running, attempt, Some(since));
        self
    }

    /// The attempt `attempt` has failed, and the next one is due in `due_in`.
    pub fn retrying(mut self, attempt: u32, due_in: Duration) -> Self {
        (self.0.state, self.0.attempt, self.0.due_in) = (TaskState::Retrying, attempt, Some(due_in));
        self
    }

    /// The name of the task is [paused](crate::TaskRegistry::pause).
    pub fn paused(mut self) -> Self {
        self.0.paused = true;
        self
    }

    /// What was measured of the task so far.
    pub fn profile(mut self, profile: TaskProfile) -> Self {
        self.0.profile = Some(Box::new(profile));
        self
    }

    /// The info.
    #[must_use]
    pub fn build(self) -> TaskInfo {
        self.0
    }
}
