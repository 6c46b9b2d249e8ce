//! The registry's figures in Prometheus' terms.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{NameMetrics, TaskMetrics, TaskRegistry};

/// The figures of a registry for Prometheus: a collector for the `Registry` of `prometheus-client`.
///
/// ```
/// use postlude::{Task, TaskCollector, TaskRegistry};
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
/// // or, without one, the whole text:
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
/// | `postlude_task_wait_seconds` | `name` | histogram: from the add to the start of the first attempt, of tasks that ended |
/// | `postlude_tasks_pending`, `_running`, `_retrying`, `_stuck` | | tasks, now |
/// | `postlude_open_sets` | | sets that wait for their launch, now |
/// | `postlude_oldest_pending_seconds` | | how long the oldest pending task has been waiting |
/// | `postlude_dead_letters` | | dead letters that are kept, now |
/// | `postlude_dead_letters_displaced_total` | | dead letters that had to go for newer ones |
/// | `postlude_requests_shed_total` | | requests that were turned away at capacity |
/// | `postlude_hook_panics_total` | | panics of hooks, observers and conditions |
///
/// Names are literals in the source, so the number of series has a bound; ids and places are never labels. Nothing is
/// done on the path of a task: the figures are those of [`TaskRegistry::metrics`], taken at each scrape.
///
/// # Buckets
/// 25 for both histograms, each twice as long as the one before: `le` is 0.000262143, 0.000524287, 0.001048575 and so on
/// (0.268435455, 0.536870911, 1.073741823) to 4398.046511103 (73 min).
/// They are odd because they are exact: the last nanosecond before a power of two, where a bucket of the registry's own,
/// finer histogram ends. An alert at exactly one second takes 1.073741823; finer quantiles are in
/// [`TaskMetrics::quantile`].
#[derive(Clone, Debug)]
pub struct TaskCollector {
    registry: TaskRegistry,
}

impl TaskCollector {
    /// A collector of the figures of `registry`.
    #[must_use]
    pub const fn new(registry: TaskRegistry) -> Self {
        Self { registry }
    }

    /// The content type of [`text`](Self::text).
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The figures alone, as a scrape wants them: in the text format that `OpenMetrics` specifies.
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
        histogram(&metrics, &mut encoder, "postlude_task_run", "How long attempts ran", |name| {
            (name.total_time.as_secs_f64(), name.run_times().by_bound())
        })?;
        histogram(
            &metrics,
            &mut encoder,
            "postlude_task_wait",
            "How long tasks that ended had waited for the start of their first attempt",
            |name| (name.total_queued.as_secs_f64(), name.wait_times().by_bound()),
        )
    }
}

/// What has no labels.
fn totals(metrics: &TaskMetrics, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let counters = [
        ("postlude_tasks_added", "Tasks that were added or spawned", metrics.added),
        ("postlude_dead_letters_displaced", "Dead letters that had to go for newer ones", metrics.dead_letters_evicted),
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
        ("postlude_open_sets", "Sets with tasks that wait for their launch", metrics.open_sets),
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
    for (name, figures) in metrics.by_name() {
        for (outcome, count) in figures.outcomes().iter() {
            let labels = [("name", name.as_str()), ("outcome", outcome.label())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

fn retries(metrics: &TaskMetrics, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let (name, help) = ("postlude_task_retries", "Attempts after the first");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (name, figures) in metrics.by_name() {
        let labels = [("name", name.as_str())];
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&figures.retries, None)?;
    }
    Ok(())
}

fn histogram(
    metrics: &TaskMetrics,
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    figures: impl Fn(&NameMetrics) -> (f64, Vec<(f64, u64)>),
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (name, of_name) in metrics.by_name() {
        let (sum, buckets) = figures(of_name);
        let count = buckets.iter().map(|(_, count)| count).sum();
        let labels = [("name", name.as_str())];
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}
