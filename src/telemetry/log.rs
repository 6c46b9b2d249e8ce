//! The lines of the log: how a task ended, how an attempt did, and how every line is emitted.

use std::{
    cell::Cell,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tracing::{Level, field};

use crate::{
    model::{Chain, DiscardReason, Outcome, TaskReport},
    util::{
        escape::Escaped,
        panic::{Panic, catch_panic},
    },
};

thread_local! {
    /// The subscriber is being called for something of ours on this thread.
    static EMITTING: Cell<bool> = const { Cell::new(false) };
}

/// Lines and spans that were not emitted because the subscriber was just being called for another one.
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Calls the `tracing` subscriber, for a line or a span. A subscriber that adds a task while it is called would be called for
/// that again, without end: such an inner call is counted and not made, and `None` is returned.
///
/// # Errors
/// The panic of the subscriber.
pub(crate) fn call_subscriber<R>(call: impl FnOnce() -> R) -> Result<Option<R>, Panic> {
    // On a thread that is ending, nothing is known: then the call is made.
    if EMITTING.try_with(|emitting| emitting.replace(true)).unwrap_or(false) {
        // Relaxed: a statistic.
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
        return Ok(None);
    }
    let result = catch_panic(call);
    let _on_an_ending_thread = EMITTING.try_with(|emitting| emitting.set(false));
    result.map(Some)
}

/// Emits a line.
///
/// # Errors
/// The panic of the subscriber.
pub(crate) fn emit(line: impl FnOnce()) -> Result<(), Panic> {
    call_subscriber(line).map(|_suppressed| ())
}

/// How many lines and spans of this process were not emitted: see [`call_subscriber`].
pub(crate) fn suppressed() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// Whether anybody wants lines of this level. A subscriber that panics does not.
#[inline]
pub(crate) fn is_enabled(level: Level) -> bool {
    // The common answer costs one load.
    if level > tracing::level_filters::LevelFilter::current() {
        return false;
    }
    match level {
        Level::DEBUG => catch_panic(|| tracing::enabled!(target: "postlude", Level::DEBUG)).unwrap_or(false),
        _ => catch_panic(|| tracing::enabled!(target: "postlude", Level::INFO)).unwrap_or(false),
    }
}

/// How a task ended: an error if it went wrong, a warning if somebody asked for the end, and `debug` if it completed.
pub(crate) fn finished(report: &TaskReport) {
    macro_rules! event {
        ($level:ident, $($field:tt)*) => {
            tracing::$level!(
                target: "postlude",
                id = %report.id,
                name = report.name.as_str(),
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
        Outcome::Failed(error) => event!(error, error = %Escaped(Chain(error)), "task failed"),
        Outcome::Panicked(panic) => event!(error, error = %Escaped(panic), "task panicked"),
        Outcome::TimedOut(limit) => event!(error, ?limit, "task timed out"),
        Outcome::Aborted => event!(warn, "task aborted"),
        Outcome::Discarded(
            reason @ (DiscardReason::Capacity | DiscardReason::Closed | DiscardReason::RuntimeEnded),
        ) => {
            event!(error, %reason, "task discarded");
        }
        Outcome::Discarded(reason) => {
            let error = report.refusal.as_deref().map(|refusal| field::display(Escaped(Chain(refusal))));
            event!(warn, %reason, error, "task discarded");
        }
    }
}

/// An attempt that failed, and that another one follows.
pub(crate) fn attempt_failed(report: &TaskReport, next_in: Duration) {
    tracing::warn!(
        target: "postlude",
        id = %report.id,
        name = report.name.as_str(),
        location = %report.location,
        set = report.set.map(|set| set.0),
        attempt = report.attempt,
        ran_for = ?report.ran_for,
        ?next_in,
        error = %Cause(&report.outcome),
        "attempt failed, another will follow"
    );
}

/// Why an attempt failed.
struct Cause<'a>(&'a Outcome);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Failed(error) => Escaped(Chain(error)).fmt(f),
            outcome => outcome.fmt(f),
        }
    }
}
