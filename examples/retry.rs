//! An axum service that delivers webhooks to a receiver which is down at first: the attempts in the log, a dead letter, and
//! its replay when the receiver is back.
//!
//! `cargo run --example retry` plays that story over real sockets, then serves on: try the `curl` lines that it prints.
//! With `ONCE=1` in the environment it ends after the story.
#![expect(clippy::print_stdout, reason = "an example may print")]

use std::{
    env,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::{Request, StatusCode},
    routing::{get, post},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use postlude::{BoxError, RetryPolicy, Task, TaskId, TaskLayer, TaskRegistry, TaskSet};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone)]
struct Shop {
    registry: TaskRegistry,
    receiver: SocketAddr,
}

/// Takes an order, and leaves the webhook behind.
async fn order(State(shop): State<Shop>, Path(order): Path<u32>, tasks: TaskSet) -> (StatusCode, String) {
    let policy = RetryPolicy::exponential().first_delay(Duration::from_millis(400)).attempts(3);
    let webhook = Task::retrying(policy, move || deliver(shop.receiver, order));
    tasks.add(webhook.named("webhook").timeout(Duration::from_secs(2)));
    (StatusCode::ACCEPTED, format!("order {order} accepted\n"))
}

async fn deliver(receiver: SocketAddr, order: u32) -> Result<(), BoxError> {
    let (status, answer) = call(receiver, "POST", &format!("/hook/{order}")).await?;
    if status.is_success() { Ok(()) } else { Err(format!("the receiver answered {status}: {}", answer.trim()).into()) }
}

async fn dead_letters(State(shop): State<Shop>) -> String {
    let letters: Vec<_> = shop.registry.dead_letters().list().iter().map(|letter| format!("{letter}\n")).collect();
    if letters.is_empty() { "no dead letters\n".to_owned() } else { letters.concat() }
}

async fn replay(State(shop): State<Shop>, Path(id): Path<String>) -> Result<String, (StatusCode, String)> {
    let id: TaskId = id.parse().map_err(|_| (StatusCode::BAD_REQUEST, format!("`{id}` is no id of a task\n")))?;
    let replay =
        shop.registry.dead_letters().replay(id).map_err(|error| (StatusCode::CONFLICT, format!("{error}\n")))?;
    Ok(format!("task {id} is replayed as task {}\n", replay.id()))
}

/// Somebody else's service, down until it is told to recover.
fn receiver() -> Router {
    let up = Arc::new(AtomicBool::new(false));
    let hook = |State(up): State<Arc<AtomicBool>>, Path(order): Path<u32>| async move {
        if up.load(Ordering::Relaxed) {
            (StatusCode::OK, format!("got order {order}\n"))
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "down for maintenance\n".to_owned())
        }
    };
    let recover = |State(up): State<Arc<AtomicBool>>| async move {
        up.store(true, Ordering::Relaxed);
        "back again\n"
    };
    Router::new().route("/hook/{order}", post(hook)).route("/recover", post(recover)).with_state(up)
}

/// A request without a body, on a connection of its own.
async fn call(address: SocketAddr, method: &str, path: &str) -> Result<(StatusCode, String), BoxError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    #[expect(clippy::disallowed_methods, reason = "the client's side of a connection is no task of ours")]
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", address.to_string());
    let response = sender.send_request(request.body(Full::new(Bytes::new()))?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// An order while the receiver is down, and what it takes to get its webhook delivered.
async fn story(shop: &Shop, service: SocketAddr) -> Result<(), BoxError> {
    let say = |(status, text): (StatusCode, String)| println!("--> {status}: {text}");
    println!("an order, while the receiver is down:");
    say(call(service, "POST", "/orders/7").await?);
    shop.registry.wait_idle().await;

    println!("all attempts have failed; what is left is a dead letter:");
    say(call(service, "GET", "/dead-letters").await?);
    say(call(shop.receiver, "POST", "/recover").await?);
    for letter in shop.registry.dead_letters().list() {
        say(call(service, "POST", &format!("/dead-letters/{}/replay", letter.id)).await?);
    }
    shop.registry.wait_idle().await;
    say(call(service, "GET", "/dead-letters").await?);
    let metrics = shop.registry.metrics();
    let figures = (metrics.added, metrics.completed, metrics.failed, metrics.retries, metrics.dead_letters);
    println!("added, completed, failed, retries, dead letters: {figures:?}");
    if figures == (2, 1, 1, 2, 0) { Ok(()) } else { Err("the story went another way".into()) }
}

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "a server is no task")]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_env_filter("postlude=debug").init();
    let registry = TaskRegistry::new();
    let others = TcpListener::bind("127.0.0.1:0").await?;
    let shop = Shop { registry: registry.clone(), receiver: others.local_addr()? };
    tokio::spawn(async move { axum::serve(others, receiver()).await });

    let app = Router::new()
        .route("/orders/{order}", post(order))
        .route("/dead-letters", get(dead_letters))
        .route("/dead-letters/{id}/replay", post(replay))
        .layer(TaskLayer::new(registry.clone()))
        .with_state(shop.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let service = listener.local_addr()?;
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    story(&shop, service).await?;
    if env::var_os("ONCE").is_none() {
        println!("now you; the receiver is back, so an order leaves a dead letter no more:");
        println!("  curl -X POST http://{service}/orders/8");
        println!("  curl http://{service}/dead-letters");
        println!("  curl -X POST http://{service}/dead-letters/ID/replay");
        println!("Ctrl-C ends it.");
        tokio::signal::ctrl_c().await?;
    }
    server.abort();
    println!("{}", registry.shutdown(Duration::from_secs(5)).await);
    Ok(())
}
