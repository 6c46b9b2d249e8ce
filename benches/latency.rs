//! What a task that hogs its thread costs the client whose request left it: p50 and p99 over a keep-alive
//! connection, beside a request without a task and one whose handler spawns the work by itself.
//!
//! The work's first poll burns 5 ms. The next request is made 10 ms after the last response, when the work is
//! over: what is measured is whether work delays its own response, not whether it takes a core, and each request
//! finds the server as idle as the others do. The variants take turns, so that whatever else the machine does
//! meets them all. Run it with `cargo bench --bench latency`.
#![expect(clippy::disallowed_methods, reason = "it plays the server and a peer that spawns by itself")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]
#![expect(clippy::print_stdout, reason = "the figures are there to be read")]

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::{Router, extract::State, routing::get};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    client::conn::{http1, http2},
    header::HOST,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postlude::{TaskLayer, TaskRegistry, TaskSet};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::Notify,
};

const ROUNDS: usize = 20;
const REQUESTS_PER_ROUND: usize = 25;
const BURN: Duration = Duration::from_millis(5);
const PAUSE: Duration = Duration::from_millis(10);

const VARIANTS: [(&str, &str); 3] = [("no task", "/no_task"), ("`tokio::spawn`", "/spawn"), ("postlude", "/postlude")];

fn main() {
    println!("| runtime | protocol | work | p50 in µs | p99 in µs | p50, of no task | p99, of no task |");
    println!("|---|---|---|---|---|---|---|");
    for workers in [0, 2] {
        let (address, done) = serve(workers);
        for is_h2 in [false, true] {
            measure(workers, address, is_h2, &done);
        }
    }
}

fn measure(workers: usize, address: SocketAddr, is_h2: bool, done: &Notify) {
    let mut latencies = VARIANTS.map(|_| Vec::new());
    runtime(0).block_on(async {
        let mut client = Client::connect(address, is_h2).await;
        client.get(VARIANTS[0].1).await;
        for _ in 0..ROUNDS {
            for ((_, path), latencies) in VARIANTS.iter().zip(&mut latencies) {
                for _ in 0..REQUESTS_PER_ROUND {
                    latencies.push(client.get(path).await);
                    tokio::time::sleep(PAUSE).await;
                    if *path != VARIANTS[0].1 {
                        done.notified().await;
                    }
                }
            }
        }
    });
    let runtime = if workers == 0 { "current_thread".to_owned() } else { format!("{workers} workers") };
    let protocol = if is_h2 { "HTTP/2" } else { "HTTP/1.1" };
    let quantiles = latencies.map(|mut latencies| {
        latencies.sort_unstable();
        [50, 99].map(|percent| latencies.get(latencies.len() * percent / 100).unwrap().as_secs_f64() * 1e6)
    });
    for ((work, _), [p50, p99]) in VARIANTS.iter().zip(quantiles) {
        let [p50_ratio, p99_ratio] = [p50 / quantiles[0][0], p99 / quantiles[0][1]];
        println!("| {runtime} | {protocol} | {work} | {p50:.0} | {p99:.0} | {p50_ratio:.2} | {p99_ratio:.2} |");
    }
}

fn runtime(workers: usize) -> Runtime {
    let mut builder = if workers == 0 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(workers.max(1)).enable_all().build().unwrap()
}

/// A server on a runtime of its own, which tells when a request's work is over.
fn serve(workers: usize) -> (SocketAddr, Arc<Notify>) {
    let done = Arc::new(Notify::new());
    let app = Router::new()
        .route("/no_task", get(async || "done"))
        .route(
            "/spawn",
            get(async |State(done): State<Arc<Notify>>| {
                tokio::spawn(work(done));
                "done"
            }),
        )
        .route(
            "/postlude",
            get(async |tasks: TaskSet, State(done): State<Arc<Notify>>| {
                tasks.add(work(done));
                "done"
            }),
        )
        .with_state(Arc::clone(&done));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        runtime(workers).block_on(async {
            // As in a program with `#[tokio::main]`, the accept loop is not on a worker.
            let listener = axum::serve::ListenerExt::tap_io(TcpListener::from_std(listener).unwrap(), |stream| {
                stream.set_nodelay(true).unwrap();
            });
            axum::serve(listener, app.layer(TaskLayer::new(TaskRegistry::new()))).await.unwrap();
        });
    });
    (address, done)
}

async fn work(done: Arc<Notify>) {
    let started = Instant::now();
    while started.elapsed() < BURN {
        std::hint::spin_loop();
    }
    done.notify_one();
}

enum Client {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn connect(address: SocketAddr, is_h2: bool) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let io = TokioIo::new(stream);
        if is_h2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Self::H2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Self::H1(sender)
        }
    }

    /// From the request to the last byte of the response.
    async fn get(&mut self, path: &str) -> Duration {
        let uri = format!("http://localhost{path}");
        let request = Request::get(uri).header(HOST, "localhost").body(Empty::new()).unwrap();
        let asked = Instant::now();
        let response = match self {
            Self::H1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::H2(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
        };
        response.into_body().collect().await.unwrap();
        asked.elapsed()
    }
}
