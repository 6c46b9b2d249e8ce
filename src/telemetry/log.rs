//! Log events: for the end of a task and of an attempt, and the way in which all events are emitted.

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
    /// Whether this crate is calling the subscriber on this thread.
    static EMITTING: Cell<bool> = const { Cell::new(false) };
}

/// The number of log events and spans that were not emitted, because the subscriber was being called for another one.
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Calls the `tracing` subscriber, for a log event or a span. A subscriber that adds a task while it is called would
/// cause endless recursion. So an inner call is not made: it is counted, and `None` is returned.
///
/// # Errors
/// The panic of the subscriber.
pub(crate) fn call_subscriber<R>(call: impl FnOnce() -> R) -> Result<Option<R>, Panic> {
    // On a thread that is ending, the thread-local is gone, and the call is made.
    if EMITTING.try_with(|emitting| emitting.replace(true)).unwrap_or(false) {
        // Relaxed: a statistic.
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
        return Ok(None);
    }
    let result = catch_panic(call);
    let _on_an_ending_thread = EMITTING.try_with(|emitting| emitting.set(false));
    result.map(Some)
}

/// Emits a log event.
///
/// # Errors
/// The panic of the subscriber.
pub(crate) fn emit(event: impl FnOnce()) -> Result<(), Panic> {
    call_subscriber(event).map(|_suppressed| ())
}

/// The number of log events and spans of this process that were not emitted: see [`call_subscriber`].
pub(crate) fn suppressed() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// Whether a subscriber is interested in events of this level. One that panics is not.
#[inline]
pub(crate) fn is_enabled(level: Level) -> bool {
    // The common case costs one load.
    if level > tracing::level_filters::LevelFilter::current() {
        return false;
    }
    match level {
        Level::DEBUG => catch_panic(|| tracing::enabled!(target: "postlude", Level::DEBUG)).unwrap_or(false),
        _ => catch_panic(|| tracing::enabled!(target: "postlude", Level::INFO)).unwrap_or(false),
    }
}

/// Logs the end of a task: an error if the task failed or was discarded against the caller's will, a warning if
/// somebody asked for the end, and `debug` if it completed.
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

/// Logs a failed attempt that will be retried.
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
