//! Outcomes: how a task ended, and counts of how tasks ended.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use tracing::Level;

use crate::util::{escape::Escaped, panic::Panic};

/// The error of a failed task. A `?` in the task's body converts any error into it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error that reports, history and dead letters share.
pub(crate) type SharedError = Arc<dyn std::error::Error + Send + Sync>;

/// How a task ended. Every accepted task ends in exactly one of these, and every end is counted once.
///
/// An outcome is not an error: a [`TaskHandle`](crate::TaskHandle) resolves to it, the failure hook and the log receive
/// it, and nothing is propagated to the code that added the task.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The task ran to its end and returned `()` or `Ok(())`.
    Completed,
    /// The task returned an error.
    Failed(Arc<dyn std::error::Error + Send + Sync>),
    /// The task panicked. The panic was caught: it affects neither the tasks after it, nor the connection, nor the
    /// server.
    Panicked(Panic),
    /// The task took longer than this limit, which its [`timeout`](crate::Task::timeout) or the registry's
    /// [`default_timeout`](crate::TaskRegistryBuilder::default_timeout) set.
    TimedOut(Duration),
    /// The task was aborted: by its handle, by [`TaskRegistry::abort`](crate::TaskRegistry::abort), by a shutdown whose
    /// deadline had passed, or by the end of its runtime.
    Aborted,
    /// The task never started.
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
            Self::Failed(error) => Some(&**error),
            _ => None,
        }
    }

    /// The kind of the outcome, without its error, panic, limit or reason: for comparing and counting.
    #[must_use]
    pub const fn kind(&self) -> OutcomeKind {
        match self {
            Self::Completed => OutcomeKind::Completed,
            Self::Failed(_) => OutcomeKind::Failed,
            Self::Panicked(_) => OutcomeKind::Panicked,
            Self::TimedOut(_) => OutcomeKind::TimedOut,
            Self::Aborted => OutcomeKind::Aborted,
            Self::Discarded(_) => OutcomeKind::Discarded,
        }
    }

    /// One lower-case word for a log line or a metric's label, such as `timed_out`: that of its [`kind`](Self::kind).
    #[must_use]
    pub const fn label(&self) -> &'static str {
        self.kind().label()
    }

    /// Whether work was lost: the task did not complete, and nobody asked to discard it. True for every outcome except
    /// [`Completed`](Self::Completed) and tasks that a condition, `clear` or another task with the same key discarded
    /// ([`Ending`](DiscardReason::Ending), [`Cleared`](DiscardReason::Cleared),
    /// [`Duplicate`](DiscardReason::Duplicate)).
    ///
    /// Use it to filter a hook that alerts people:
    ///
    /// ```
    /// use postlude::{TaskRegistry, TaskReport};
    ///
    /// fn alert(report: &TaskReport) {
    ///     eprintln!("task {} `{}` {}", report.id, report.name, report.outcome);
    /// }
    ///
    /// let builder = TaskRegistry::builder().on_failure(|report| {
    ///     if report.outcome.is_loss() {
    ///         alert(report);
    ///     }
    /// });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        match self {
            Self::Completed => false,
            Self::Failed(_) | Self::Panicked(_) | Self::TimedOut(_) | Self::Aborted => true,
            Self::Discarded(reason) => match reason {
                DiscardReason::Ending | DiscardReason::Cleared | DiscardReason::Duplicate => false,
                DiscardReason::Capacity
                | DiscardReason::Closed
                | DiscardReason::RuntimeEnded
                | DiscardReason::PreviousFailed
                | DiscardReason::Refused
                | DiscardReason::Expired => true,
            },
        }
    }

    pub(crate) fn into_error(self) -> Option<SharedError> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the work ran and failed, panicked or timed out. Such a task can be retried, or kept as a dead letter.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        self.kind().is_failure()
    }

    /// Whether the work started and did not complete: this stops a set that
    /// [stops on failure](crate::TaskSet::stop_on_failure).
    pub(crate) const fn stops_set(&self) -> bool {
        match self {
            Self::Failed(_) | Self::Panicked(_) | Self::TimedOut(_) | Self::Aborted => true,
            Self::Completed | Self::Discarded(_) => false,
        }
    }

    /// The level of the log event: an error if the task failed or was discarded against the caller's will, a warning if
    /// somebody asked for the end.
    pub(crate) const fn level(&self) -> Level {
        match self {
            Self::Completed => Level::DEBUG,
            Self::Failed(_) | Self::Panicked(_) | Self::TimedOut(_) => Level::ERROR,
            Self::Aborted => Level::WARN,
            Self::Discarded(reason) => match reason {
                DiscardReason::Capacity | DiscardReason::Closed | DiscardReason::RuntimeEnded => Level::ERROR,
                // Frequent, and asked for.
                DiscardReason::Duplicate => Level::DEBUG,
                DiscardReason::Ending
                | DiscardReason::Cleared
                | DiscardReason::PreviousFailed
                | DiscardReason::Refused
                | DiscardReason::Expired => Level::WARN,
            },
        }
    }

    /// The error, limit or reason that the log event carries.
    pub(crate) fn details(&self) -> Details<'_> {
        let mut details = Details::default();
        match self {
            Self::Failed(error) => details.error = Some(Cause::Error(&**error)),
            Self::Panicked(panic) => details.error = Some(Cause::Panic(panic)),
            Self::TimedOut(limit) => details.limit = Some(*limit),
            Self::Discarded(reason) => details.reason = Some(*reason),
            Self::Completed | Self::Aborted => {}
        }
        details
    }
}

