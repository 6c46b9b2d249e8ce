//! How a task ended, and the report of it.

use std::{fmt, sync::Arc, time::Duration};

use crate::{ledger::live::Stage, util::panic::Panic};

/// The error that a failed task leaves: anything that a `?` in its body can turn into one.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How a task ended. Every accepted task ends in exactly one of these, and each is counted once.
///
/// An outcome is not an error: a [`TaskHandle`](crate::TaskHandle) resolves to it, the failure hook and the
/// log see it, and nothing is propagated to whoever added the task.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It ran to its end and returned `()` or `Ok(())`.
    Completed,
    /// It returned an error.
    Failed(Arc<BoxError>),
    /// It panicked. The panic ended there: the tasks after it, the connection and the server went on.
    Panicked(Panic),
    /// It took longer than this limit, which its [`timeout`](crate::Task::timeout) or the registry's
    /// [`default_timeout`](crate::TaskRegistryBuilder::default_timeout) set.
    TimedOut(Duration),
    /// It was aborted: by its handle, by [`TaskRegistry::abort`](crate::TaskRegistry::abort), by a shutdown
    /// that had run out of time, or with its runtime.
    Aborted,
    /// It never started.
    Discarded(DiscardReason),
}

impl Outcome {
    /// Whether the task ran to its end without an error.
    #[must_use]
    pub const fn is_completed(&self) -> bool {
        matches!(self, Self::Completed)
    }

    /// The error of a task that failed.
    #[must_use]
    pub fn error(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(&***error),
            _ => None,
        }
    }

    /// One lower-case word for a log line or a metric's label: `completed`, `failed`, `panicked`,
    /// `timed_out`, `aborted` or `discarded`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::TimedOut(_) => "timed_out",
            Self::Aborted => "aborted",
            Self::Discarded(_) => "discarded",
        }
    }

    /// Whether something is lost: the work did not get done, and nobody took it back. True of all but
    /// [`Completed`](Self::Completed) and what a condition or a `clear` discarded
    /// ([`Ending`](DiscardReason::Ending), [`Cleared`](DiscardReason::Cleared)).
    ///
    /// It is the filter for a hook that wakes people:
    ///
    /// ```
    /// use postlude::{TaskRegistry, TaskReport};
    ///
    /// fn alert(report: &TaskReport) {
    ///     eprintln!("task {} `{}` {}", report.id, report.name, report.outcome);
    /// }
    ///
    /// let builder = TaskRegistry::builder().on_failure(|report| if report.outcome.is_loss() { alert(report) });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        !matches!(self, Self::Completed | Self::Discarded(DiscardReason::Ending | DiscardReason::Cleared))
    }

    pub(crate) fn into_error(self) -> Option<Arc<BoxError>> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// What becomes of a task that will not get to its end.
    pub(crate) const fn unfinished(stage: Stage) -> Self {
        match stage {
            Stage::Pending => Self::Discarded(DiscardReason::Closed),
            Stage::Running => Self::Aborted,
        }
    }

    /// Whether the work did not get done by its own fault: what is worth another attempt, or a dead letter.
    pub(crate) const fn is_dead(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Panicked(_) | Self::TimedOut(_))
    }

    /// Whether the work was attempted and did not get done: what stops a set that
    /// [stops on failure](crate::TaskSet::stop_on_failure).
    pub(crate) const fn is_failure(&self) -> bool {
        !matches!(self, Self::Completed | Self::Discarded(_))
    }
}

impl fmt::Display for Outcome {
    /// Says it in a sentence, with the whole source chain of an error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "failed: {}", Chain(error)),
            Self::Panicked(panic) => write!(f, "panicked: {panic}"),
            Self::TimedOut(limit) => write!(f, "timed out after {limit:?}"),
            Self::Discarded(reason) => write!(f, "discarded: {reason}"),
            Self::Completed | Self::Aborted => f.write_str(self.label()),
        }
    }
}

/// Why a task never started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiscardReason {
    /// A condition on the request's ending said no: the layer's `drain_when` or the task's `when`.
    Ending,
    /// [`TaskSet::clear`](crate::TaskSet::clear) took it back.
    Cleared,
    /// As many tasks were live as the registry's [`capacity`](crate::TaskRegistryBuilder::capacity) allows.
    Capacity,
    /// The registry was shut down, or its runtime had ended.
    Closed,
    /// A task before it did not get done, in a set that [stops on failure](crate::TaskSet::stop_on_failure).
    PreviousFailed,
    /// The registry's [rule](crate::TaskRegistryBuilder::admit) refused it: [`TaskReport::refusal`] says why.
    Refused,
}

impl DiscardReason {
    /// One lower-case word: `ending`, `cleared`, `capacity`, `closed`, `previous_failed` or `refused`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Ending => "ending",
            Self::Cleared => "cleared",
            Self::Capacity => "capacity",
            Self::Closed => "closed",
            Self::PreviousFailed => "previous_failed",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for DiscardReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ending => "a condition on the request's ending said no",
            Self::Cleared => "its set was cleared",
            Self::Capacity => "the registry is at its capacity",
            Self::Closed => "the registry is shut down",
            Self::PreviousFailed => "a task before it failed in a set that stops on failure",
            Self::Refused => "a rule of the registry refused it",
        })
    }
}

/// An error with its sources, joined by colons.
pub(crate) struct Chain<'a>(pub(crate) &'a BoxError);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
