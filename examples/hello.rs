//! An axum service whose sign-up answers at once and adds two tasks: sending a mail, and writing a line to an audit
//! log.
//!
//! Run `cargo run --example hello`, then the `curl` commands that it prints. Ctrl-C or SIGTERM shuts it down
//! gracefully.
#![expect(clippy::print_stdout, reason = "an example may print")]

use std::{env, error::Error, fs, io::Write, path::PathBuf, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use postlude::{Task, TaskLayer, TaskRegistry, TaskSet};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, signal};
use tracing::info;

#[derive(Clone)]
struct App {
    registry: TaskRegistry,
    audit_log: PathBuf,
}

#[derive(Deserialize)]
struct Signup {
    email: String,
}

async fn signup(
    State(app): State<App>,
    tasks: TaskSet,
    Json(Signup { email }): Json<Signup>,
) -> Result<(StatusCode, &'static str), (StatusCode, &'static str)> {
    if !email.contains('@') {
        return Err((StatusCode::UNPROCESSABLE_ENTITY, "`email` is not an e-mail address: it has no @\n"));
    }
    let line = format!("signed up: {email}\n");
    tasks.add(Task::new(send_mail(email)).named("welcome_mail").timeout(Duration::from_secs(30)));
    tasks.add(Task::blocking(move || append(&app.audit_log, &line)).named("audit_log"));
    Ok((StatusCode::ACCEPTED, "welcome!\n"))
}

/// Stands in for a mail server.
async fn send_mail(email: String) -> Result<(), Box<dyn Error + Send + Sync>> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    info!(email, "mail sent");
    Ok(())
}

fn append(path: &PathBuf, line: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
}

#[derive(Serialize)]
struct Metrics {
    added: u64,
    pending: u64,
    running: u64,
    completed: u64,
    failed: u64,
    panicked: u64,
    timed_out: u64,
    aborted: u64,
    discarded: u64,
    retries: u64,
    open_sets: u64,
    stuck: u64,
    oldest_pending: f64,
    total_time: f64,
}

async fn metrics(State(app): State<App>) -> Json<Metrics> {
    let m = app.registry.metrics();
    Json(Metrics {
        added: m.added,
        pending: m.pending,
        running: m.running,
        completed: m.completed,
        failed: m.failed,
        panicked: m.panicked,
        timed_out: m.timed_out,
        aborted: m.aborted,
        discarded: m.discarded,
        retries: m.retries,
        open_sets: m.open_sets,
        stuck: m.stuck,
        oldest_pending: m.oldest_pending.as_secs_f64(),
        total_time: m.total_time.as_secs_f64(),
    })
}

async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let port: u16 = match env::var("PORT") {
        Ok(port) => port.parse().map_err(|error| format!("PORT={port}: {error}"))?,
        Err(_) => 3000,
    };
    let folder = tempfile::tempdir()?;
    let audit_log = folder.path().join("audit.log");

    let registry = TaskRegistry::new();
    let app = Router::new()
        .route("/signup", post(signup))
        .route("/metrics", get(metrics))
        .with_state(App { registry: registry.clone(), audit_log: audit_log.clone() })
        .layer(TaskLayer::new(registry.clone()));

    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("port {port}: {error}; try another one: PORT=3001 cargo run --example hello"))?;
    let address = listener.local_addr()?;
    println!("listening on {address}; try:");
    println!(
        r#"  curl -i http://{address}/signup -H 'content-type: application/json' -d '{{"email": "a@example.com"}}'"#
    );
    println!("  curl http://{address}/metrics");
    println!("  tail -f {}", audit_log.display());
    println!("and Ctrl-C to shut it down gracefully");

    let stop = async {
        if let Err(error) = stop_signal().await {
            println!("can't wait for signals: {error}");
        }
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    println!("{}", registry.shutdown(Duration::from_secs(10)).await);
    Ok(())
}
