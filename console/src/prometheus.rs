//! The metrics of registries for Prometheus.

use std::{borrow::Cow, fmt, iter, ops::RangeInclusive, time::Duration};

use postlude::{DurationHistogram, NameMetrics, NameProfile, TaskMetrics, TaskRegistry};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::buckets::{OF_POLLS, OF_TASKS, by_bound};

/// The metrics of one or several registries for Prometheus: a collector for the `Registry` of `prometheus-client`.
///
/// ```
/// use postlude::{Task, TaskRegistry};
/// use postlude_console::TaskCollector;
/// use prometheus_client::registry::Registry;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// registry.spawn(Task::new(async {}).named("mail")).await;
///
/// let mut metrics = Registry::default(); // the one that your service has
/// metrics.register_collector(Box::new(TaskCollector::new(registry.clone())));
///
/// // or, without one, all of the text:
/// let text = TaskCollector::new(registry).text();
/// assert!(text.contains(r#"postlude_tasks_total{name="mail",outcome="completed"} 1"#));
/// # }
/// ```
///
/// Several registries go into one collector, because an exposition describes each family once. The label `registry`
/// tells them apart:
///
/// ```
/// use postlude::TaskRegistry;
/// use postlude_console::TaskCollector;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let [mails, reports] = [(); 2].map(|()| TaskRegistry::new());
/// let text = TaskCollector::labelled([("mails", mails), ("reports", reports)]).text();
/// assert!(text.contains(r#"postlude_tasks_added_total{registry="mails"} 0"#));
/// # }
/// ```
///
/// | metric | labels | |
/// |---|---|---|
/// | `postlude_tasks_added_total` | | tasks that were added or spawned |
/// | `postlude_tasks_total` | `name`, `outcome` | tasks that ended |
/// | `postlude_task_retries_total` | `name` | attempts after the first |
/// | `postlude_task_run_seconds` | `name` | histogram: how long attempts ran |
/// | `postlude_task_wait_seconds` | `name` | histogram: how long tasks that ended had waited for the start of their first attempt |
/// | `postlude_tasks_pending`, `_running` | `name` | tasks, now: `sum()` has those of all names |
/// | `postlude_tasks_retrying` | `name` | of the running tasks, those that wait for their next attempt |
/// | `postlude_name_paused` | `name` | 1 if the name is [paused](TaskRegistry::pause), else 0 |
/// | `postlude_name_limit` | `name` | how many tasks of the name may run at a time, if that is limited |
/// | `postlude_name_limit_by_key` | `name` | how many tasks of the name may run at a time for each key, if that is limited |
/// | `postlude_name_in_use` | `name` | of a name that is limited: how many of its permits are taken |
/// | `postlude_tasks_stuck` | `name` | tasks that have their outcome while their work goes on |
/// | `postlude_tasks_discarded_total` | `name`, `reason` | tasks that never started, by [reason](postlude::DiscardReason) |
/// | `postlude_tasks_lost_total` | `name` | tasks whose outcome [is a loss](postlude::Outcome::is_loss): an increase is worth a call |
/// | `postlude_oldest_pending_seconds` | `name` | how long the oldest pending task has been waiting: `max()` has that of all names |
/// | `postlude_oldest_running_seconds` | `name` | how long the longest of the running attempts has been running |
/// | `postlude_capacity` | | the capacity, if there is one |
/// | `postlude_live_tasks` | | pending and running tasks, which count against the capacity |
/// | `postlude_open_sets` | | sets with tasks that have not begun to drain, now |
/// | `postlude_held_sets` | | of these, those that have their response and wait for the client or the body |
/// | `postlude_oldest_open_seconds` | | how long the oldest open set has had a task |
/// | `postlude_dead_letters` | | dead letters that are kept, now |
/// | `postlude_dead_letters_evicted_total` | | dead letters that newer ones evicted |
/// | `postlude_requests_shed_total` | | requests that were turned away at capacity |
/// | `postlude_hook_panics_total` | | panics of hooks, observers and conditions |
/// | `postlude_log_suppressed_total` | | lines and spans of this process that the log was not given |
/// | `postlude_runtime_workers`, `_alive_tasks`, `_queue_depth` | | tokio's [figures](postlude::RuntimeMetrics) of the runtime |
///
/// A registry that [profiles](postlude::TaskRegistryBuilder::profile) its tasks has more of them, for each name:
///
/// | metric | labels | |
/// |---|---|---|
/// | `postlude_task_polls_total` | `name` | polls that have returned |
/// | `postlude_slow_polls_total` | `name` | polls that took [`slow_poll`](postlude::Profile::slow_poll) or longer |
/// | `postlude_task_busy_seconds_total` | `name` | time inside polls and closures |
/// | `postlude_task_idle_seconds_total` | `name` | time from the end of a poll until the task was woken |
/// | `postlude_task_scheduled_seconds_total` | `name` | time from a wake-up to the poll that followed |
/// | `postlude_task_cpu_seconds_total` | `name` | processor time of closures |
/// | `postlude_task_allocated_bytes_total` | `name` | bytes allocated, not bytes held, if that is [measured](postlude::Profile::allocations) |
/// | `postlude_task_poll_seconds` | `name` | histogram: how long polls took |
/// | `postlude_task_schedule_delay_seconds` | `name` | histogram: the times from a wake-up to the poll that followed |
///
/// If registries are [labelled](Self::labelled), each series has the label `registry`, too.
///
/// The names of tasks are a bounded set, and so is the number of series; ids and source locations are never labels. The
/// collector costs a task nothing: it calls [`TaskRegistry::metrics`] at each scrape.
///
/// # Buckets
/// 25 for each histogram of tasks, each twice as long as the one before: `le` is 0.000262143, 0.000524287, 0.001048575
/// and so on (0.268435455, 0.536870911, 1.073741823) to 4398.046511103 (73 min). The numbers are odd because the counts
/// are exact: a bound is the last nanosecond before a power of two, at which a bucket of the registry's own, finer
/// histogram ends. Those of polls and their delays are from 0.000001023 to 17.179869183. An alert at one second takes
/// 1.073741823; [`TaskMetrics::quantile`] has finer quantiles.
#[derive(Clone, Debug)]
pub struct TaskCollector {
    registries: Vec<(Option<Cow<'static, str>>, TaskRegistry)>,
}

impl TaskCollector {
    /// The content type of [`text`](Self::text).
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// A collector of the metrics of `registry`, without the label `registry`.
    #[must_use]
    pub fn new(registry: TaskRegistry) -> Self {
        Self { registries: vec![(None, registry)] }
    }

