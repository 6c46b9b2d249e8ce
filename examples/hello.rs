//! A sign-up that answers at once, and leaves two tasks: one sends a mail, the other appends a line to a log.
//!
//! Run `cargo run --example hello`, then the `curl` commands that it prints. Ctrl-C or SIGTERM ends it in order.
#![expect(clippy::print_stdout, reason = "an example may print")]

use std::{env, fs::OpenOptions, io::Write, time::Duration};

use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use postlude::{BoxError, Task, TaskLayer, TaskRegistry, TaskSet};
use serde::Deserialize;
use tokio::net::TcpListener;

#[derive(Deserialize)]
struct Signup {
    email: String,
}

async fn signup(tasks: TaskSet, Json(Signup { email }): Json<Signup>) -> (StatusCode, &'static str) {
    if !email.contains('@') {
        return (StatusCode::UNPROCESSABLE_ENTITY, "`email` is not an e-mail address: it has no @\n");
    }
    // A task outlives its request, so it owns what it needs.
    let line = format!("signed up: {email}\n");
    tasks.add(Task::new(send_mail(email)).named("welcome_mail"));
    tasks.add(Task::blocking(move || append(&line)).named("audit_log"));
    (StatusCode::ACCEPTED, "welcome!\n")
}

/// Stands in for a mail server.
async fn send_mail(email: String) -> Result<(), BoxError> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    tracing::info!(email, "mail sent");
    Ok(())
}

fn append(line: &str) -> std::io::Result<()> {
    let path = env::temp_dir().join("postlude-hello.log");
    OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let port: u16 = env::var("PORT").map_or(Ok(3000), |port| port.parse()).map_err(|error| format!("PORT: {error}"))?;
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("port {port}: {error}; try another one: PORT=3001 cargo run --example hello"))?;
    let address = listener.local_addr()?;
    println!("listening on {address}; try:");
    println!(r#"  curl -i {address}/signup -H 'content-type: application/json' -d '{{"email": "a@example.com"}}'"#);
    println!("  curl {address}/metrics");
    println!("  cat {}", env::temp_dir().join("postlude-hello.log").display());
    println!("and Ctrl-C to end it");

    let registry = TaskRegistry::builder().default_timeout(Duration::from_secs(30)).capacity(10_000).build()?;
    let metrics = registry.clone();
    let app = Router::new()
        .route("/signup", post(signup))
        .route("/metrics", get(async move || Json(metrics.metrics())))
        .layer(TaskLayer::new(registry.clone()));
    let report = registry
        .serve(Duration::from_secs(20), |stop| {
            axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned())
        })
        .await?;
    println!("{report}");
    Ok(())
}
