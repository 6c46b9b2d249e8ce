//! Clients that submit until the server's memory is gone, if it would let them: at a server of capacity 1,000 with
//! slow tasks, in a process of its own, whose memory is read while they flood it.
//!
//! Short by default; `FLOOD_SECONDS=10 cargo test --release --all-features --test flood` floods for longer. Without
//! libtest: this program is both the test and, started with an argument, the server.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may stop where it stands, and say so"
)]
#![expect(clippy::disallowed_methods, reason = "the clients keep their own time")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, ExitCode, Stdio},
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

const CAPACITY: usize = 1_000;
const CLIENTS: usize = 32;
/// What a task holds on to while it is slow.
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
        let told = refused.load(Ordering::SeqCst);
        format!("{} {} {} {} {told}", m.added, m.pending + m.running, m.completed, m.discarded)
            + &format!(" {}", m.shed)
    };
    let app = Router::new()
        .route("/shed", post(submit).layer(layer.clone().shed_at_capacity()))
        .route("/discard", post(submit).layer(layer))
        .route("/figures", get(figures))
        .with_state(slow);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("port {}", listener.local_addr()?.port());
    axum::serve(listener, app).await
}

// What the test knows of it.

struct Server {
    process: Child,
    port: u16,
}

/// What the server has counted.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    added: u64,
    live: u64,
    completed: u64,
    discarded: u64,
    /// Refusals for the capacity, as the failure hook was told.
    told: u64,
    shed: u64,
}

impl Server {
    fn start(slow: Duration) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["serve", &slow.as_millis().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().trim_start_matches("port ").parse().unwrap();
        Self { process, port }
    }

    fn connect(&self) -> Client {
        Client(BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).unwrap()))
    }

    fn figures(&self) -> Figures {
        let (_, body) = self.connect().request("GET", "/figures");
        let figures: Vec<u64> = body.split(' ').map(|figure| figure.parse().unwrap()).collect();
        let [added, live, completed, discarded, told, shed] = figures.try_into().unwrap();
        Figures { added, live, completed, discarded, told, shed }
    }

    fn wait_for(&self, what: impl Fn(Figures) -> bool) -> Figures {
        // So long that it is a failure, and not a hang.
        for _ in 0..10_000 {
            let figures = self.figures();
            if what(figures) {
                return figures;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("it did not come to that: {:?}", self.figures());
    }

    /// A line of `/proc/<pid>/status`, in KiB.
    fn memory(&self, which: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(which)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    /// The status and the body of the answer.
    fn request(&mut self, method: &str, path: &str) -> (u16, String) {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut status, mut length, mut retry_after) = (0, 0, None);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let line = line.trim_end();
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest.split(' ').next().unwrap().parse().unwrap();
            } else if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            } else if let Some(value) = line.strip_prefix("retry-after: ") {
                retry_after = Some(value.parse::<u64>().unwrap());
            } else if line.is_empty() {
                break;
            }
        }
        assert_eq!(retry_after.is_some(), status == 503, "{retry_after:?} with {status}");
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    /// Submits until `end`; returns how many were accepted, and how many turned away.
    fn flood(mut self, path: &str, end: Instant) -> [u64; 2] {
        let mut answers = [0, 0];
        while Instant::now() < end {
            match self.request("POST", path).0 {
                202 => answers[0] += 1,
                503 => answers[1] += 1,
                status => panic!("{status}"),
            }
        }
        answers
    }
}

/// Floods a path of a fresh server; returns what the clients and the server have counted.
fn flood(path: &'static str) -> ([u64; 2], Figures) {
    let seconds = env::var("FLOOD_SECONDS").map_or(1, |seconds| seconds.parse().unwrap());
    let duration = Duration::from_secs(seconds);
    let server = Server::start(duration);
    let end = Instant::now() + duration;
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| server.connect()).map(|client| thread::spawn(move || client.flood(path, end))).collect();
    server.wait_for(|figures| figures.shed + figures.discarded > 100);
    let full = server.memory("VmRSS");
    let answers = clients.into_iter().map(|client| client.join().unwrap());
    let [accepted, shed] = answers.fold([0, 0], |sum, answers| [sum[0] + answers[0], sum[1] + answers[1]]);
    let peak = server.memory("VmHWM");
    println!("{path}: {accepted} answered with 202, {shed} with 503; {full} KiB when full, {peak} KiB at the peak");
    assert!(peak < full + GROWTH, "memory grows with what is refused");

    let figures = server.wait_for(|figures| figures.live == 0);
    assert_eq!(figures.added, figures.completed + figures.discarded, "{figures:?}");
    assert_eq!(figures.discarded, figures.told, "{figures:?}");
    assert_eq!((figures.added, figures.shed), (accepted, shed), "{figures:?}");

    let mut client = server.connect();
    assert_eq!(client.request("POST", path).0, 202, "and then it answers as ever");
    server.wait_for(|now| now.completed == figures.completed + 1);
    ([accepted, shed], figures)
}

// The tests.

fn a_layer_that_sheds_turns_a_flood_away_in_flat_memory() {
    let ([accepted, shed], figures) = flood("/shed");
    assert!(accepted >= CAPACITY as u64 && shed > 100, "{accepted} accepted, {shed} turned away");
    assert!(figures.discarded <= CLIENTS as u64, "but for those that met at the last place: {figures:?}");
}

fn without_shedding_what_comes_on_top_is_discarded_in_flat_memory() {
    let ([_, shed], figures) = flood("/discard");
    assert_eq!(shed, 0);
    assert!(figures.discarded > 100, "{figures:?}");
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [command, slow] = arguments.as_slice() {
        if command == "serve" {
            serve(Duration::from_millis(slow.parse().unwrap())).unwrap();
            return ExitCode::SUCCESS;
        }
    }
    let tests: [(&str, fn()); 2] = [
        ("a_layer_that_sheds_turns_a_flood_away_in_flat_memory", a_layer_that_sheds_turns_a_flood_away_in_flat_memory),
        (
            "without_shedding_what_comes_on_top_is_discarded_in_flat_memory",
            without_shedding_what_comes_on_top_is_discarded_in_flat_memory,
        ),
    ];
    let mut failed = 0;
    for (name, test) in tests {
        let ended = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ended { "ok" } else { "FAILED" });
        failed += usize::from(!ended);
    }
    let passed = tests.len() - failed;
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::from(u8::from(failed > 0))
}