impl fmt::Display for Outcome {
    /// Says it in a sentence of one line, with the whole source chain of an error. Control characters in the error, or
    /// in the message of a panic, are escaped: they may come from a client, and must not write lines of their own into
    /// a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "failed: {}", Escaped(Chain(&**error))),
            Self::Panicked(panic) => write!(f, "panicked: {}", Escaped(panic)),
            Self::TimedOut(limit) => write!(f, "timed out after {limit:?}"),
            Self::Discarded(reason) => write!(f, "discarded: {reason}"),
            Self::Completed | Self::Aborted => f.write_str(self.label()),
        }
    }
}

/// What the log event of an end says beside the kind of the outcome.
#[derive(Default)]
pub(crate) struct Details<'a> {
    pub(crate) error: Option<Cause<'a>>,
    pub(crate) limit: Option<Duration>,
    pub(crate) reason: Option<DiscardReason>,
}

/// Foreign text that says why a task did not complete. It is escaped.
pub(crate) enum Cause<'a> {
    Error(&'a (dyn std::error::Error + Send + Sync + 'static)),
    Panic(&'a Panic),
}

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => Escaped(Chain(*error)).fmt(f),
            Self::Panic(panic) => Escaped(panic).fmt(f),
        }
    }
}

/// The only list of the outcome kinds. Each row gives the variant, the field in [`OutcomeCounts`] (also the label), the
/// words for a sentence, and the doc text.
macro_rules! outcome_kinds {
    ($($kind:ident, $field:ident, $words:literal: $doc:literal;)+) => {
        /// The kind of an [`Outcome`], without the error, the panic, the limit or the reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
        #[non_exhaustive]
        pub enum OutcomeKind {
            $(#[doc = $doc] $kind,)+
        }

        impl OutcomeKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// One lower-case word for a log line or a metric's label, such as `timed_out`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($field),)+
                }
            }

            /// The label as the words of a sentence, such as `timed out`.
            pub(crate) const fn words(self) -> &'static str {
                match self {
                    $(Self::$kind => $words,)+
                }
            }
        }

        /// The number of tasks with each outcome.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub struct OutcomeCounts {
            $(#[doc = $doc] pub $field: u64,)+
        }

        impl OutcomeCounts {
            /// The number of tasks with this outcome.
            #[must_use]
            pub const fn get(&self, kind: OutcomeKind) -> u64 {
                match kind {
                    $(OutcomeKind::$kind => self.$field,)+
                }
            }

            #[inline]
            const fn slot(&mut self, kind: OutcomeKind) -> &mut u64 {
                match kind {
                    $(OutcomeKind::$kind => &mut self.$field,)+
                }
            }
        }
    };
}

outcome_kinds! {
    Completed, completed, "completed": "Tasks that ran to their end without an error.";
    Failed, failed, "failed": "Tasks that returned an error.";
    Panicked, panicked, "panicked": "Tasks that panicked.";
    TimedOut, timed_out, "timed out": "Tasks that took longer than their limit.";
    Aborted, aborted, "aborted": "Tasks that were aborted.";
    Discarded, discarded, "discarded": "Tasks that never started.";
}

impl OutcomeKind {
    /// Whether the work ran and failed, panicked or timed out: see [`Outcome::is_failure`].
    #[must_use]
    pub const fn is_failure(self) -> bool {
        match self {
            Self::Failed | Self::Panicked | Self::TimedOut => true,
            Self::Completed | Self::Aborted | Self::Discarded => false,
        }
    }
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl OutcomeCounts {
    /// The count of each kind.
    ///
    /// ```
    /// use postlude::{OutcomeKind, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// registry.spawn(async { Err::<(), _>("refused") }).await;
    /// let metrics = registry.metrics();
    /// let failed: Vec<_> = metrics.outcomes().iter().filter(|(_, count)| *count > 0).collect();
    /// assert_eq!(failed, [(OutcomeKind::Failed, 1)]);
    /// # }
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (OutcomeKind, u64)> + use<> {
        let counts = *self;
        OutcomeKind::ALL.iter().map(move |kind| (*kind, counts.get(*kind)))
    }

    /// The sum of all counts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    /// The sum of the tasks that failed, panicked or timed out.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.iter().filter(|(kind, _)| kind.is_failure()).map(|(_, count)| count).sum()
    }

