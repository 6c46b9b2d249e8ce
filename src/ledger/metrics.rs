//! The counters of each name, and the metrics made of them.

use std::{collections::BTreeMap, fmt, ops::Deref, time::Duration};

use rustc_hash::FxHashMap;
use tokio::runtime::Handle;

use crate::{
    ledger::finished::FinishedTask,
    model::{OutcomeCounts, OutcomeKind, TaskName},
    util::{clock::nanos, histogram::DurationHistogram},
};

/// The counters of the tasks of one name, in one shard.
#[derive(Default)]
pub(crate) struct NameCounters {
    outcomes: OutcomeCounts,
    /// Signed, here and below: one step of a task may be counted just before the step that it follows from.
    pub(crate) pending: i64,
    pub(crate) running: i64,
    pub(crate) retrying: i64,
    pub(crate) retries: u64,
    durations: DurationHistogram,
    queued: DurationHistogram,
}

impl NameCounters {
    #[inline]
    pub(crate) fn record(&mut self, finished: &FinishedTask) {
        let kind = finished.outcome().kind();
        self.outcomes.count(kind);
        if finished.started.is_none() {
            return;
        }
        self.queued.record(finished.queued_for());
        match kind {
            OutcomeKind::Completed | OutcomeKind::Failed | OutcomeKind::Panicked | OutcomeKind::TimedOut => {
                self.durations.record(finished.ran_for());
            }
            OutcomeKind::Aborted | OutcomeKind::Discarded => {}
        }
    }

    pub(crate) fn record_attempt(&mut self, ran_for: Duration) {
        self.durations.record(nanos(ran_for));
    }
}

/// The counters of each name, in one shard.
#[derive(Default)]
pub(crate) struct CountersByName {
    counters: Vec<(TaskName, NameCounters)>,
    indexes: FxHashMap<TaskName, usize>,
    /// The index of the name that was asked for last.
    last: usize,
}

