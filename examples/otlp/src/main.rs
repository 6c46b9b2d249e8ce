//! The spans and the metrics of tasks, exported by OpenTelemetry's protocol (OTLP) over HTTP.
//!
//! Run `cargo run -p postlude-example-otlp`. A service exports to a collector on loopback, which decodes what it gets.
//! Two requests leave a task each: one completes, the other fails. The example then compares what the collector got,
//! prints it, and fails if it is not that. With the address of a collector, the same code exports to it.
#![expect(clippy::print_stdout, reason = "an example may print")]

mod collector;
mod export;

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    middleware::{Next, from_fn},
    response::Response,
    routing::get,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use postlude::{BoxError, Task, TaskLayer, TaskRegistry, TaskSet};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::oneshot,
};
use tracing::{Instrument as _, info_span};

use self::collector::{Received, text};

async fn invoice(tasks: TaskSet) -> StatusCode {
    tasks.add(Task::new(async {}).named("invoice"));
    StatusCode::ACCEPTED
}

async fn thumbnail(tasks: TaskSet) -> StatusCode {
    let fails = async { Err::<(), BoxError>("the picture has no pixels".into()) };
    tasks.add(Task::new(fails).named("thumbnail"));
    StatusCode::ACCEPTED
}

/// Makes the span of a request.
async fn trace(request: Request, next: Next) -> Response {
    let span = info_span!("request", path = request.uri().path());
    next.run(request).instrument(span).await
}

/// Reads the whole answer, as a client does.
async fn request(address: SocketAddr, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: service\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.starts_with("HTTP/1.1 202") { Ok(()) } else { Err(io::Error::other(format!("{path}: {answer}"))) }
}

async fn serve(registry: TaskRegistry) -> Result<(), BoxError> {
    let app = Router::new()
        .route("/invoice", get(invoice))
        .route("/thumbnail", get(thumbnail))
        .layer(from_fn(trace))
        .layer(TaskLayer::new(registry.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;

    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let requests = async {
        let answered = tokio::try_join!(request(address, "/invoice"), request(address, "/thumbnail"));
        drop(stop);
        answered
    };
    tokio::try_join!(server, requests)?;
    println!("{}", registry.shutdown(Duration::from_secs(10)).await);
    Ok(())
}

fn main() -> Result<(), BoxError> {
    let collector = collector::start()?;
    let runtime = Runtime::new()?;
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build()?;
    let traces = export::traces(&collector.endpoint())?;
    let metrics = export::metrics(&collector.endpoint(), registry.clone())?;

    runtime.block_on(serve(registry))?;
    // The span of a task ends just after its end was reported, on a thread of the runtime: this waits for it.
    drop(runtime);
    // Exports what has not been exported yet. Both block, so they are called outside the runtime.
    traces.shutdown()?;
    metrics.shutdown()?;
    check(&collector.received()?)
}

/// What the span of a task says, in the words of the lines below.
fn describe(task: &Span, spans: &[Span]) -> String {
    let is_linked = |span: &&Span| {
        let same = |link: &opentelemetry_proto::tonic::trace::v1::span::Link| {
            link.trace_id == span.trace_id && link.span_id == span.span_id
        };
        task.links.iter().any(same)
    };
    let requests: Vec<_> = spans.iter().filter(is_linked).map(|span| text(&span.attributes, "path")).collect();
    let parent = if task.parent_span_id.is_empty() { "no parent" } else { "a parent" };
    let events: Vec<_> = task.events.iter().map(|event| &*event.name).collect();
    format!(
        "span `{}` of {}, linked to the request {}, {parent}, {}; events: {}",
        task.name,
        text(&task.attributes, "name"),
        requests.join(", "),
        if text(&task.attributes, "id").is_empty() { "no id" } else { "with its id" },
        events.join(", "),
    )
}

fn check(received: &Received) -> Result<(), BoxError> {
    let tasks = received.spans.iter().filter(|span| span.name == "task");
    let mut lines: Vec<_> = tasks.map(|task| describe(task, &received.spans)).collect();
    lines.extend(received.points.iter().map(|(labels, value)| format!("metric {labels}: {value}")));
    lines.sort();
    for line in &lines {
        println!("received: {line}");
    }
    let expected = [
        "metric tasks.ended invoice completed: 1",
        "metric tasks.ended thumbnail failed: 1",
        "span `task` of invoice, linked to the request /invoice, no parent, with its id; events: task completed",
        "span `task` of thumbnail, linked to the request /thumbnail, no parent, with its id; events: task failed",
    ];
    if lines != expected {
        for line in expected {
            println!("expected: {line}");
        }
        return Err("the collector did not get the expected spans and metrics: compare the lines above".into());
    }
    Ok(())
}
