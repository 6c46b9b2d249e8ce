//! The lines in the log: how a task ended, and how an attempt of it did.

use std::fmt;

use tracing::field;

use crate::model::{Chain, DiscardReason, Outcome, TaskReport};

/// Logs how a task ended: an error for what went wrong, a warning for what somebody asked for, and nothing above
/// `debug` for a task that completed. The task's span has been closed with its work.
pub(crate) fn log(report: &TaskReport) {
    macro_rules! event {
        ($level:ident, $($field:tt)*) => {
            tracing::$level!(
                target: "postlude",
                id = %report.id,
                name = report.name,
                location = %report.location,
                set = report.set.map(|set| set.0),
                attempt = report.attempt,
                replay_of = report.replay_of.map(tracing::field::display),
                queued_for = ?report.queued_for,
                ran_for = ?report.ran_for,
                $($field)*
            )
        };
    }

    match &report.outcome {
        Outcome::Completed => event!(debug, "task completed"),
        Outcome::Failed(error) => event!(error, error = %Chain(error), "task failed"),
        Outcome::Panicked(panic) => event!(error, error = %panic, "task panicked"),
        Outcome::TimedOut(limit) => event!(error, ?limit, "task timed out"),
        Outcome::Aborted => event!(warn, "task aborted"),
        Outcome::Discarded(reason @ (DiscardReason::Capacity | DiscardReason::Closed)) => {
            event!(error, %reason, "task discarded");
        }
        Outcome::Discarded(reason) => {
            let error = report.refusal.as_deref().map(|refusal| field::display(Chain(refusal)));
            event!(warn, %reason, error, "task discarded");
        }
    }
}

/// Why an attempt failed, in the words in which it is logged.
pub(crate) struct Cause<'a>(pub(crate) &'a Outcome);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Failed(error) => Chain(error).fmt(f),
            outcome => outcome.fmt(f),
        }
    }
}
