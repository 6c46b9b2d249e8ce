//! Clients that submit without end, to a server of capacity 1,000 with slow tasks, whose memory is read meanwhile.
//!
//! Short by default; `FLOOD_SECONDS=10 cargo test --release --all-features --test process flood` floods for longer.

use std::{
    cell::Cell,
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use postlude::{DiscardReason, Outcome, TaskLayer, TaskRegistry, TaskSet};

use crate::{
    Test,
    server::{Client, Server, listen, until},
};

pub(crate) const TESTS: &[Test] = &[
    ("flood::shed_at_capacity_keeps_memory_flat", shed_at_capacity_keeps_memory_flat),
    ("flood::capacity_keeps_memory_flat", capacity_keeps_memory_flat),
];

const CAPACITY: usize = 1_000;
const CLIENTS: usize = 32;
/// The bytes that a slow task holds.
const BAGGAGE: usize = 1 << 10;
/// How much the server may grow after it has become full, in KiB: far less than what was refused would have held.
const GROWTH: u64 = 8 << 10;

// The server.

async fn submit(State(slow): State<Duration>, tasks: TaskSet) -> StatusCode {
    let baggage = vec![1_u8; BAGGAGE];
    tasks.add(async move {
        tokio::time::sleep(slow).await;
        drop(baggage);
    });
    StatusCode::ACCEPTED
}

#[tokio::main]
async fn serve(slow: Duration) -> std::io::Result<()> {
    let refused = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&refused);
    let registry = TaskRegistry::builder()
        .capacity(CAPACITY)
        .on_failure(move |report| {
            let full = matches!(report.outcome, Outcome::Discarded(DiscardReason::Capacity));
            counter.fetch_add(u64::from(full), Ordering::SeqCst);
        })
        .build()
        .unwrap();
    let layer = TaskLayer::new(registry.clone());
    let figures = async move || {
        let m = registry.metrics();
        let reported = refused.load(Ordering::SeqCst);
        format!("{} {} {} {} {reported}", m.added, m.pending + m.running, m.completed, m.discarded)
            + &format!(" {}", m.shed)
    };
    let app = Router::new()
        .route("/shed", post(submit).layer(layer.clone().shed_at_capacity()))
        .route("/discard", post(submit).layer(layer))
        .route("/figures", get(figures))
        .with_state(slow);
    let listener = listen().await?;
    axum::serve(listener, app).await
}

pub(crate) fn child(slow: &str) {
    serve(Duration::from_millis(slow.parse().unwrap())).unwrap();
}

// The tests' side.

/// The counters of the server.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    added: u64,
    live: u64,
    completed: u64,
    discarded: u64,
    /// Refusals for the capacity, as the failure hook has seen them.
    reported: u64,
    shed: u64,
}

fn figures(server: &Server) -> Figures {
    let mut client = server.connect();
    let head = client.request("GET", "/figures");
    let figures: Vec<u64> = client.body(&head).split(' ').map(|figure| figure.parse().unwrap()).collect();
    let [added, live, completed, discarded, reported, shed] = figures.try_into().unwrap();
    Figures { added, live, completed, discarded, reported, shed }
}

fn figures_when(server: &Server, is_reached: impl Fn(Figures) -> bool) -> Figures {
    let last = Cell::new(Figures::default());
    let look = || {
        last.set(figures(server));
        is_reached(last.get())
    };
    until(look, || format!("{:?}", last.get()));
    last.get()
}

/// A line of `/proc/<pid>/status`, in KiB.
fn memory(server: &Server, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Submits once; returns the status.
fn submit_once(client: &mut Client, path: &str) -> u16 {
    let head = client.request("POST", path);
    client.body(&head);
    head.status
}

/// Submits until `end`; returns how many were accepted, and how many turned away.
fn submit_until(end: Instant, mut client: Client, path: &str) -> [u64; 2] {
    let mut answers = [0, 0];
    while Instant::now() < end {
        match submit_once(&mut client, path) {
            202 => answers[0] += 1,
            503 => answers[1] += 1,
            status => panic!("{status}"),
        }
    }
    answers
}

/// Floods a path of a fresh server; returns what the clients and the server have counted.
fn flood(path: &'static str) -> ([u64; 2], Figures) {
    let seconds = env::var("FLOOD_SECONDS").map_or(1, |seconds| seconds.parse().unwrap());
    let duration = Duration::from_secs(seconds);
    let server = Server::start(&["flood", &duration.as_millis().to_string()]);
    let end = Instant::now() + duration;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| server.connect())
        .map(|client| thread::spawn(move || submit_until(end, client, path)))
        .collect();
    figures_when(&server, |figures| figures.shed + figures.discarded > 100);
    let full = memory(&server, "VmRSS");
    let answers = clients.into_iter().map(|client| client.join().unwrap());
    let [accepted, shed] = answers.fold([0, 0], |sum, answers| [sum[0] + answers[0], sum[1] + answers[1]]);
    let peak = memory(&server, "VmHWM");
    println!("{path}: {accepted} answered with 202, {shed} with 503; {full} KiB when full, {peak} KiB at the peak");
    assert!(peak < full + GROWTH, "memory grows with what is refused");

    let figures = figures_when(&server, |figures| figures.live == 0);
    assert_eq!(figures.added, figures.completed + figures.discarded, "{figures:?}");
    assert_eq!(figures.discarded, figures.reported, "{figures:?}");
    assert_eq!((figures.added, figures.shed), (accepted, shed), "{figures:?}");

    let mut client = server.connect();
    assert_eq!(submit_once(&mut client, path), 202, "and then it answers as ever");
    figures_when(&server, |now| now.completed == figures.completed + 1);
    ([accepted, shed], figures)
}

// The tests.

fn shed_at_capacity_keeps_memory_flat() {
    let ([accepted, shed], figures) = flood("/shed");
    assert!(accepted >= CAPACITY as u64 && shed > 100, "{accepted} accepted, {shed} turned away");
    assert!(figures.discarded <= CLIENTS as u64, "but for those that met at the last place: {figures:?}");
}

fn capacity_keeps_memory_flat() {
    let ([_, shed], figures) = flood("/discard");
    assert_eq!(shed, 0);
    assert!(figures.discarded > 100, "{figures:?}");
}
