//! Tasks that fail, in Sentry: each once, with its name, its place in the source, the chain of its errors, and the
//! breadcrumbs of its request.
//!
//! Run `cargo run -p postlude-example-sentry`. A service sends to a receiver of Sentry's protocol on loopback. Two
//! requests at a time leave a task each: one returns an error, the other panics. The example then compares what the
//! receiver got, prints it, and fails if it is not that. With the DSN of a project, the same code reports to Sentry.
#![expect(clippy::print_stdout, reason = "an example may print")]

mod receiver;
mod report;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use postlude::{BoxError, Task, TaskLayer, TaskRegistry, TaskSet};
use sentry::{
    ClientOptions, integrations::tower::NewSentryLayer, integrations::tracing as sentry_tracing, protocol::Event,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Barrier, oneshot},
};
use tracing::info;
use tracing_subscriber::{Layer as _, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Makes the requests overlap, and then their tasks.
type Meeting = Arc<Barrier>;

#[derive(Debug, thiserror::Error)]
#[error("the invoice was not sent")]
struct NotSent(#[source] io::Error);

async fn invoice(State(both): State<Meeting>, tasks: TaskSet) -> StatusCode {
    info!("order 7 was placed");
    both.wait().await;
    tasks.add(Task::new(send_invoice(both)).named("invoice"));
    StatusCode::ACCEPTED
}

async fn send_invoice(both: Meeting) -> Result<(), BoxError> {
    both.wait().await;
    info!("the invoice has 2 pages");
    both.wait().await;
    let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "the mail server refused the connection");
    Err(NotSent(refused).into())
}

async fn thumbnail(State(both): State<Meeting>, tasks: TaskSet) -> StatusCode {
    info!("picture 3 was uploaded");
    both.wait().await;
    tasks.add(Task::new(make_thumbnail(both)).named("thumbnail"));
    StatusCode::ACCEPTED
}

#[expect(clippy::panic, reason = "it shows what becomes of a panic")]
async fn make_thumbnail(both: Meeting) {
    both.wait().await;
    info!("the picture has 12 megapixels");
    both.wait().await;
    panic!("the picture has no pixels")
}

/// Reads the whole answer, as a client does.
async fn request(address: SocketAddr, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: service\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.starts_with("HTTP/1.1 202") { Ok(()) } else { Err(io::Error::other(format!("{path}: {answer}"))) }
}

#[tokio::main]
async fn serve() -> Result<(), BoxError> {
    let registry = report::to_sentry(TaskRegistry::builder()).build()?;
    let app = Router::new()
        .route("/invoice", get(invoice))
        .route("/thumbnail", get(thumbnail))
        .with_state(Arc::new(Barrier::new(2)))
        .layer(TaskLayer::new(registry.clone()))
        // A hub for each request: its breadcrumbs are its own.
        .layer(NewSentryLayer::new_from_top());
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
    let receiver = receiver::start()?;
    let sentry = sentry::init(ClientOptions {
        dsn: Some(receiver.dsn().parse()?),
        shutdown_timeout: Duration::from_secs(10),
        ..ClientOptions::default()
    });
    // Failures are reported by `report`, with more than their line of the log has. The lines are breadcrumbs.
    let to_sentry = sentry_tracing::layer().event_filter(|metadata| match metadata.target() {
        "postlude" => sentry_tracing::EventFilter::Ignore,
        _ => sentry_tracing::default_event_filter(metadata),
    });
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_filter(LevelFilter::INFO))
        .with(to_sentry.with_filter(LevelFilter::INFO))
        .init();

    serve()?;
    // Sends what is still queued.
    drop(sentry);
    check(&mut receiver.received()?)
}

/// What an event says, in the words of the lines below.
fn summary(event: &Event<'_>) -> String {
    let tag = |name| event.tags.get(name).map_or("none", String::as_str);
    let place = tag("task.location").split(':').next().unwrap_or_default();
    let errors: Vec<_> = event.exception.iter().filter_map(|exception| exception.value.as_deref()).collect();
    let crumbs: Vec<_> = event.breadcrumbs.iter().filter_map(|crumb| crumb.message.as_deref()).collect();
    format!(
        "{} {} in {place}: {}; breadcrumbs: {}",
        event.level,
        tag("task.name"),
        errors.join(" < "),
        crumbs.join(", ")
    )
}

fn check(events: &mut [Event<'static>]) -> Result<(), BoxError> {
    let expected = [
        "error invoice in examples/sentry/src/main.rs: the mail server refused the connection < the invoice was not \
         sent; breadcrumbs: order 7 was placed, the invoice has 2 pages",
        "fatal thumbnail in examples/sentry/src/main.rs: the picture has no pixels; breadcrumbs: picture 3 was \
         uploaded, the picture has 12 megapixels",
    ];
    events.sort_by_key(|event| event.tags.get("task.name").cloned());
    let received: Vec<_> = events.iter().map(summary).collect();
    for line in &received {
        println!("received: {line}");
    }
    if received != expected {
        for line in expected {
            println!("expected: {line}");
        }
        return Err("the receiver did not get the expected events: compare the lines above".into());
    }
    let places: Vec<_> = events.iter().filter_map(|event| event.tags.get("task.location")).collect();
    if places.len() != 2 || places.first() == places.last() {
        return Err(format!("each task has a place of its own in the source, not {places:?}").into());
    }
    Ok(())
}
