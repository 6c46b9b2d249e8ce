//! Reports on tasks: live ones, ended ones, dead letters, and the report of a shutdown.

use std::{
    fmt,
    panic::Location,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    id::{SetId, TaskId},
    name::TaskName,
    outcome::Outcome,
    profile::TaskProfile,
};
use crate::util::escape::Escaped;

/// A live task, as listed by the registry. It holds nothing that the task has captured.
///
/// ```
/// use postlude::{Task, TaskRegistry, TaskState};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let tasks = registry.set();
/// tasks.add(Task::new(async {}).named("mail"));
/// let live = registry.tasks();
/// assert_eq!((live[0].name.as_str(), live[0].state), ("mail", TaskState::Pending));
/// # }
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskInfo {
    /// The task's id.
    pub id: TaskId,
    /// The task's name, or `unnamed`.
    pub name: TaskName,
    /// Where it was made.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::location"))]
    pub location: &'static Location<'static>,
    /// The set to which the task was added; `None` if it was spawned.
    pub set: Option<SetId>,
    /// The state of the task; in a [`ShutdownReport`], its state when it was lost.
    pub state: TaskState,
    /// The current or last attempt, from 1; 0 if the task has not started or is stuck.
    pub attempt: u32,
    /// The time since the task was added.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub age: Duration,
    /// How long the current attempt has been running; `None` if no attempt is running or the task is stuck.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::optional_seconds"))]
    pub running_for: Option<Duration>,
    /// The time until the next attempt is due, if the task waits for a time; `None` if it waits for a permit or for the
    /// tasks before it, or is running.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::optional_seconds"))]
    pub due_in: Option<Duration>,
    /// Whether the task does not start, or is not tried again, before its name is
    /// [resumed](crate::TaskRegistry::resume).
    pub paused: bool,
    /// The dead letter of which the task is a [replay](crate::DeadLetters::replay).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub replay_of: Option<TaskId>,
    /// What the task has [reported](crate::progress()) of how far it has come.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::util::serialize::shared", skip_serializing_if = "Option::is_none")
    )]
    pub progress: Option<Arc<TaskProgress>>,
    /// What was measured of the task so far; `None` if the registry does not
    /// [profile](crate::TaskRegistryBuilder::profile), or the task has not started or is stuck.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub profile: Option<Box<TaskProfile>>,
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paused = if self.paused { ", paused" } else { "" };
        let Self { id, name, location, state, age, .. } = self;
        write!(f, "task {id} `{name}` ({location}), {state}{paused}, {age:.1?} old")
    }
}

/// How far a task has come, as it [reported](crate::progress()).
///
/// Its `Display` says `40 of 90, page 3`. Control characters of the message are escaped there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskProgress {
    /// How many steps are done.
    pub done: u64,
    /// How many steps there are; 0 if that is not known.
    pub total: u64,
    /// The text that the task has reported last.
    pub message: Option<Box<str>>,
}

impl fmt::Display for TaskProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_counted = (self.done, self.total) != (0, 0);
        match self.total {
            _ if !is_counted => {}
            0 => write!(f, "{}", self.done)?,
            total => write!(f, "{} of {total}", self.done)?,
        }
        match &self.message {
            Some(message) if is_counted => write!(f, ", {}", Escaped(message)),
            Some(message) => Escaped(message).fmt(f),
            None => Ok(()),
        }
    }
}

/// The state of a task without an outcome, or of stuck work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TaskState {
    /// The task was added and has not started.
    Pending,
    /// An attempt is running.
    Running,
    /// An attempt has failed, and the next one has not started.
    Retrying,
    /// The outcome is counted, but the work still runs.
    Stuck,
}

impl TaskState {
    /// One lower-case word: `pending`, `running`, `retrying` or `stuck`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Stuck => "stuck",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The report of a task that has ended, or of a failed attempt that will be retried. Hooks and observers receive it,
/// and the registry keeps it as history.
///
/// It holds nothing that the task has captured: only its name, location, times and outcome.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskReport {
    /// The task's id.
    pub id: TaskId,
    /// Its name, `unnamed` if it was given none.
    pub name: TaskName,
    /// Where in the source the task was made.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::location"))]
    pub location: &'static Location<'static>,
    /// The set to which the task was added; `None` if it was spawned.
    pub set: Option<SetId>,
    /// The attempt that decided the outcome, from 1; 0 if the task never started.
    pub attempt: u32,
    /// The dead letter of which the task was a [replay](crate::DeadLetters::replay).
    pub replay_of: Option<TaskId>,
    /// The task with the same [key](crate::Task::unique) because of which this one was discarded: the live one that it
    /// joined, or the one that replaced it.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub duplicate_of: Option<TaskId>,
    /// The time from the add to the start of the first attempt, or to the end of a task that never started.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub queued_for: Duration,
    /// How long that attempt ran; zero if the task never started.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub ran_for: Duration,
    /// The time since the task ended; zero in a hook.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub ended_ago: Duration,
    /// The outcome.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub outcome: Outcome,
    /// The error of the registry's [admission filter](crate::TaskRegistryBuilder::admit), for a task that it refused.
    #[cfg_attr(
        feature = "serde",
        serde(
            rename = "error",
            serialize_with = "crate::model::outcome::refusal",
            skip_serializing_if = "Option::is_none"
        )
    )]
    pub refusal: Option<Arc<dyn std::error::Error + Send + Sync>>,
    /// The last [progress](crate::progress()) that the attempt has reported.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::util::serialize::shared", skip_serializing_if = "Option::is_none")
    )]
    pub progress: Option<Arc<TaskProgress>>,
    /// What was measured of the task, in all its attempts; `None` if the registry does not
    /// [profile](crate::TaskRegistryBuilder::profile), or the task never started.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub profile: Option<Box<TaskProfile>>,
}

