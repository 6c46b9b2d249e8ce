//! The counters that the ledger keeps, and the figures that a user reads.

use std::{collections::BTreeMap, fmt, ptr, time::Duration};

use rustc_hash::FxHashMap;

use crate::{DurationHistogram, Outcome, durations::Durations, live::Past, moment::nanos};

/// The counters of the tasks of one name, in one shard.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) panicked: u64,
    pub(crate) timed_out: u64,
    pub(crate) aborted: u64,
    pub(crate) discarded: u64,
    pub(crate) retries: u64,
    durations: Durations,
    queued: Durations,
}

impl Figures {
    #[inline]
    pub(crate) fn record(&mut self, past: &Past) {
        let outcome = past.outcome();
        *match outcome {
            Outcome::Completed => &mut self.completed,
            Outcome::Failed(_) => &mut self.failed,
            Outcome::Panicked(_) => &mut self.panicked,
            Outcome::TimedOut(_) => &mut self.timed_out,
            Outcome::Aborted => &mut self.aborted,
            Outcome::Discarded(_) => &mut self.discarded,
        } += 1;
        if past.started.is_none() {
            return;
        }
        self.queued.record(past.queued_for());
        if !matches!(outcome, Outcome::Aborted | Outcome::Discarded(_)) {
            self.durations.record(past.ran_for());
        }
    }

    pub(crate) fn record_attempt(&mut self, ran_for: Duration) {
        self.durations.record(nanos(ran_for));
    }
}

/// The figures of each name, in one shard.
#[derive(Default)]
pub(crate) struct Names {
    figures: Vec<(&'static str, Figures)>,
    places: FxHashMap<&'static str, usize>,
    /// The place of the name that was asked for last.
    last: usize,
}

impl Names {
    /// The figures of a name.
    #[expect(clippy::indexing_slicing, reason = "a place is made with its figures, and these are never taken away")]
    #[inline]
    pub(crate) fn of(&mut self, name: &'static str) -> &mut Figures {
        // Mostly it is the name of the task before, the same literal at the same address: no need to read it.
        if !self.figures.get(self.last).is_some_and(|(last, _)| ptr::eq(*last, name)) {
            self.last = *self.places.entry(name).or_insert(self.figures.len());
            if self.last == self.figures.len() {
                self.figures.push((name, Figures::default()));
            }
        }
        &mut self.figures[self.last].1
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &Figures)> {
        self.figures.iter().map(|(name, figures)| (*name, figures))
    }
}

/// What the registry has counted: a snapshot, taken by [`TaskRegistry::metrics`](crate::TaskRegistry::metrics).
///
/// At any moment, and exactly: `added = pending + running + completed + failed + panicked + timed_out +
/// aborted + discarded`.
///
/// ```
/// use postlude::TaskRegistry;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// registry.spawn(async {});
/// registry.spawn(async { Err::<(), _>("refused") });
/// registry.wait_idle().await;
///
/// let metrics = registry.metrics();
/// assert_eq!((metrics.added, metrics.completed, metrics.failed), (2, 1, 1));
/// assert_eq!(metrics.failure_rate(), 0.5);
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TaskMetrics {
    /// Tasks accepted, and tasks that `add` and `spawn` had to discard at once. A task that a `try_` method
    /// handed back is not counted.
    pub added: u64,
    /// Tasks that have not started.
    pub pending: u64,
    /// Tasks that have started and have no outcome.
    pub running: u64,
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
    /// Attempts after the first.
    pub retries: u64,
    /// Of the running tasks, those whose attempt has failed and whose next one has not started.
    pub retrying: u64,
    /// Sets with tasks that have not begun to drain: mostly requests that are being handled.
    pub open_sets: u64,
    /// Tasks whose outcome is counted while their work goes on: aborted or timed out, and not (yet) returned.
    pub stuck: u64,
    /// Panics of the user's own hooks and conditions, caught.
    pub hook_panics: u64,
    /// Requests that a layer turned away because the registry was full; they left no tasks.
    pub shed: u64,
    /// Dead letters that are kept: see [`DeadLetters`](crate::DeadLetters).
    pub dead_letters: u64,
    /// Dead letters that had to go for newer ones.
    pub dead_letters_displaced: u64,
    /// How long the oldest pending task has been waiting for its turn, its own [delay](crate::Task::delay) apart; zero if none
    /// is. Those of an open set don't: they wait for their request to end.
    pub oldest_pending: Duration,
    /// The durations of all attempts that completed, failed, panicked or timed out, added up. Waiting for
    /// a turn is not part of them.
    pub total_time: Duration,
    /// How long the tasks that ended, and had started, waited from the add to the start of their first attempt, added
    /// up.
    pub total_queued: Duration,
    durations: Durations,
    queued: Durations,
    names: BTreeMap<&'static str, NameMetrics>,
}

impl TaskMetrics {
    /// The mean duration of the tasks that completed, failed, panicked or timed out; zero if none has.
    #[must_use]
    pub fn average_duration(&self) -> Duration {
        average(self.total_time, self.completed + self.failed + self.panicked + self.timed_out)
    }

