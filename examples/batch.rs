//! An axum service that receives one event per request and writes the events to a file in batches: of 100 events, or
//! one second after the first event of a batch. At its capacity it answers 503, so that its memory is bounded.
//!
//! Run `cargo run --example batch`, then the `curl` commands that it prints. Ctrl-C or SIGTERM shuts it down
//! gracefully: waiting events are written first.
#![expect(clippy::print_stdout, reason = "an example may print")]

use std::{env, error::Error, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use postlude::{BatchPolicy, Batcher, TaskRegistry};
use serde::{Deserialize, Serialize};
use tokio::{fs::OpenOptions, io::AsyncWriteExt, net::TcpListener};
use tracing::info;

#[derive(Deserialize, Serialize)]
struct Event {
    kind: String,
}

#[derive(Clone)]
struct App {
    registry: TaskRegistry,
    events: Batcher<Event>,
}

async fn event(State(app): State<App>, Json(event): Json<Event>) -> (StatusCode, &'static str) {
    match app.events.try_push(event) {
        Ok(()) => (StatusCode::ACCEPTED, "accepted\n"),
        // The batcher is full or shut down. To wait instead of failing: `app.events.push(event).await`.
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "too many events wait to be written, try again later\n"),
    }
}

/// Writes one line per event, in one write.
async fn write(path: Arc<PathBuf>, events: Vec<Event>) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for event in &events {
        serde_json::to_writer(&mut lines, event)?;
        lines.push(b'\n');
    }
    let mut file = OpenOptions::new().create(true).append(true).open(&*path).await?;
    file.write_all(&lines).await?;
    file.flush().await?;
    info!(events = events.len(), "written");
    Ok(())
}

async fn batches(State(app): State<App>) -> String {
    let metrics = app.registry.metrics();
    format!("{} batches written, {} waiting or being written\n", metrics.completed, metrics.pending + metrics.running)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let port: u16 = match env::var("PORT") {
        Ok(port) => port.parse().map_err(|error| format!("PORT={port}: {error}"))?,
        Err(_) => 3000,
    };
    let path = Arc::new(env::temp_dir().join(format!("postlude-events-{}.jsonl", std::process::id())));

    // One batch at a time, so that the lines are in order.
    let registry = TaskRegistry::builder().limit_by_name("events", 1).build()?;
    let policy = BatchPolicy::default().max_items(100).max_delay(Duration::from_secs(1));
    let file = Arc::clone(&path);
    let events = registry.batcher("events", policy, move |events| write(Arc::clone(&file), events));

    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("port {port}: {error}; try another one: PORT=3001"))?;
    let address = listener.local_addr()?;
    println!("listening on {address}; try:");
    println!(r#"  curl -i http://{address}/events -H 'content-type: application/json' -d '{{"kind": "click"}}'"#);
    println!("  # 250 events: two full batches at once, and the last 50 events a second later");
    println!(
        r#"  curl -s -H 'content-type: application/json' -d '{{"kind": "click"}}' 'http://{address}/events?[1-250]' -o /dev/null"#
    );
    println!("  curl http://{address}/batches");
    println!("  wc -l {}", path.display());
    println!("and Ctrl-C to shut it down gracefully");

    let report = registry
        .serve(Duration::from_secs(10), |stop| {
            let app = Router::new()
                .route("/events", post(event))
                .route("/batches", get(batches))
                .with_state(App { registry: registry.clone(), events });
            axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned())
        })
        .await?;
    println!("{report}");
    let written = std::fs::read_to_string(&*path).unwrap_or_default();
    println!("{} events are in the file", written.lines().count());
    Ok(())
}