impl CountersByName {
    /// The counters of a name.
    #[expect(clippy::indexing_slicing, reason = "an index is made with its counters, and these are never removed")]
    #[inline]
    pub(crate) fn of(&mut self, name: TaskName) -> &mut NameCounters {
        // Mostly it is the name of the task before, the same literal at the same address: no need to hash it.
        if !self.counters.get(self.last).is_some_and(|(last, _)| last.is_same(name)) {
            self.last = *self.indexes.entry(name).or_insert(self.counters.len());
            if self.last == self.counters.len() {
                self.counters.push((name, NameCounters::default()));
            }
        }
        &mut self.counters[self.last].1
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (TaskName, &NameCounters)> {
        self.counters.iter().map(|(name, counters)| (*name, counters))
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
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskMetrics {
    /// Tasks accepted, and tasks that `add` and `spawn` had to discard at once. A task that a `try_` method
    /// handed back is not counted.
    pub added: u64,
    /// Tasks that have not started.
    pub pending: u64,
    /// Tasks that have started and have no outcome.
    pub running: u64,
    #[cfg_attr(feature = "serde", serde(flatten))]
    outcomes: OutcomeCounts,
    /// Attempts after the first.
    pub retries: u64,
    /// Of the running tasks, those whose attempt has failed and whose next one has not started.
    pub retrying: u64,
    /// The runtime that runs the tasks.
    pub runtime: RuntimeMetrics,
    /// Sets with tasks that have not begun to drain: mostly requests that are being handled.
    pub open_sets: u64,
    /// Tasks whose outcome is counted while their work goes on: aborted or timed out, and not (yet) returned.
    pub stuck: u64,
    /// Panics of hooks, conditions, wakers and the `tracing` subscriber that were caught.
    pub hook_panics: u64,
    /// Lines and spans of this process that the log was not given, because the subscriber was just being called for another
    /// one: a subscriber that adds tasks would be called without end.
    pub log_suppressed: u64,
    /// Requests that a layer turned away because the registry was full; they left no tasks.
    pub shed: u64,
    /// Dead letters that are kept: see [`DeadLetters`](crate::DeadLetters).
    pub dead_letters: u64,
    /// Dead letters that had to go for newer ones.
    pub dead_letters_evicted: u64,
    /// How long the oldest pending task has been waiting for its turn, its own [delay](crate::Task::delay) apart; zero if none
    /// is. Those of an open set don't: they wait for their request to end.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub oldest_pending: Duration,
    /// The durations of all attempts that completed, failed, panicked or timed out, added up. Waiting for
    /// a turn is not part of them.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub total_time: Duration,
    /// How long the tasks that ended, and had started, waited from the add to the start of their first attempt, added
    /// up.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub total_queued: Duration,
    #[cfg_attr(feature = "serde", serde(rename = "ran"))]
    durations: DurationHistogram,
    queued: DurationHistogram,
    #[cfg_attr(feature = "serde", serde(rename = "by_name"))]
    names: BTreeMap<TaskName, NameMetrics>,
}

impl TaskMetrics {
    /// How many tasks had each outcome. The metrics deref to it, so that `metrics.failed` is a field, too.
    #[must_use]
    pub const fn outcomes(&self) -> &OutcomeCounts {
        &self.outcomes
    }

    /// The mean duration of the tasks that completed, failed, panicked or timed out; zero if none has.
    #[must_use]
    pub fn average_duration(&self) -> Duration {
        average(self.total_time, self.completed + self.all_failed())
    }

    /// The share of tasks that failed, panicked or timed out among those that did that or completed, from 0
    /// to 1; zero if none has.
    #[must_use]
    pub fn failure_rate(&self) -> f64 {
        rate(self.all_failed(), self.completed)
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
    pub const fn by_name(&self) -> &BTreeMap<TaskName, NameMetrics> {
        &self.names
    }

    pub(crate) fn take_names(&mut self, names: BTreeMap<TaskName, NameMetrics>) {
        for name in names.values() {
            self.outcomes.absorb(&name.outcomes);
            self.retries += name.retries;
            self.retrying += name.retrying;
            self.total_time = self.total_time.saturating_add(name.total_time);
            self.durations.absorb(&name.durations);
            self.total_queued = self.total_queued.saturating_add(name.total_queued);
            self.queued.absorb(&name.queued);
        }
        self.names = names;
    }
}

impl Deref for TaskMetrics {
    type Target = OutcomeCounts;

    fn deref(&self) -> &OutcomeCounts {
        &self.outcomes
    }
}

impl fmt::Display for TaskMetrics {
    /// One line for a log or a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} added: {} pending, {} running", self.added, self.pending, self.running)?;
        for (kind, count) in self.outcomes.iter() {
            write!(f, ", {count} {}", kind.label().replace('_', " "))?;
        }
        write!(
            f,
            "; ran p50 {:.1?}, p99 {:.1?}; waited p50 {:.1?}, p99 {:.1?}, oldest {:.1?}",
            self.quantile(0.5),
            self.quantile(0.99),
            self.queued_quantile(0.5),
            self.queued_quantile(0.99),
            self.oldest_pending,
        )
    }
}

/// What tokio says of the runtime that runs the tasks of a registry.
///
/// It is the whole runtime: handlers, connections and everything else that was spawned on it, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RuntimeMetrics {
    /// Threads that poll tasks.
    pub workers: u64,
    /// Tokio's tasks that have not ended.
    pub alive_tasks: u64,
    /// Tokio's tasks that wait to be polled, in the queue that all workers share. If it grows, the workers are busy, or
    /// blocked by code that does not yield.
    pub queue_depth: u64,
}

impl RuntimeMetrics {
    pub(crate) fn of(runtime: &Handle) -> Self {
        let metrics = runtime.metrics();
        Self {
            workers: metrics.num_workers() as u64,
            alive_tasks: metrics.num_alive_tasks() as u64,
            queue_depth: metrics.global_queue_depth() as u64,
        }
    }
}

/// The figures of the tasks of one name.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NameMetrics {
    /// As [`TaskMetrics::pending`].
    pub pending: u64,
    /// As [`TaskMetrics::running`].
    pub running: u64,
    /// As [`TaskMetrics::retrying`].
    pub retrying: u64,
    #[cfg_attr(feature = "serde", serde(flatten))]
    outcomes: OutcomeCounts,
    /// Attempts after the first.
    pub retries: u64,
    /// As [`TaskMetrics::total_time`].
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub total_time: Duration,
    /// As [`TaskMetrics::total_queued`].
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub total_queued: Duration,
    #[cfg_attr(feature = "serde", serde(rename = "ran"))]
    durations: DurationHistogram,
    queued: DurationHistogram,
}

impl NameMetrics {
    /// As [`TaskMetrics::outcomes`].
    #[must_use]
    pub const fn outcomes(&self) -> &OutcomeCounts {
        &self.outcomes
    }

    /// As [`TaskMetrics::average_duration`].
    #[must_use]
    pub fn average_duration(&self) -> Duration {
        average(self.total_time, self.completed + self.all_failed())
    }

    /// As [`TaskMetrics::failure_rate`].
    #[must_use]
    pub fn failure_rate(&self) -> f64 {
        rate(self.all_failed(), self.completed)
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

    pub(crate) fn absorb(&mut self, counters: &NameCounters) {
        let count = |live: i64| u64::try_from(live).unwrap_or(0);
        self.pending += count(counters.pending);
        self.running += count(counters.running);
        self.retrying += count(counters.retrying);
        self.outcomes.absorb(&counters.outcomes);
        self.retries += counters.retries;
        self.total_time = self.total_time.saturating_add(counters.durations.total());
        self.durations.absorb(&counters.durations);
        self.total_queued = self.total_queued.saturating_add(counters.queued.total());
        self.queued.absorb(&counters.queued);
    }
}

impl Deref for NameMetrics {
    type Target = OutcomeCounts;

    fn deref(&self) -> &OutcomeCounts {
        &self.outcomes
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
