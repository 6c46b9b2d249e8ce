use std::fmt;

use postlude::{DurationHistogram, NameMetrics, TaskMetrics, TaskRegistry};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::buckets::by_bound;

/// The metrics of a registry for Prometheus: a collector for the `Registry` of `prometheus-client`.
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
/// | metric | labels | |
/// |---|---|---|
/// | `postlude_tasks_added_total` | | tasks that were added or spawned |
/// | `postlude_tasks_total` | `name`, `outcome` | tasks that ended |
/// | `postlude_task_retries_total` | `name` | attempts after the first |
/// | `postlude_task_run_seconds` | `name` | histogram: how long attempts ran |
/// | `postlude_task_wait_seconds` | `name` | histogram: how long tasks that ended had waited for the start of their first attempt |
/// | `postlude_tasks_pending`, `_running`, `_retrying`, `_stuck` | | tasks, now |
/// | `postlude_open_sets` | | sets with tasks that have not begun to drain, now |
/// | `postlude_oldest_pending_seconds` | | how long the oldest pending task has been waiting |
/// | `postlude_dead_letters` | | dead letters that are kept, now |
/// | `postlude_dead_letters_evicted_total` | | dead letters that newer ones evicted |
/// | `postlude_requests_shed_total` | | requests that were turned away at capacity |
/// | `postlude_hook_panics_total` | | panics of hooks, observers and conditions |
///
/// The names of tasks are a bounded set, and so is the number of series; ids and source locations are never labels. The
/// collector costs a task nothing: it calls [`TaskRegistry::metrics`] at each scrape.
///
/// # Buckets
/// 25 for both histograms, each twice as long as the one before: `le` is 0.000262143, 0.000524287, 0.001048575 and so on
/// (0.268435455, 0.536870911, 1.073741823) to 4398.046511103 (73 min).
/// The numbers are odd because the counts are exact: a bound is the last nanosecond before a power of two, at which a bucket
/// of the registry's own, finer histogram ends. An alert at one second takes 1.073741823; [`TaskMetrics::quantile`] has
/// finer quantiles.
#[derive(Clone, Debug)]
pub struct TaskCollector {
    registry: TaskRegistry,
}

impl TaskCollector {
    /// A collector of the metrics of `registry`.
    #[must_use]
    pub const fn new(registry: TaskRegistry) -> Self {
        Self { registry }
    }

    /// The content type of [`text`](Self::text).
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The metrics of this registry alone, in the text format of `OpenMetrics`: the answer to a scrape.
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
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.registry.metrics();
        totals(&metrics, &mut encoder)?;
        outcomes(&metrics, &mut encoder)?;
        retries(&metrics, &mut encoder)?;
        let help = "How long attempts ran";
        histogram(&metrics, &mut encoder, "postlude_task_run", help, NameMetrics::run_times)?;
        let help = "How long tasks that ended had waited for the start of their first attempt";
        histogram(&metrics, &mut encoder, "postlude_task_wait", help, NameMetrics::wait_times)
    }
}

/// The metrics without labels.
fn totals(metrics: &TaskMetrics, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let counters = [
        ("postlude_tasks_added", "Tasks that were added or spawned", metrics.added),
        ("postlude_dead_letters_evicted", "Dead letters that newer ones evicted", metrics.dead_letters_evicted),
        ("postlude_requests_shed", "Requests that were turned away at capacity", metrics.shed),
        ("postlude_hook_panics", "Panics of hooks, observers and conditions", metrics.hook_panics),
    ];
    for (name, help, value) in counters {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    let gauges = [
        ("postlude_tasks_pending", "Tasks that have not started", metrics.pending),
        ("postlude_tasks_running", "Tasks that have started and have no outcome", metrics.running),
        ("postlude_tasks_retrying", "Running tasks whose next attempt is not yet due", metrics.retrying),
        ("postlude_tasks_stuck", "Tasks that have their outcome while their work goes on", metrics.stuck),
        ("postlude_open_sets", "Sets with tasks that have not begun to drain", metrics.open_sets),
        ("postlude_dead_letters", "Dead letters that are kept", metrics.dead_letters),
    ];
    for (name, help, value) in gauges {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&value)?;
    }
    let (name, help) = ("postlude_oldest_pending", "How long the oldest pending task has been waiting");
    let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
    metric.encode_gauge(&metrics.oldest_pending.as_secs_f64())
}

fn outcomes(metrics: &TaskMetrics, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut family = encoder.encode_descriptor("postlude_tasks", "Tasks that ended", None, MetricType::Counter)?;
    for (name, counters) in metrics.by_name() {
        for (outcome, count) in counters.outcomes().iter() {
            let labels = [("name", name.as_str()), ("outcome", outcome.label())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

fn retries(metrics: &TaskMetrics, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let (name, help) = ("postlude_task_retries", "Attempts after the first");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (name, counters) in metrics.by_name() {
        let labels = [("name", name.as_str())];
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&counters.retries, None)?;
    }
    Ok(())
}

fn histogram(
    metrics: &TaskMetrics,
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    times: impl Fn(&NameMetrics) -> &DurationHistogram,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (name, metrics) in metrics.by_name() {
        let times = times(metrics);
        let (sum, buckets) = (times.total().as_secs_f64(), by_bound(times.buckets()));
        let labels = [("name", name.as_str())];
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, times.count(), &buckets, None)?;
    }
    Ok(())
}
