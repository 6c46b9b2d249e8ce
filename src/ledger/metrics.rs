//! Counters by name, and the metrics that are computed from them.

use std::{collections::BTreeMap, fmt, ops::Deref, time::Duration};

use rustc_hash::FxHashMap;
use tokio::runtime::Handle;

use crate::{
    ledger::{
        dead_letters::LetterCounts,
        finished::{Completed, FinishedTask},
        oldest::Oldest,
    },
    model::{ByName, DiscardCounts, NameLimit, NameProfile, Outcome, OutcomeCounts, OutcomeKind, TaskName},
    util::{
        clock::{Timestamp, nanos},
        histogram::DurationHistogram,
    },
};

/// The counters of the tasks of one name, in one shard.
#[derive(Default)]
pub(crate) struct NameCounters {
    outcomes: OutcomeCounts,
    /// Boxed, because few names have discarded tasks.
    discards: Option<Box<DiscardCounts>>,
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
    pub(crate) fn record_completed(&mut self, completed: &Completed) {
        self.outcomes.count(OutcomeKind::Completed);
        self.queued.record(completed.started.nanos_since(completed.identity.added));
        self.durations.record(completed.ended.nanos_since(completed.started));
    }

    pub(crate) fn record(&mut self, finished: &FinishedTask) {
        let kind = finished.outcome().kind();
        self.outcomes.count(kind);
        if finished.started.is_none() {
            return self.record_discard(finished.outcome());
        }
        self.queued.record(finished.queued_for());
        if kind == OutcomeKind::Completed || kind.is_failure() {
            self.durations.record(finished.ran_for());
        }
    }

    /// Counts a task that has never started.
    #[cold]
    fn record_discard(&mut self, outcome: &Outcome) {
        if let Outcome::Discarded(reason) = outcome {
            self.discards.get_or_insert_default().count(*reason);
        }
    }

    pub(crate) fn record_attempt(&mut self, ran_for: Duration) {
        self.durations.record(nanos(ran_for));
    }
}

/// The counters of each name, in one shard.
pub(crate) type CountersByName = ByName<NameCounters>;

/// A snapshot of the counters of a registry, taken by [`TaskRegistry::metrics`](crate::TaskRegistry::metrics).
///
/// This equation always holds exactly:
/// `added = pending + running + completed + failed + panicked + timed_out + aborted + discarded`.
/// The figures of the names add up to these, too, if there are no more than 64 names. Those of more are read a few at a
/// time, after the totals.
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
    /// Tasks that were accepted, and tasks that `add` and `spawn` discarded at once. Tasks that a `try_` method handed
    /// back are not counted.
    pub added: u64,
    /// Tasks that have not started.
    pub pending: u64,
    /// Tasks that have started and have no outcome.
    pub running: u64,
    /// Tasks that have no outcome: pending and running. This is what counts against the `capacity`.
    pub live: u64,
    /// The [capacity](crate::TaskRegistryBuilder::capacity); `None` without one.
    pub capacity: Option<u64>,
    #[cfg_attr(feature = "serde", serde(flatten))]
    outcomes: OutcomeCounts,
    /// The discarded tasks by reason.
    pub discarded_by: DiscardCounts,
    /// Tasks whose work was lost: those whose outcome [is a loss](crate::Outcome::is_loss). Its increase is worth a
    /// call.
    pub lost: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// The running tasks whose last attempt has failed and whose next one has not started.
    pub retrying: u64,
    /// The runtime that runs the tasks.
    pub runtime: RuntimeMetrics,
    /// Sets that have tasks and have not begun to drain: usually of requests in progress.
    pub open_sets: u64,
    /// Of the open sets, those that have their response and wait for their client to take it, or for a body that has
    /// not ended.
    pub held_sets: u64,
    /// Tasks that were aborted or timed out, and whose work still runs. A spawned future counts a second after it was
    /// stopped, because until then it may only be waiting for the runtime to drop it.
    pub stuck: u64,
    /// Caught panics of hooks, conditions, probes, wakers and the `tracing` subscriber.
    pub hook_panics: u64,
    /// Log events and spans of this process that were not emitted, because the `tracing` subscriber was being called
    /// for another one. This prevents endless recursion if a subscriber adds tasks.
    pub log_suppressed: u64,
    /// Requests that a layer answered with 503 because the registry was full. They added no tasks.
    pub shed: u64,
    /// Dead letters that are kept: see [`DeadLetters`](crate::DeadLetters).
    pub dead_letters: u64,
    /// How many dead letters are kept at most: see
    /// [`TaskRegistryBuilder::dead_letters`](crate::TaskRegistryBuilder::dead_letters).
    pub dead_letter_capacity: u64,
    /// Dead letters that were evicted by newer ones.
    pub dead_letters_evicted: u64,
    /// How long the oldest pending task has been waiting to start. Excludes the task's own [delay](crate::Task::delay)
    /// and tasks of open sets. Paused tasks, and those that wait behind one in its set, are left out. Zero if no task is
    /// pending.
    ///
    /// So that this takes bounded time, not all of very many spawned tasks are looked at, but those that were added
    /// first: 65,536, or 4,096 of each shard if that is more. [`TaskRegistry::ages`](crate::TaskRegistry::ages) looks
    /// at all of them.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub oldest_pending: Duration,
    /// How long the longest of the attempts that are running has been running. Zero if none is. It looks at the same
    /// tasks as [`oldest_pending`](Self::oldest_pending).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub oldest_running: Duration,
    /// How long the oldest open set has had a task that waits in it. Zero if no set is open.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub oldest_open: Duration,
    /// The sum of the durations of all attempts that completed, failed, panicked or timed out. Excludes waiting.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub total_time: Duration,
    /// The sum of the times from the add to the start of the first attempt, of all tasks that have started and ended.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub total_queued: Duration,
    #[cfg_attr(feature = "serde", serde(rename = "ran"))]
    durations: DurationHistogram,
    queued: DurationHistogram,
    #[cfg_attr(feature = "serde", serde(rename = "by_name"))]
    names: BTreeMap<TaskName, NameMetrics>,
}

