//! What other requests feel of tasks at work: p50 and p99 of a handler that does nothing, beside 64 tasks at a time that
//! wait or compute for 5 ms each, as async, blocking and CPU tasks. And how many of these get done meanwhile.
//!
//! The server has two workers. The variants take turns, so that whatever else the machine does meets them all. Run it
//! with `cargo bench --all-features --bench work`.
#![expect(clippy::disallowed_methods, reason = "it plays the server and its client")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]
#![expect(clippy::print_stdout, reason = "the figures are there to be read")]

use std::{
    hint::spin_loop,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use postlude::{Task, TaskRegistry};
use tokio::runtime::{Builder, Runtime};

const ROUNDS: usize = 5;
const REQUESTS_PER_ROUND: usize = 100;
const PAUSE: Duration = Duration::from_millis(2);
const AT_A_TIME: usize = 64;
const WORK: Duration = Duration::from_millis(5);

/// What the tasks do, as what, and on how many threads if these are CPU tasks.
type Variant = (&'static str, &'static str, fn() -> Task, Option<usize>);

const VARIANTS: [Variant; 8] = [
    ("nothing", "", || Task::new(async {}), None),
    ("wait", "async", || Task::new(tokio::time::sleep(WORK)), None),
    ("wait", "blocking", || Task::blocking(|| thread::sleep(WORK)), None),
    ("wait", "CPU", || Task::cpu(|| thread::sleep(WORK)), None),
    ("compute", "async", || Task::new(async { compute() }), None),
    ("compute", "blocking", || Task::blocking(compute), None),
    ("compute", "CPU", || Task::cpu(compute), None),
    ("compute", "CPU, one thread", || Task::cpu(compute), Some(1)),
];

fn compute() {
    let started = Instant::now();
    while started.elapsed() < WORK {
        spin_loop();
    }
}

#[derive(Default)]
struct Measured {
    latencies: Vec<Duration>,
    completed: u64,
    took: Duration,
}

fn main() {
    let mut all: Vec<Measured> = VARIANTS.iter().map(|_| Measured::default()).collect();
    for _ in 0..ROUNDS {
        for (variant, measured) in VARIANTS.iter().zip(&mut all) {
            round(variant, measured);
        }
    }
    println!("| the tasks | run as | p50 in ms | p99 in ms | tasks per second |");
    println!("|---|---|---|---|---|");
    for ((work, kind, ..), mut measured) in VARIANTS.iter().zip(all) {
        measured.latencies.sort_unstable();
        let at = |percent: usize| {
            measured.latencies.get(measured.latencies.len() * percent / 100).unwrap().as_secs_f64() * 1e3
        };
        let rate = f64::from(u32::try_from(measured.completed).unwrap()) / measured.took.as_secs_f64();
        println!("| {work} | {kind} | {:.2} | {:.2} | {rate:.0} |", at(50), at(99));
    }
}

/// Some requests to a fresh server that is busy with such tasks.
fn round(&(work, _, make, threads): &Variant, measured: &mut Measured) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut builder = TaskRegistry::builder().handle(runtime.handle().clone());
    if let Some(threads) = threads {
        builder = builder.max_cpu(threads);
    }
    let registry = builder.build().unwrap();
    let mut client = BufReader::new(TcpStream::connect(serve(&runtime)).unwrap());
    client.get_ref().set_nodelay(true).unwrap();
    ask(&mut client);
    if work != "nothing" {
        for _ in 0..AT_A_TIME {
            let registry = registry.clone();
            runtime.spawn(async move { while registry.spawn(make()).await.is_completed() {} });
        }
    }
    // All threads there, all tasks under way.
    thread::sleep(WORK * 10);
    let (before, started) = (registry.metrics().completed, Instant::now());
    for _ in 0..REQUESTS_PER_ROUND {
        let asked = Instant::now();
        ask(&mut client);
        measured.latencies.push(asked.elapsed());
        thread::sleep(PAUSE);
    }
    measured.completed += registry.metrics().completed - before;
    measured.took += started.elapsed();
    runtime.shutdown_timeout(Duration::from_secs(1));
}

fn serve(runtime: &Runtime) -> SocketAddr {
    let (tell, told) = mpsc::channel();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        axum::serve(listener, Router::new().route("/", get(|| async {}))).await.unwrap();
    });
    told.recv().unwrap()
}

fn ask(client: &mut BufReader<TcpStream>) {
    client.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    client.read_exact(&mut vec![0; length]).unwrap();
}
