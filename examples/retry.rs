//! An axum service that delivers webhooks to a receiver that is down at first. Shows the attempts in the log, a dead
//! letter, and its replay when the receiver is back.
//!
//! `cargo run --example retry` runs a demo over real sockets, and then continues to serve: try the `curl` commands that
//! it prints. With `ONCE=1` in the environment it ends after the demo.
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

/// Accepts an order, and adds a task that delivers the webhook.
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
    let id: TaskId = id.parse().map_err(|_| (StatusCode::BAD_REQUEST, format!("`{id}` is not the id of a task\n")))?;
    let replay =
        shop.registry.dead_letters().replay(id).map_err(|error| (StatusCode::CONFLICT, format!("{error}\n")))?;
    Ok(format!("task {id} is replayed as task {}\n", replay.id()))
}

/// The receiver of the webhooks, which is down until `POST /recover`.
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

/// Sends a request without a body, on a new connection.
async fn call(address: SocketAddr, method: &str, path: &str) -> Result<(StatusCode, String), BoxError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    #[expect(clippy::disallowed_methods, reason = "the client side of a connection is not a task of a request")]
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", address.to_string());
    let response = sender.send_request(request.body(Full::new(Bytes::new()))?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Sends an order while the receiver is down, and replays its webhook later.
async fn demo(shop: &Shop, service: SocketAddr) -> Result<(), BoxError> {
    let print = |(status, text): (StatusCode, String)| println!("--> {status}: {text}");
    println!("an order while the receiver is down:");
    print(call(service, "POST", "/orders/7").await?);
    shop.registry.wait_idle().await;

    println!("all attempts have failed, and the task is a dead letter:");
    print(call(service, "GET", "/dead-letters").await?);
    print(call(shop.receiver, "POST", "/recover").await?);
    for letter in shop.registry.dead_letters().list() {
        print(call(service, "POST", &format!("/dead-letters/{}/replay", letter.id)).await?);
    }
    shop.registry.wait_idle().await;
    print(call(service, "GET", "/dead-letters").await?);
    let metrics = shop.registry.metrics();
    let counts = (metrics.added, metrics.completed, metrics.failed, metrics.retries, metrics.dead_letters);
    println!("added, completed, failed, retries, dead letters: {counts:?}");
    if counts == (2, 1, 1, 2, 0) { Ok(()) } else { Err("the counts differ from the expected ones".into()) }
}

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "a server is not a task of a request")]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).init();
    let registry = TaskRegistry::new();
    let receiver_listener = TcpListener::bind("127.0.0.1:0").await?;
    let shop = Shop { registry: registry.clone(), receiver: receiver_listener.local_addr()? };
    tokio::spawn(async move { axum::serve(receiver_listener, receiver()).await });

    let app = Router::new()
        .route("/orders/{order}", post(order))
        .route("/dead-letters", get(dead_letters))
        .route("/dead-letters/{id}/replay", post(replay))
        .layer(TaskLayer::new(registry.clone()))
        .with_state(shop.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let service = listener.local_addr()?;
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    demo(&shop, service).await?;
    if env::var_os("ONCE").is_none() {
        println!("now try it yourself; the receiver is back, so an order no longer leads to a dead letter:");
        println!("  curl -X POST http://{service}/orders/8");
        println!("  curl http://{service}/dead-letters");
        println!("  curl -X POST http://{service}/dead-letters/ID/replay");
        println!("Ctrl-C ends the example.");
        tokio::signal::ctrl_c().await?;
    }
    server.abort();
    println!("{}", registry.shutdown(Duration::from_secs(5)).await);
    Ok(())
}