impl TaskMetrics {
    /// The number of tasks with each outcome. The metrics deref to it, so that `metrics.failed` works, too.
    #[must_use]
    pub const fn outcomes(&self) -> &OutcomeCounts {
        &self.outcomes
    }

    /// The mean duration of the tasks that completed, failed, panicked or timed out; zero without any.
    #[must_use]
    pub fn average_duration(&self) -> Duration {
        average(self.total_time, self.completed + self.failures())
    }

    /// The duration within which a share `q` of the attempts ended: `quantile(0.5)` is the median. The value is at most
    /// 1/16 too high, and zero without attempts. `q` is clamped to 0 to 1.
    ///
    /// See [`DurationHistogram`] for the precision.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        self.durations.quantile(q)
    }

    /// Like [`quantile`](Self::quantile), for the times from the add to the start of the first attempt, of the tasks
    /// that have started and ended.
    #[must_use]
    pub fn queued_quantile(&self, q: f64) -> Duration {
        self.queued.quantile(q)
    }

    /// The durations of the attempts that completed, failed, panicked or timed out. Excludes waiting.
    #[must_use]
    pub const fn run_times(&self) -> &DurationHistogram {
        &self.durations
    }

    /// The times from the add to the start of the first attempt, of the tasks that have started and ended.
    #[must_use]
    pub const fn wait_times(&self) -> &DurationHistogram {
        &self.queued
    }

    /// The metrics of each name, in alphabetical order.
    #[must_use]
    pub const fn by_name(&self) -> &BTreeMap<TaskName, NameMetrics> {
        &self.names
    }

    /// Adds the counters of a shard, which were read under one lock: so the equation holds.
    pub(crate) fn absorb(&mut self, added: u64, pending: u64, running: u64, outcomes: &OutcomeCounts) {
        self.added += added;
        self.pending += pending;
        self.running += running;
        self.outcomes.absorb(outcomes);
    }

    pub(crate) fn take_names(&mut self, names: BTreeMap<TaskName, NameMetrics>) {
        for name in names.values() {
            self.discarded_by.absorb(&name.discarded_by);
            self.lost += name.lost;
            self.retries += name.retries;
            self.retrying += name.retrying;
            self.total_time = self.total_time.saturating_add(name.total_time);
            self.durations.absorb(&name.durations);
            self.total_queued = self.total_queued.saturating_add(name.total_queued);
            self.queued.absorb(&name.queued);
        }
        self.names = names;
    }

    /// Adds what is known of the limit of a name, also if it has had no tasks.
    pub(crate) fn set_limit(&mut self, name: TaskName, limit: NameLimit) {
        let metrics = self.names.entry(name).or_default();
        metrics.paused = limit.paused;
        metrics.limit = limit.limit.map(|limit| limit as u64);
        metrics.limit_by_key = limit.limit_by_key.map(|limit| limit as u64);
        metrics.in_use = limit.in_use as u64;
    }

    /// Adds the ages of the oldest tasks of each name.
    pub(crate) fn take_oldest(&mut self, oldest: &FxHashMap<TaskName, Oldest>, now: Timestamp) {
        for (name, oldest) in oldest {
            let [pending, running] = oldest.ages(now);
            let name = self.names.entry(*name).or_default();
            (name.oldest_pending, name.oldest_running) = (pending, running);
        }
    }

    /// Adds the profile of each name.
    pub(crate) fn take_profiles(&mut self, profiles: FxHashMap<TaskName, NameProfile>) {
        for (name, profile) in profiles {
            self.names.entry(name).or_default().profile = Some(profile);
        }
    }

    /// Adds the dead letters of each name.
    pub(crate) fn take_dead_letters(&mut self, counts: &FxHashMap<TaskName, LetterCounts>) {
        for (name, LetterCounts { kept, evicted }) in counts {
            self.dead_letters += kept;
            self.dead_letters_evicted += evicted;
            let name = self.names.entry(*name).or_default();
            (name.dead_letters, name.dead_letters_evicted) = (*kept, *evicted);
        }
    }

    /// Adds the number of stuck tasks of each name.
    pub(crate) fn take_stuck(&mut self, stuck: &FxHashMap<TaskName, u64>) {
        for (name, stuck) in stuck {
            self.stuck += stuck;
            self.names.entry(*name).or_default().stuck = *stuck;
        }
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
            write!(f, ", {count} {}", kind.words())?;
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

/// The metrics of the tasks of one name.
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
    /// Whether the name is [paused](crate::TaskRegistry::pause): its pending and retrying tasks do not start.
    pub paused: bool,
    /// How many tasks of the name may run at a time; `None` without a limit.
    pub limit: Option<u64>,
    /// How many of them may run at a time for each key; `None` without a
    /// [limit](crate::TaskRegistryBuilder::limit_by_key).
    pub limit_by_key: Option<u64>,
    /// How many permits of the name are taken, as [`NameLimit::in_use`](crate::NameLimit::in_use). Zero if the name
    /// never had a limit.
    pub in_use: u64,
    /// As [`TaskMetrics::stuck`].
    pub stuck: u64,
    /// As [`TaskMetrics::dead_letters`].
    pub dead_letters: u64,
    /// As [`TaskMetrics::dead_letters_evicted`].
    pub dead_letters_evicted: u64,
    #[cfg_attr(feature = "serde", serde(flatten))]
    outcomes: OutcomeCounts,
    /// As [`TaskMetrics::discarded_by`].
    pub discarded_by: DiscardCounts,
    /// As [`TaskMetrics::lost`].
    pub lost: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Like [`TaskMetrics::oldest_pending`], also while the name is [paused](Self::paused). Of a set with very many pending
    /// tasks, some hundred are looked at.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub oldest_pending: Duration,
    /// Like [`TaskMetrics::oldest_running`].
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub oldest_running: Duration,
    /// Like [`TaskMetrics::total_time`].
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub total_time: Duration,
    /// Like [`TaskMetrics::total_queued`].
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub total_queued: Duration,
    /// What the polls of the tasks have taken; `None` if the registry does not
    /// [profile](crate::TaskRegistryBuilder::profile), or no poll and no closure of the name has returned.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub profile: Option<NameProfile>,
    #[cfg_attr(feature = "serde", serde(rename = "ran"))]
    durations: DurationHistogram,
    queued: DurationHistogram,
}

impl NameMetrics {
    /// Like [`TaskMetrics::outcomes`].
    #[must_use]
    pub const fn outcomes(&self) -> &OutcomeCounts {
        &self.outcomes
    }

    /// Like [`TaskMetrics::average_duration`].
    #[must_use]
    pub fn average_duration(&self) -> Duration {
        average(self.total_time, self.completed + self.failures())
    }

    /// Like [`TaskMetrics::quantile`].
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        self.durations.quantile(q)
    }

    /// Like [`TaskMetrics::queued_quantile`].
    #[must_use]
    pub fn queued_quantile(&self, q: f64) -> Duration {
        self.queued.quantile(q)
    }

    /// Like [`TaskMetrics::run_times`].
    #[must_use]
    pub const fn run_times(&self) -> &DurationHistogram {
        &self.durations
    }

    /// Like [`TaskMetrics::wait_times`].
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
        let discards = counters.discards.as_deref().copied().unwrap_or_default();
        self.discarded_by.absorb(&discards);
        self.lost += counters.outcomes.failures() + counters.outcomes.aborted + discards.losses();
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