/// The current knowledge about a task: see [`TaskRegistry::get`](crate::TaskRegistry::get).
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(untagged))]
#[non_exhaustive]
pub enum TaskStatus {
    /// The task has no outcome yet: its [state](TaskInfo::state) says whether it waits or runs.
    Live(TaskInfo),
    /// The task has its outcome.
    Ended(TaskReport),
}

impl TaskStatus {
    /// The task's id.
    #[must_use]
    pub const fn id(&self) -> TaskId {
        match self {
            Self::Live(task) => task.id,
            Self::Ended(report) => report.id,
        }
    }

    /// The task's name, or `unnamed`.
    #[must_use]
    pub const fn name(&self) -> TaskName {
        match self {
            Self::Live(task) => task.name,
            Self::Ended(report) => report.name,
        }
    }

    /// One lower-case word: the label of a [`TaskState`] or of an [`Outcome`].
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Live(task) => task.state.label(),
            Self::Ended(report) => report.outcome.label(),
        }
    }

    /// The outcome, if the task has ended.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Live(_) => None,
            Self::Ended(report) => Some(&report.outcome),
        }
    }
}

/// A task whose last attempt failed, panicked or timed out: see [`DeadLetters`](crate::DeadLetters).
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DeadLetter {
    /// The task's id.
    pub id: TaskId,
    /// The task's name, or `unnamed`.
    pub name: TaskName,
    /// Where in the source the task was made.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::location"))]
    pub location: &'static Location<'static>,
    /// The set to which the task was added; `None` if it was spawned.
    pub set: Option<SetId>,
    /// The dead letter of which the task was a replay.
    pub replay_of: Option<TaskId>,
    /// The attempts, the latest last; at most the last 32.
    pub attempts: Vec<Attempt>,
    /// Whether it can be replayed: only a [retrying](crate::Task::retrying) task can.
    pub is_replayable: bool,
}

/// One attempt of a task.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Attempt {
    /// The number of the attempt, from 1.
    pub number: u32,
    /// When the attempt ended, by the system's clock.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::since_1970"))]
    pub ended_at: SystemTime,
    /// How long the attempt ran.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub ran_for: Duration,
    /// The outcome of the attempt.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub outcome: Outcome,
}

impl fmt::Display for DeadLetter {
    /// One line with the task's id, name and location, then a line for each attempt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} `{}` ({})", self.id, self.name, self.location)?;
        for Attempt { number, ran_for, outcome, .. } in &self.attempts {
            write!(f, "\n  attempt {number}, after {ran_for:.1?}: {outcome}")?;
        }
        Ok(())
    }
}

impl Attempt {
    /// The attempt of a report, which has just ended.
    pub(crate) fn of(report: &TaskReport) -> Self {
        Self {
            number: report.attempt,
            ended_at: SystemTime::now(),
            ran_for: report.ran_for,
            outcome: report.outcome.clone(),
        }
    }
}

/// The result of a shutdown: tasks that ended, tasks that were lost, and tasks that are stuck.
///
/// Its `Display` suits a log: a line of counts, then a line for each task that was lost or is stuck.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Tasks that completed since the shutdown began.
    pub completed: u64,
    /// Tasks that failed, panicked or timed out since the shutdown began. Their errors are in the log.
    pub failed: u64,
    /// Tasks that had started and were aborted.
    pub aborted: Vec<TaskInfo>,
    /// Tasks that never started, for want of time or room, or because a task before them failed in a set that
    /// stops on failure. Tasks that a condition or a `clear` took back are not in the list.
    pub discarded: Vec<TaskInfo>,
    /// Tasks that were aborted, discarded or stuck beyond the first 10,000 of a kind. They are counted, and named
    /// nowhere.
    pub unnamed: u64,
    /// Tasks whose work still runs although they were aborted or timed out: closures that have not returned, and
    /// futures that do not yield. Their outcomes are counted like any other.
    pub stuck: Vec<TaskInfo>,
    /// How long the shutdown took.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub took: Duration,
}

impl ShutdownReport {
    /// Whether no task was aborted, discarded or stuck. A task that ran and failed does not count as lost.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.aborted.is_empty() && self.discarded.is_empty() && self.stuck.is_empty()
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "shut down in {:.1?}: {} completed, {} failed, {} aborted, {} discarded, {} stuck",
            self.took,
            self.completed,
            self.failed,
            self.aborted.len(),
            self.discarded.len(),
            self.stuck.len()
        )?;
        for (what, tasks) in [("aborted", &self.aborted), ("discarded", &self.discarded), ("stuck", &self.stuck)] {
            for task in tasks {
                write!(f, "\n  {what}: {task}")?;
            }
        }
        if self.unnamed > 0 {
            write!(f, "\n  and {} more", self.unnamed)?;
        }
        Ok(())
    }
}
