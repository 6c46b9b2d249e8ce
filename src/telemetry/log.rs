//! Log events: for the end of a task and of an attempt, and the way in which all events are emitted.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tracing::{Level, field};

use crate::{
    model::{Cause, TaskReport},
    util::panic::{Panic, catch_panic},
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
    level <= tracing::level_filters::LevelFilter::current() && is_wanted(level)
}

#[inline(never)]
fn is_wanted(level: Level) -> bool {
    match level {
        Level::DEBUG => catch_panic(|| tracing::enabled!(target: "postlude", Level::DEBUG)).unwrap_or(false),
        _ => catch_panic(|| tracing::enabled!(target: "postlude", Level::INFO)).unwrap_or(false),
    }
}

/// Logs the end of a task, at the [level](Outcome::level) of its outcome.
pub(crate) fn finished(report: &TaskReport) {
    let outcome = &report.outcome;
    let details = outcome.details();
    let profile = report.profile.as_deref();
    let error = details.error.or_else(|| report.refusal.as_deref().map(Cause::Error));
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: "postlude",
                id = %report.id,
                name = report.name.as_str(),
                location = %report.location,
                set = report.set.map(|set| set.0),
                attempt = report.attempt,
                replay_of = report.replay_of.map(field::display),
                queued_for = ?report.queued_for,
                ran_for = ?report.ran_for,
                polls = profile.map(|profile| profile.polls),
                busy = profile.map(|profile| field::debug(profile.busy)),
                longest_poll = profile.map(|profile| field::debug(profile.longest_poll)),
                error = error.map(field::display),
                limit = details.limit.map(field::debug),
                reason = details.reason.map(field::display),
                "task {}",
                outcome.kind().words(),
            )
        };
    }

    match outcome.level() {
        Level::ERROR => event!(error),
        Level::WARN => event!(warn),
        _ => event!(debug),
    }
}

/// Logs a failed attempt that will be retried.
pub(crate) fn attempt_failed(report: &TaskReport, next_in: Duration) {
    let details = report.outcome.details();
    // An attempt that ran out of time has no error of its own.
    let error = details.error.map_or_else(|| report.outcome.to_string(), |error| error.to_string());
    tracing::warn!(
        target: "postlude",
        id = %report.id,
        name = report.name.as_str(),
        location = %report.location,
        set = report.set.map(|set| set.0),
        attempt = report.attempt,
        ran_for = ?report.ran_for,
        ?next_in,
        %error,
        limit = details.limit.map(field::debug),
        "attempt failed, another will follow"
    );
}
