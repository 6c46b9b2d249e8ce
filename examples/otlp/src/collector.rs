//! A collector on loopback, with a thread of its own.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value},
    metrics::v1::{metric, number_data_point},
    trace::v1::Span,
};
use postlude::BoxError;
use prost::Message as _;
use tokio::{net::TcpListener, runtime::Builder};

#[derive(Default)]
struct Bodies {
    traces: Vec<Bytes>,
    metrics: Vec<Bytes>,
}

type Shared = Arc<Mutex<Bodies>>;

pub(crate) struct Collector {
    address: SocketAddr,
    bodies: Shared,
}

/// What the exports had in them.
pub(crate) struct Received {
    pub(crate) spans: Vec<Span>,
    /// Of the last export: the name of the metric, the name of the task, the outcome; and the value, if it is not zero.
    pub(crate) points: Vec<(String, i64)>,
}

// An empty answer is a message of the protocol with no field set: everything was accepted.
async fn traces(State(bodies): State<Shared>, body: Bytes) {
    bodies.lock().unwrap_or_else(PoisonError::into_inner).traces.push(body);
}

async fn metrics(State(bodies): State<Shared>, body: Bytes) {
    bodies.lock().unwrap_or_else(PoisonError::into_inner).metrics.push(body);
}

pub(crate) fn start() -> io::Result<Collector> {
    let bodies = Shared::default();
    let app = Router::new()
        .route("/v1/traces", post(traces))
        .route("/v1/metrics", post(metrics))
        .with_state(Arc::clone(&bodies));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let serve = move || runtime.block_on(async { axum::serve(listener, app).await });
    thread::Builder::new().name("collector".into()).spawn(serve)?;
    Ok(Collector { address, bodies })
}

impl Collector {
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was exported so far.
    pub(crate) fn received(&self) -> Result<Received, BoxError> {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans = Vec::new();
        for body in &bodies.traces {
            let export = ExportTraceServiceRequest::decode(body.clone())?;
            let scopes = export.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
            spans.extend(scopes.flat_map(|scope| scope.spans));
        }
        let last = bodies.metrics.last().ok_or("the collector got no metrics")?;
        let points = points(ExportMetricsServiceRequest::decode(last.clone())?);
        Ok(Received { spans, points })
    }
}

fn points(export: ExportMetricsServiceRequest) -> Vec<(String, i64)> {
    let mut points = Vec::new();
    let scopes = export.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
    for metric in scopes.flat_map(|scope| scope.metrics) {
        let Some(metric::Data::Sum(sum)) = metric.data else { continue };
        for point in sum.data_points {
            let labels = [text(&point.attributes, "task.name"), text(&point.attributes, "outcome")];
            if let Some(number_data_point::Value::AsInt(value @ 1..)) = point.value {
                points.push((format!("{} {}", metric.name, labels.join(" ")), value));
            }
        }
    }
    points
}

/// The text of an attribute; empty if there is none.
pub(crate) fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    let attribute = attributes.iter().find(|attribute| attribute.key == key);
    match attribute.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text,
        _ => "",
    }
}
