//! `TaskReportBuilder`

use std::{panic::Location, sync::Arc, time::Duration};

use super::{in_set, unreal_task};
use crate::{
    model::{BoxError, Outcome, TaskId, TaskName, TaskProfile, TaskProgress, TaskReport},
    util::clock::Timestamp,
};

/// Makes a [`TaskReport`], to test a failure hook or an observer.
///
/// ```
/// use postlude::{TaskReport, testing::TaskReportBuilder};
///
/// fn page(report: &TaskReport) -> Option<String> {
///     report.outcome.is_loss().then(|| format!("{}: {}", report.name, report.outcome))
/// }
///
/// let refused = TaskReportBuilder::new("welcome_mail").failed("connection refused").build();
/// assert_eq!(page(&refused).unwrap(), "welcome_mail: failed: connection refused");
/// assert_eq!(page(&TaskReportBuilder::new("welcome_mail").build()), None);
/// ```
///
/// # Default
/// A spawned task with an id of its own that has just completed, at its first attempt, after no time. Its location is
/// that of the call of [`new`](Self::new).
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct TaskReportBuilder(TaskReport);

impl TaskReportBuilder {
    /// The report of a task with this name.
    #[track_caller]
    pub fn new(name: impl Into<TaskName>) -> Self {
        let task = unreal_task(name.into(), Location::caller());
        Self(TaskReport { attempt: 1, ..task.report(Outcome::Completed, Timestamp::now()) })
    }

    /// How the task ended. For a panic, see [`panicked`](super::panicked). A task that was discarded has made no
    /// attempt.
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        if matches!(outcome, Outcome::Discarded(_)) {
            self.0.attempt = 0;
        }
        self.0.outcome = outcome;
        self
    }

    /// The task has failed with this error.
    pub fn failed(self, error: impl Into<BoxError>) -> Self {
        self.outcome(Outcome::Failed(error.into().into()))
    }

    /// The attempt that decided the outcome.
    pub fn attempt(mut self, number: u32) -> Self {
        self.0.attempt = number;
        self
    }

    /// The task was added to a set.
    pub fn in_set(mut self) -> Self {
        self.0.id = in_set(self.0.id);
        self.0.set = self.0.id.set();
        self
    }

    /// The task was a replay of this dead letter.
    pub fn replay_of(mut self, id: TaskId) -> Self {
        self.0.replay_of = Some(id);
        self
    }

    /// How long it waited for its start.
    pub fn queued_for(mut self, wait: Duration) -> Self {
        self.0.queued_for = wait;
        self
    }

    /// How long the attempt ran.
    pub fn ran_for(mut self, time: Duration) -> Self {
        self.0.ran_for = time;
        self
    }

    /// The error of the admission filter, for a task that it refused.
    pub fn refusal(mut self, error: impl Into<BoxError>) -> Self {
        self.0.refusal = Some(error.into().into());
        self
    }

    /// How far the attempt had come: `done` of `total` steps, and a message, which may be empty.
    pub fn progress(mut self, done: u64, total: u64, message: &str) -> Self {
        let message = (!message.is_empty()).then(|| message.into());
        self.0.progress = Some(Arc::new(TaskProgress { done, total, message }));
        self
    }

    /// What was measured of the task.
    ///
    /// ```
    /// use postlude::{TaskProfile, testing::TaskReportBuilder};
    ///
    /// let mut profile = TaskProfile::default();
    /// profile.slow_polls = 1;
    /// let report = TaskReportBuilder::new("report").profile(profile).build();
    /// assert_eq!(report.profile.unwrap().slow_polls, 1);
    /// ```
    pub fn profile(mut self, profile: TaskProfile) -> Self {
        self.0.profile = Some(Box::new(profile));
        self
    }

    /// The report.
    #[must_use]
    pub fn build(self) -> TaskReport {
        self.0
    }
}
