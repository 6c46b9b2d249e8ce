//! What is told of tasks: while they live, when they have ended, and in sum.

use std::{
    fmt,
    panic::Location,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::model::{BoxError, Outcome, SetId, TaskId};

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
/// assert_eq!((live[0].name, live[0].state), ("mail", TaskState::Pending));
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskInfo {
    /// The task.
    pub id: TaskId,
    /// Its name, `unnamed` if it was given none.
    pub name: &'static str,
    /// Where it was made.
    pub location: &'static Location<'static>,
    /// The set it was added to; `None` if it was spawned.
    pub set: Option<SetId>,
    /// Where it stands, or stood when it was lost.
    pub state: TaskState,
    /// The attempt under way, or the last one, from 1; 0 if it has not started, or is stuck.
    pub attempt: u32,
    /// How long ago it was added.
    pub age: Duration,
    /// How long its attempt has been running; `None` if none is, or if it is stuck.
    pub running_for: Option<Duration>,
    /// In how long its next attempt is due, if it waits for a time; `None` if it waits for its turn, or runs.
    pub due_in: Option<Duration>,
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} `{}` ({}), {}, {:.1?} old", self.id, self.name, self.location, self.state, self.age)
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
#[non_exhaustive]
pub struct TaskReport {
    /// The task.
    pub id: TaskId,
    /// Its name, `unnamed` if it was given none.
    pub name: &'static str,
    /// Where it was made.
    pub location: &'static Location<'static>,
    /// The set it was added to; `None` if it was spawned.
    pub set: Option<SetId>,
    /// The attempt that decided the outcome, from 1; 0 if it never started.
    pub attempt: u32,
    /// The dead letter that it was a [replay](crate::DeadLetters::replay) of.
    pub replay_of: Option<TaskId>,
    /// From the add to the start of the first attempt, or to the end of a task that never started.
    pub queued_for: Duration,
    /// How long that attempt ran; zero if it never started.
    pub ran_for: Duration,
    /// How long ago it ended; zero in a hook.
    pub ended_ago: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// The error of the registry's [rule](crate::TaskRegistryBuilder::admit), for a task that it refused.
    pub refusal: Option<Arc<BoxError>>,
}

/// What is known of a task: see [`TaskRegistry::get`].
#[derive(Clone, Debug)]
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
    pub const fn name(&self) -> &'static str {
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
#[non_exhaustive]
pub struct DeadLetter {
    /// The task.
    pub id: TaskId,
    /// Its name, `unnamed` if it was given none.
    pub name: &'static str,
    /// Where it was made.
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
#[non_exhaustive]
pub struct Attempt {
    /// Which one, from 1.
    pub number: u32,
    /// When it ended, by the system's clock.
    pub ended_at: SystemTime,
    /// How long it ran.
    pub ran_for: Duration,
    /// How it ended.
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

/// What became of the tasks of a set, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Tasks that ran to their end without an error.
    pub completed: u64,
    /// Tasks that returned an error.
    pub failed: u64,
    /// Tasks that panicked.
    pub panicked: u64,
    /// Tasks that took longer than their limit.
    pub timed_out: u64,
    /// Tasks that were aborted.
    pub aborted: u64,
    /// Tasks that never started.
    pub discarded: u64,
}

impl DrainReport {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.completed + self.failed + self.panicked + self.timed_out + self.aborted + self.discarded
    }

    /// Whether every task completed.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        self.completed == self.total()
    }

    pub(crate) const fn count(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Completed => &mut self.completed,
            Outcome::Failed(_) => &mut self.failed,
            Outcome::Panicked(_) => &mut self.panicked,
            Outcome::TimedOut(_) => &mut self.timed_out,
            Outcome::Aborted => &mut self.aborted,
            Outcome::Discarded(_) => &mut self.discarded,
        } += 1;
    }
}

/// What a shutdown achieved, and what it cost.
///
/// Its `Display` is made for a log: a line of numbers, then a line for each task that was lost or is stuck.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Tasks that completed since the shutdown began.
    pub completed: u64,
    /// Tasks that failed, panicked or timed out since then: the log has their errors.
    pub failed: u64,
    /// Tasks that had started and were aborted.
    pub aborted: Vec<TaskInfo>,
    /// Tasks that never started, for want of time or room. (Those that a condition or a `clear` took back are not
    /// lost, but dropped as somebody asked.)
    pub discarded: Vec<TaskInfo>,
    /// Tasks that were aborted or discarded beyond the first 10,000 of a kind: counted, and named in the log alone.
    pub unnamed: u64,
    /// Work that goes on although its task was aborted or timed out: blocking closures that have not
    /// returned, futures that do not yield. The task's own outcome is counted among the others.
    pub stuck: Vec<TaskInfo>,
    /// How long the shutdown took.
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
            write!(f, "\n  and {} more, which the log names", self.unnamed)?;
        }
        Ok(())
    }
}