    /// The share of [failures](Self::failures) in the tasks that completed or failed, from 0 to 1; zero without any.
    /// Aborted and discarded tasks do not count: they do not say how well tasks do.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio does not need 53 bits")]
    pub fn failure_rate(&self) -> f64 {
        match self.completed + self.failures() {
            0 => 0.0,
            all => self.failures() as f64 / all as f64,
        }
    }

    #[inline]
    pub(crate) const fn count(&mut self, kind: OutcomeKind) {
        *self.slot(kind) += 1;
    }

    pub(crate) fn absorb(&mut self, other: &Self) {
        for (kind, count) in other.iter() {
            *self.slot(kind) += count;
        }
    }
}

/// The outcome counts of a set that has drained. It derefs to [`OutcomeCounts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
pub struct DrainReport {
    outcomes: OutcomeCounts,
}

impl DrainReport {
    pub(crate) const fn new(outcomes: OutcomeCounts) -> Self {
        Self { outcomes }
    }

    /// Whether every task completed.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.completed == self.total()
    }
}

impl Deref for DrainReport {
    type Target = OutcomeCounts;

    fn deref(&self) -> &OutcomeCounts {
        &self.outcomes
    }
}

/// Why a task never started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum DiscardReason {
    /// A condition on the request's ending returned `false`: the layer's `drain_when` or the task's `when`.
    Ending,
    /// [`TaskSet::clear`](crate::TaskSet::clear) discarded it.
    Cleared,
    /// The registry was at its [`capacity`](crate::TaskRegistryBuilder::capacity).
    Capacity,
    /// The registry was shut down.
    Closed,
    /// The runtime of the registry has ended.
    RuntimeEnded,
    /// An earlier task failed, in a set that [stops on failure](crate::TaskSet::stop_on_failure).
    PreviousFailed,
    /// The registry's [admission filter](crate::TaskRegistryBuilder::admit) refused it:
    /// [`TaskReport::refusal`](crate::TaskReport::refusal) has the error.
    Refused,
    /// It had not started when its time was over: see [`Task::expires_after`](crate::Task::expires_after).
    Expired,
    /// Another live task of its name had the same key: see [`Task::unique`](crate::Task::unique).
    /// [`TaskReport::duplicate_of`](crate::TaskReport::duplicate_of) names the other task.
    Duplicate,
}

impl DiscardReason {
    /// One lower-case word: `ending`, `cleared`, `capacity`, `closed`, `runtime_ended`, `previous_failed`, `refused`,
    /// `expired` or `duplicate`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Ending => "ending",
            Self::Cleared => "cleared",
            Self::Capacity => "capacity",
            Self::Closed => "closed",
            Self::RuntimeEnded => "runtime_ended",
            Self::PreviousFailed => "previous_failed",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Duplicate => "duplicate",
        }
    }
}

impl fmt::Display for DiscardReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ending => "a condition on the request's ending returned false",
            Self::Cleared => "its set was cleared",
            Self::Capacity => "the registry is at its capacity",
            Self::Closed => "the registry is shut down",
            Self::RuntimeEnded => "the registry's runtime has ended",
            Self::PreviousFailed => "an earlier task failed in a set that stops on failure",
            Self::Refused => "the registry's admission filter refused it",
            Self::Expired => "it had not started when its time was over",
            Self::Duplicate => "another live task has the same key",
        })
    }
}

/// An error with its sources, joined by colons. For a log, [escape](Escaped) it.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + Send + Sync + 'static));

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

/// An object with the outcome's label as `state` and, depending on the outcome, an `error`, a `limit` or a `reason`.
#[cfg(feature = "serde")]
impl serde::Serialize for Outcome {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;

        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("state", &self.kind())?;
        match self {
            Self::Failed(error) => map.serialize_entry("error", &message(&**error))?,
            Self::Panicked(panic) => map.serialize_entry("error", panic.message())?,
            Self::TimedOut(limit) => map.serialize_entry("limit", &limit.as_secs_f64())?,
            Self::Discarded(reason) => map.serialize_entry("reason", reason)?,
            Self::Completed | Self::Aborted => {}
        }
        map.end()
    }
}

/// Serialises the error of an admission filter.
#[cfg(feature = "serde")]
pub(crate) fn refusal<S: serde::Serializer>(refusal: &Option<SharedError>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&refusal.as_deref().map(message), serializer)
}

/// The message of an error and its sources. Their `Display` is foreign code, so a panic is caught.
#[cfg(feature = "serde")]
fn message(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    use crate::util::panic::catch_panic;

    catch_panic(|| Chain(error).to_string())
        .unwrap_or_else(|panic| format!("(the error's `Display` panicked: {panic})"))
}