    /// A collector of the metrics of several registries, each with the value of its label `registry`. The values have
    /// to differ: Prometheus refuses an exposition that has a series twice.
    #[must_use]
    pub fn labelled<L>(registries: impl IntoIterator<Item = (L, TaskRegistry)>) -> Self
    where
        L: Into<Cow<'static, str>>,
    {
        let registries = registries.into_iter().map(|(label, registry)| (Some(label.into()), registry));
        Self { registries: registries.collect() }
    }

    /// The metrics of these registries alone, in the text format of `OpenMetrics`: the answer to a scrape.
    #[must_use]
    pub fn text(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _written = text::encode(&mut text, &registry);
        text
    }
}

impl Collector for TaskCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let registries = self.registries.iter();
        let snapshots = registries.map(|(label, registry)| (label.as_deref(), registry.metrics())).collect();
        Families { snapshots, encoder }.encode()
    }
}

/// The families, each of which is written once, with the series of all registries.
struct Families<'a, 'b> {
    snapshots: Vec<(Option<&'a str>, TaskMetrics)>,
    encoder: DescriptorEncoder<'b>,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Families<'_, '_> {
    fn encode(mut self) -> fmt::Result {
        self.counter("postlude_tasks_added", "Tasks that were added or spawned", |m| m.added)?;
        self.counter("postlude_dead_letters_evicted", "Dead letters that newer ones evicted", |m| {
            m.dead_letters_evicted
        })?;
        self.counter("postlude_requests_shed", "Requests that were turned away at capacity", |m| m.shed)?;
        self.counter("postlude_hook_panics", "Panics of hooks, observers and conditions", |m| m.hook_panics)?;
        let help = "Lines and spans of this process that the log was not given";
        self.counter("postlude_log_suppressed", help, |m| m.log_suppressed)?;

        self.limits_of_names()?;
        self.capacity()?;
        self.gauge("postlude_live_tasks", "Tasks that have no outcome", None, |m| m.live)?;
        let help = "Sets with tasks that have not begun to drain";
        self.gauge("postlude_open_sets", help, None, |m| m.open_sets)?;
        let help = "Open sets that have their response and wait for the client or the body";
        self.gauge("postlude_held_sets", help, None, |m| m.held_sets)?;
        let (help, seconds) = ("How long the oldest open set has had a task", Some(&Unit::Seconds));
        self.gauge("postlude_oldest_open", help, seconds, |m| m.oldest_open.as_secs_f64())?;
        self.gauge("postlude_dead_letters", "Dead letters that are kept", None, |m| m.dead_letters)?;
        let help = "Threads of the runtime that poll tasks";
        self.gauge("postlude_runtime_workers", help, None, |m| m.runtime.workers)?;
        let help = "Tasks of the runtime that have not ended";
        self.gauge("postlude_runtime_alive_tasks", help, None, |m| m.runtime.alive_tasks)?;
        let help = "Tasks of the runtime that wait in the queue that all workers share";
        self.gauge("postlude_runtime_queue_depth", help, None, |m| m.runtime.queue_depth)?;
        self.by_name()
    }

    fn by_name(mut self) -> fmt::Result {
        self.gauge_by_name("postlude_tasks_pending", "Tasks that have not started", None, |m| m.pending)?;
        let help = "Tasks that have started and have no outcome";
        self.gauge_by_name("postlude_tasks_running", help, None, |m| m.running)?;
        let help = "Running tasks that wait for their next attempt";
        self.gauge_by_name("postlude_tasks_retrying", help, None, |m| m.retrying)?;
        let help = "Tasks that have their outcome while their work goes on";
        self.gauge_by_name("postlude_tasks_stuck", help, None, |m| m.stuck)?;
        let (help, seconds) = ("How long the oldest pending task has been waiting", Some(&Unit::Seconds));
        self.gauge_by_name("postlude_oldest_pending", help, seconds, |m| m.oldest_pending.as_secs_f64())?;
        let help = "How long the longest of the running attempts has been running";
        self.gauge_by_name("postlude_oldest_running", help, seconds, |m| m.oldest_running.as_secs_f64())?;
        let label = "outcome";
        self.counters("postlude_tasks", "Tasks that ended", label, |m| {
            m.outcomes().iter().map(|(o, n)| (o.label(), n))
        })?;
        let (help, label) = ("Tasks that never started", "reason");
        self.counters("postlude_tasks_discarded", help, label, |m| m.discarded_by.iter().map(|(r, n)| (r.label(), n)))?;
        self.counter_by_name("postlude_tasks_lost", "Tasks whose work was lost", |m| m.lost)?;
        self.counter_by_name("postlude_task_retries", "Attempts after the first", |m| m.retries)?;
        self.histogram("postlude_task_run", "How long attempts ran", OF_TASKS, |m| Some(m.run_times()))?;
        let help = "How long tasks that ended had waited for the start of their first attempt";
        self.histogram("postlude_task_wait", help, OF_TASKS, |m| Some(m.wait_times()))?;
        if by_name(&self.snapshots).any(|(_, metrics)| metrics.profile.is_some()) { self.profiles() } else { Ok(()) }
    }

    /// Names without a profile have no series.
    fn profiles(mut self) -> fmt::Result {
        type Time = fn(&NameProfile) -> Option<Duration>;
        type Count = fn(&NameProfile) -> Option<u64>;
        let counts: [(&str, &str, Option<&Unit>, Count); 3] = [
            ("postlude_task_polls", "Polls that have returned", None, |p| Some(p.polls)),
            ("postlude_slow_polls", "Polls that took long", None, |p| Some(p.slow_polls)),
            ("postlude_task_allocated", "Bytes allocated, not bytes held", Some(&Unit::Bytes), |p| p.allocated),
        ];
        for (name, help, unit, count) in counts {
            self.counter_of_profiles(name, help, unit, count)?;
        }
        let help = "Time from a wake-up to the poll that followed";
        let times: [(&str, &str, Time); 4] = [
            ("postlude_task_busy", "Time inside polls and closures", |p| Some(p.busy)),
            ("postlude_task_idle", "Time from the end of a poll until the task was woken", |p| Some(p.idle)),
            ("postlude_task_scheduled", help, |p| Some(p.scheduled)),
            ("postlude_task_cpu", "Processor time of closures", |p| p.cpu),
        ];
        for (name, help, time) in times {
            let seconds = |profile: &NameProfile| time(profile).map(|time| time.as_secs_f64());
            self.counter_of_profiles(name, help, Some(&Unit::Seconds), seconds)?;
        }
        self.histogram("postlude_task_poll", "How long polls took", OF_POLLS, |m| {
            m.profile.as_ref().map(NameProfile::poll_times)
        })?;
        self.histogram("postlude_task_schedule_delay", help, OF_POLLS, |m| {
            m.profile.as_ref().map(NameProfile::schedule_delays)
        })
    }

    fn counter_of_profiles<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl Fn(&NameProfile) -> Option<V>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, metrics) in by_name(&self.snapshots) {
            if let Some(value) = metrics.profile.as_ref().and_then(&value) {
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Fn(&TaskMetrics) -> u64) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (registry, metrics) in &self.snapshots {
            encode_series(&mut family, *registry, |series| {
                series.encode_counter::<NoLabelSet, _, u64>(&value(metrics), None)
            })?;
        }
        Ok(())
    }