    /// Tasks that failed, panicked or timed out.
    pub(crate) const fn all_failed(&self) -> u64 {
        self.failed + self.panicked + self.timed_out
    }

    /// The share of tasks that failed, panicked or timed out among those that did that or completed, from 0
    /// to 1; zero if none has.
    #[must_use]
    pub fn failure_rate(&self) -> f64 {
        rate(self.failed + self.panicked + self.timed_out, self.completed)
    }

    /// The duration that a share `q` of the attempts stayed within: `quantile(0.5)` is the median. At most
    /// 1/16 too high; zero if nothing has run; `q` outside 0 to 1 counts as the nearer end.
    ///
    /// Kept in a histogram of logarithmic buckets with linear steps, as HDR histograms are.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        self.durations.quantile(q)
    }

    /// As [`quantile`](Self::quantile), of how long tasks waited for the start of their first attempt: the tasks that
    /// ended, and had started.
    #[must_use]
    pub fn queued_quantile(&self, q: f64) -> Duration {
        self.queued.quantile(q)
    }

    /// How long the attempts ran that completed, failed, panicked or timed out. Waiting for a permit is not part of it.
    #[must_use]
    pub const fn run_times(&self) -> &DurationHistogram {
        &self.durations
    }

    /// How long the tasks that ended, and had started, waited from the add to the start of their first attempt.
    #[must_use]
    pub const fn wait_times(&self) -> &DurationHistogram {
        &self.queued
    }

    /// The figures of each name, in the order of the alphabet.
    #[must_use]
    pub const fn by_name(&self) -> &BTreeMap<&'static str, NameMetrics> {
        &self.names
    }

    pub(crate) fn take_names(&mut self, names: BTreeMap<&'static str, NameMetrics>) {
        for name in names.values() {
            self.completed += name.completed;
            self.failed += name.failed;
            self.panicked += name.panicked;
            self.timed_out += name.timed_out;
            self.aborted += name.aborted;
            self.discarded += name.discarded;
            self.retries += name.retries;
            self.total_time = self.total_time.saturating_add(name.total_time);
            self.durations.absorb(&name.durations);
            self.total_queued = self.total_queued.saturating_add(name.total_queued);
            self.queued.absorb(&name.queued);
        }
        self.names = names;
    }
}

impl fmt::Display for TaskMetrics {
    /// One line for a log or a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} added: {} pending, {} running, {} completed, {} failed, {} panicked, {} timed out, {} aborted, \
             {} discarded; ran p50 {:.1?}, p99 {:.1?}; waited p50 {:.1?}, p99 {:.1?}, oldest {:.1?}",
            self.added,
            self.pending,
            self.running,
            self.completed,
            self.failed,
            self.panicked,
            self.timed_out,
            self.aborted,
            self.discarded,
            self.quantile(0.5),
            self.quantile(0.99),
            self.queued_quantile(0.5),
            self.queued_quantile(0.99),
            self.oldest_pending,
        )
    }
}

/// The figures of the tasks of one name.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NameMetrics {
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
    /// Attempts after the first.
    pub retries: u64,
    /// As [`TaskMetrics::total_time`].
    pub total_time: Duration,
    /// As [`TaskMetrics::total_queued`].
    pub total_queued: Duration,
    pub(crate) durations: Durations,
    pub(crate) queued: Durations,
}

impl NameMetrics {
    /// As [`TaskMetrics::average_duration`].
    #[must_use]
    pub fn average_duration(&self) -> Duration {
        average(self.total_time, self.completed + self.failed + self.panicked + self.timed_out)
    }

    /// As [`TaskMetrics::failure_rate`].
    #[must_use]
    pub fn failure_rate(&self) -> f64 {
        rate(self.failed + self.panicked + self.timed_out, self.completed)
    }

    /// As [`TaskMetrics::quantile`].
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        self.durations.quantile(q)
    }

    /// As [`TaskMetrics::queued_quantile`].
    #[must_use]
    pub fn queued_quantile(&self, q: f64) -> Duration {
        self.queued.quantile(q)
    }

    /// As [`TaskMetrics::run_times`].
    #[must_use]
    pub const fn run_times(&self) -> &DurationHistogram {
        &self.durations
    }

    /// As [`TaskMetrics::wait_times`].
    #[must_use]
    pub const fn wait_times(&self) -> &DurationHistogram {
        &self.queued
    }

    pub(crate) fn absorb(&mut self, figures: &Figures) {
        self.completed += figures.completed;
        self.failed += figures.failed;
        self.panicked += figures.panicked;
        self.timed_out += figures.timed_out;
        self.aborted += figures.aborted;
        self.discarded += figures.discarded;
        self.retries += figures.retries;
        self.total_time = self.total_time.saturating_add(figures.durations.total());
        self.durations.absorb(&figures.durations);
        self.total_queued = self.total_queued.saturating_add(figures.queued.total());
        self.queued.absorb(&figures.queued);
    }
}

fn average(total: Duration, count: u64) -> Duration {
    if count == 0 {
        return Duration::ZERO;
    }
    let nanos = total.as_nanos() / u128::from(count);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
fn rate(bad: u64, good: u64) -> f64 {
    match bad + good {
        0 => 0.0,
        all => bad as f64 / all as f64,
    }
}
