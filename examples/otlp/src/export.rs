//! Exports the spans and the metrics of tasks. This file can be copied into a service.

use opentelemetry::{KeyValue, metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
use postlude::{BoxError, TaskRegistry};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Exports the spans of the service and of its tasks: those are of level DEBUG and of target `postlude`. Lines of the
/// log within a span are its events. The exporter's own lines must not be exported, so the targets are listed.
pub(crate) fn traces(endpoint: &str) -> Result<SdkTracerProvider, BoxError> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .build()?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
    let targets = Targets::new()
        .with_target("postlude", LevelFilter::DEBUG)
        .with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO);
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("service")).with_filter(targets);
    tracing_subscriber::registry().with(layer).try_init()?;
    Ok(provider)
}

/// Exports how many tasks have ended, by name and outcome. The counts are those of the registry: nothing is counted
/// twice, and nothing is done while nobody collects.
pub(crate) fn metrics(endpoint: &str, registry: TaskRegistry) -> Result<SdkMeterProvider, BoxError> {
    let exporter = MetricExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}/v1/metrics"))
        .build()?;
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter).build();
    provider
        .meter("postlude")
        .u64_observable_counter("tasks.ended")
        .with_callback(move |ended| {
            for (name, metrics) in registry.metrics().by_name() {
                for (outcome, count) in metrics.outcomes().iter() {
                    let name = KeyValue::new("task.name", name.to_string());
                    ended.observe(count, &[name, KeyValue::new("outcome", outcome.label())]);
                }
            }
        })
        .build();
    Ok(provider)
}