    fn gauge<V>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl Fn(&TaskMetrics) -> V,
    ) -> fmt::Result
    where
        V: prometheus_client::encoding::EncodeGaugeValue,
    {
        let mut family = self.encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (registry, metrics) in &self.snapshots {
            encode_series(&mut family, *registry, |series| series.encode_gauge(&value(metrics)))?;
        }
        Ok(())
    }

    /// Registries without a capacity have no series.
    fn capacity(&mut self) -> fmt::Result {
        let help = "The highest number of live tasks";
        let mut family = self.encoder.encode_descriptor("postlude_capacity", help, None, MetricType::Gauge)?;
        for (registry, metrics) in &self.snapshots {
            if let Some(capacity) = metrics.capacity {
                encode_series(&mut family, *registry, |series| series.encode_gauge(&capacity))?;
            }
        }
        Ok(())
    }

    fn gauge_by_name<V>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl Fn(&NameMetrics) -> V,
    ) -> fmt::Result
    where
        V: prometheus_client::encoding::EncodeGaugeValue,
    {
        let mut family = self.encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, metrics) in by_name(&self.snapshots) {
            family.encode_family(&labels)?.encode_gauge(&value(metrics))?;
        }
        Ok(())
    }

    /// Names without a limit have no series of the limit.
    fn limits_of_names(&mut self) -> fmt::Result {
        type Figure = fn(&NameMetrics) -> Option<u64>;
        let figures: [(&str, &str, Figure); 4] = [
            ("postlude_name_paused", "Whether the name is paused", |m| Some(m.paused.into())),
            ("postlude_name_limit", "How many tasks of the name may run at a time", |m| m.limit),
            ("postlude_name_limit_by_key", "How many tasks of the name may run at a time for each key", |m| {
                m.limit_by_key
            }),
            ("postlude_name_in_use", "The permits of the name that are taken", |m| m.limit.and(Some(m.in_use))),
        ];
        for (name, help, figure) in figures {
            let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, metrics) in by_name(&self.snapshots) {
                if let Some(value) = figure(metrics) {
                    family.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }

    /// A counter for each name and each value of another label.
    fn counters<I>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        counts: impl Fn(&NameMetrics) -> I,
    ) -> fmt::Result
    where
        I: Iterator<Item = (&'static str, u64)>,
    {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, metrics) in by_name(&self.snapshots) {
            for (value, count) in counts(metrics) {
                let labels: Labels<'_> = labels.iter().copied().chain([(label, value)]).collect();
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn counter_by_name(&mut self, name: &str, help: &str, value: impl Fn(&NameMetrics) -> u64) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, metrics) in by_name(&self.snapshots) {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value(metrics), None)?;
        }
        Ok(())
    }

    /// Names for which `times` returns `None` have no series.
    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        powers: RangeInclusive<u32>,
        times: impl Fn(&NameMetrics) -> Option<&DurationHistogram>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, metrics) in by_name(&self.snapshots) {
            let Some(times) = times(metrics) else { continue };
            let (sum, buckets) = (times.total().as_secs_f64(), by_bound(powers.clone(), times.buckets()));
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, times.count(), &buckets, None)?;
        }
        Ok(())
    }
}

/// The metrics of each name of each registry, with their labels.
fn by_name<'a>(snapshots: &'a [(Option<&'a str>, TaskMetrics)]) -> impl Iterator<Item = (Labels<'a>, &'a NameMetrics)> {
    snapshots.iter().flat_map(|(registry, metrics)| {
        metrics.by_name().iter().map(|(name, metrics)| {
            (
                iter::once(("name", name.as_str())).chain(registry.map(|registry| ("registry", registry))).collect(),
                metrics,
            )
        })
    })
}

/// Encodes a series without a name. A family with an empty set of labels would write empty braces.
fn encode_series(
    family: &mut MetricEncoder<'_>,
    registry: Option<&str>,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    match registry {
        None => encode(family),
        Some(registry) => encode(&mut family.encode_family(&[("registry", registry)])?),
    }
}
