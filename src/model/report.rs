//! What is told of tasks: while they live, when they have ended, and in sum.

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
};

/// A task as lists show it. It holds nothing of what the task captured.
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
    /// The task.
    pub id: TaskId,
    /// Its name, `unnamed` if it was given none.
    pub name: TaskName,
    /// Where it was made.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::location"))]
    pub location: &'static Location<'static>,
    /// The set it was added to; `None` if it was spawned.
    pub set: Option<SetId>,
    /// Where it stands, or stood when it was lost.
    pub state: TaskState,
    /// The attempt under way, or the last one, from 1; 0 if it has not started, or is stuck.
    pub attempt: u32,
    /// How long ago it was added.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub age: Duration,
    /// How long its attempt has been running; `None` if none is, or if it is stuck.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::optional_seconds"))]
    pub running_for: Option<Duration>,
    /// In how long its next attempt is due, if it waits for a time; `None` if it waits for its turn, or runs.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::optional_seconds"))]
    pub due_in: Option<Duration>,
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} `{}` ({}), {}, {:.1?} old", self.id, self.name, self.location, self.state, self.age)
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TaskState {
    /// Added, not started.
    Pending,
    /// An attempt is under way.
    Running,
    /// An attempt has failed, and the next one has not started.
    Retrying,
    /// Its outcome is counted, and its work goes on.
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

/// What is known of a task that has ended, or of an attempt that will be followed by another: given to hooks
/// and observers, and kept as history.
///
/// It holds nothing of what the task captured: its name, its place in the source, its times and its outcome.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskReport {
    /// The task.
    pub id: TaskId,
    /// Its name, `unnamed` if it was given none.
    pub name: TaskName,
    /// Where it was made.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::location"))]
    pub location: &'static Location<'static>,
    /// The set it was added to; `None` if it was spawned.
    pub set: Option<SetId>,
    /// The attempt that decided the outcome, from 1; 0 if it never started.
    pub attempt: u32,
    /// The dead letter that it was a [replay](crate::DeadLetters::replay) of.
    pub replay_of: Option<TaskId>,
    /// From the add to the start of the first attempt, or to the end of a task that never started.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub queued_for: Duration,
    /// How long that attempt ran; zero if it never started.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub ran_for: Duration,
    /// How long ago it ended; zero in a hook.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub ended_ago: Duration,
    /// How it ended.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub outcome: Outcome,
    /// The error of the registry's [rule](crate::TaskRegistryBuilder::admit), for a task that it refused.
    #[cfg_attr(
        feature = "serde",
        serde(
            rename = "error",
            serialize_with = "crate::model::outcome::refusal",
            skip_serializing_if = "Option::is_none"
        )
    )]
    pub refusal: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// What is known of a task: see [`TaskRegistry::get`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(untagged))]
#[non_exhaustive]
pub enum TaskStatus {
    /// It has no outcome yet: its [state](TaskInfo::state) says whether it waits or runs.
    Live(TaskInfo),
    /// It has its outcome.
    Ended(TaskReport),
}

impl TaskStatus {
    /// The task.
    #[must_use]
    pub const fn id(&self) -> TaskId {
        match self {
            Self::Live(task) => task.id,
            Self::Ended(report) => report.id,
        }
    }

    /// Its name, `unnamed` if it was given none.
    #[must_use]
    pub const fn name(&self) -> TaskName {
        match self {
            Self::Live(task) => task.name,
            Self::Ended(report) => report.name,
        }
    }

    /// One lower-case word: a [`TaskState`](crate::TaskState), or an outcome's [label](Outcome::label).
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Live(task) => task.state.label(),
            Self::Ended(report) => report.outcome.label(),
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Live(_) => None,
            Self::Ended(report) => Some(&report.outcome),
        }
    }
}

/// A task that failed, panicked or timed out, for good: see [`DeadLetters`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DeadLetter {
    /// The task.
    pub id: TaskId,
    /// Its name, `unnamed` if it was given none.
    pub name: TaskName,
    /// Where it was made.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::location"))]
    pub location: &'static Location<'static>,
    /// The set it was added to; `None` if it was spawned.
    pub set: Option<SetId>,
    /// The dead letter that it was a replay of.
    pub replay_of: Option<TaskId>,
    /// Its attempts, the last one last. Of very many, the last 32.
    pub attempts: Vec<Attempt>,
    /// Whether it can be replayed: it was a [retrying](Task::retrying) task.
    pub is_replayable: bool,
}

/// One attempt of a task.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Attempt {
    /// Which one, from 1.
    pub number: u32,
    /// When it ended, by the system's clock.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::since_1970"))]
    pub ended_at: SystemTime,
    /// How long it ran.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub ran_for: Duration,
    /// How it ended.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub outcome: Outcome,
}

impl fmt::Display for DeadLetter {
    /// One line of what and where, then a line for each attempt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} `{}` ({})", self.id, self.name, self.location)?;
        for Attempt { number, ran_for, outcome, .. } in &self.attempts {
            write!(f, "\n  attempt {number}, after {ran_for:.1?}: {outcome}")?;
        }
        Ok(())
    }
}

impl Attempt {
    /// The attempt of which a report tells, which has ended just now.
    pub(crate) fn of(report: &TaskReport) -> Self {
        Self {
            number: report.attempt,
            ended_at: SystemTime::now(),
            ran_for: report.ran_for,
            outcome: report.outcome.clone(),
        }
    }
}

/// What a shutdown achieved, and what it cost.
///
/// Its `Display` is made for a log: a line of numbers, then a line for each task that was lost or is stuck.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Tasks that completed since the shutdown began.
    pub completed: u64,
    /// Tasks that failed, panicked or timed out since then: the log has their errors.
    pub failed: u64,
    /// Tasks that had started and were aborted.
    pub aborted: Vec<TaskInfo>,
    /// Tasks that never started, for want of time or room, or because a task before them failed in a set that
    /// stops on failure. Tasks that a condition or a `clear` took back are not in the list.
    pub discarded: Vec<TaskInfo>,
    /// Tasks that were aborted, discarded or stuck beyond the first 10,000 of a kind. They are counted, and named nowhere.
    pub unnamed: u64,
    /// Work that goes on although its task was aborted or timed out: blocking closures that have not
    /// returned, futures that do not yield. The task's own outcome is counted among the others.
    pub stuck: Vec<TaskInfo>,
    /// How long the shutdown took.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub took: Duration,
}

impl ShutdownReport {
    /// Whether nothing was lost: no task aborted, discarded or stuck. A task that ran and failed is not lost.
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
