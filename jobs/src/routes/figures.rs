//! Figures for Prometheus.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    model::stats::{Figure, JobStats, NameStats},
    worker::metrics::WorkerMetrics,
};

/// The content type of [`write`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is written at one scrape.
#[derive(Debug)]
struct Figures {
    stats: JobStats,
    worker: WorkerMetrics,
}

/// The figures in the text format of `OpenMetrics`.
pub(super) fn write(stats: JobStats, worker: WorkerMetrics) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures { stats, worker }));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _written = text::encode(&mut text, &registry);
    text
}

impl Figures {
    fn gauge<V: EncodeGaugeValue>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        figure: Figure,
        (name, help, unit): (&str, &str, Option<&Unit>),
        value: impl Fn(&NameStats) -> V,
    ) -> fmt::Result {
        // A figure that the engine does not tell is left out: a zero would be a lie.
        if self.stats.unknown.contains(&figure) {
            return Ok(());
        }
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (name, stats) in &self.stats.names {
            family.encode_family(&[("name", name.as_str())])?.encode_gauge(&value(stats))?;
        }
        Ok(())
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let e = &mut encoder;
        self.gauge(e, Figure::Waiting, ("postlude_jobs_waiting", "Jobs that are due and not reserved", None), |s| {
            s.waiting
        })?;
        self.gauge(e, Figure::Scheduled, ("postlude_jobs_scheduled", "Jobs that are due later", None), |s| {
            s.scheduled
        })?;
        self.gauge(e, Figure::Running, ("postlude_jobs_running", "Jobs that are reserved", None), |s| s.running)?;
        self.gauge(e, Figure::Dead, ("postlude_jobs_dead", "Dead jobs", None), |s| s.dead)?;
        self.gauge(e, Figure::Paused, ("postlude_jobs_paused", "Whether the name is paused", None), |s| {
            u64::from(s.paused)
        })?;
        let help = "For how long the oldest waiting job has been due";
        self.gauge(e, Figure::OldestWaiting, ("postlude_jobs_oldest_waiting", help, Some(&Unit::Seconds)), |s| {
            s.oldest_waiting.unwrap_or_default().as_secs_f64()
        })?;
        for (name, value) in self.worker.iter() {
            let metric = format!("postlude_jobs_worker_{name}");
            let mut family = e.encode_descriptor(&metric, "Since the worker has started", None, MetricType::Counter)?;
            family.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_unknown_is_left_out() {
        let mut stats = JobStats::default();
        stats.names.entry("mail".to_owned()).or_default().waiting = 3;
        let text = write(stats.clone(), WorkerMetrics::default());
        assert!(text.contains("postlude_jobs_waiting{name=\"mail\"} 3") && text.contains("postlude_jobs_running{"));
        stats.unknown = vec![Figure::Running];
        let text = write(stats, WorkerMetrics::default());
        assert!(text.contains("postlude_jobs_waiting{") && !text.contains("postlude_jobs_running"), "{text}");
    }
}
