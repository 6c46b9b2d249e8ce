//! The span of a task, and the log line of one that has ended.

use tracing::Span;

use crate::{DiscardReason, Outcome, TaskId, TaskReport, outcome::Chain};

/// The span in which the task's work runs. It follows from the span that is current now, and does not keep
/// that open.
pub(crate) fn task_span(id: TaskId, name: &'static str) -> Span {
    let span = tracing::info_span!(target: "postlude", parent: None, "task", %id, name, set = tracing::field::Empty);
    if !span.is_disabled() {
        if let Some(set) = id.set() {
            span.record("set", set.0);
        }
        span.follows_from(Span::current());
    }
    span
}

/// Whether somebody wants to know of tasks that completed.
pub(crate) fn wants_completed() -> bool {
    tracing::enabled!(target: "postlude", tracing::Level::DEBUG)
}

/// Logs how a task ended, inside its span: an error for what went wrong, a warning for what somebody asked
/// for, and nothing above `debug` for a task that completed.
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
        Outcome::Discarded(reason) => event!(warn, %reason, "task discarded"),
    }
}
