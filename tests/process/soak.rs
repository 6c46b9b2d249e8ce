//! A soak test: a server with misbehaving clients, handlers and tasks, and a check that every accepted task has one
//! outcome.
//!
//! `cargo run --release --all-features --example soak` sends 200,000 requests (set `REQUESTS` for another number) over
//! HTTP/1.1 and HTTP/2 to a server in a child process. Clients disconnect before the head or within the body, or reset
//! a stream. Handlers panic. Tasks fail, panic, time out, block and add tasks. Then the example checks that the
//! server's memory and threads are back at their initial values, sends a SIGTERM under load, and compares the server's
//! counters with files to which the server has written a line for each accepted and each ended task.
#![expect(clippy::print_stdout, reason = "an example may print")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "it stops at the first error, and has bugs on purpose")]
#![expect(clippy::disallowed_methods, reason = "its clients are not tasks of a request")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path as UrlPath, State},
    routing::get,
};
use bytes::Bytes;
use futures::stream;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postlude::{Task, TaskLayer, TaskRegistry, TaskSet, after};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const CLIENTS: u64 = 32;
/// The memory that the allocator may keep after the load.
const MEMORY_MARGIN_MIB: u64 = 24;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => soak(),
        [folder] => serve(Path::new(folder)).unwrap(),
        _ => println!("usage: soak"),
    }
}

// The server.

#[derive(Clone)]
struct App {
    registry: TaskRegistry,
    serial: Arc<AtomicU64>,
    accepted: Arc<Mutex<fs::File>>,
    ended: Arc<Mutex<fs::File>>,
}

/// Appends a line in one write.
fn note(file: &Mutex<fs::File>, line: &str) {
    file.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
}

impl App {
    /// Adds a task whose kind depends on its serial number, and notes its id.
    fn add(&self, tasks: &TaskSet) {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        if let Ok(id) = tasks.try_add(self.task(serial)) {
            note(&self.accepted, &format!("{serial} {id}"));
        }
    }

    fn task(&self, serial: u64) -> Task {
        let app = self.clone();
        let done = move || note(&app.ended, &format!("{serial} completed"));
        match serial % 10 {
            0 => Task::new(async { Err::<(), _>("no such mailbox") }),
            1 => Task::new(async { std::panic::panic_any("a bug") }),
            2 => Task::new(std::future::pending::<()>()).timeout(Duration::from_millis(1)),
            3 => Task::blocking(done),
            4 => {
                let app = self.clone();
                Task::new(async move {
                    let name = format!("{serial}+");
                    let (file, line) = (Arc::clone(&app.ended), format!("{name} completed"));
                    if let Ok(id) = after(async move { note(&file, &line) }) {
                        note(&app.accepted, &format!("{name} {id}"));
                    }
                    done();
                })
            }
            5 => Task::new(async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                done();
            }),
            _ => Task::new(async move { done() }),
        }
    }
}

async fn handle(State(app): State<App>, UrlPath(kind): UrlPath<String>, tasks: TaskSet) -> Body {
    for _ in 0..=app.serial.load(Ordering::Relaxed) % 3 {
        app.add(&tasks);
    }
    match kind.as_str() {
        "slow" => tokio::time::sleep(Duration::from_millis(3)).await,
        "panic" => std::panic::panic_any("a bug in a handler"),
        "big" => return Body::from(vec![7; 256 << 10]),
        "stream" => {
            let chunks = (0..8).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[7; 4 << 10])));
            return Body::from_stream(stream::iter(chunks));
        }
        _ => {}
    }
    Body::from("ok")
}

/// Waits until no task is live, and returns the resident memory in MiB, the number of threads, and the number of live
/// tasks.
async fn vitals(State(app): State<App>) -> String {
    app.registry.wait_idle().await;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    format!("{} {} {}", field("VmRSS:") / 1024, field("Threads:"), app.registry.tasks().len())
}

fn serve(folder: &Path) -> std::io::Result<()> {
    // Idle blocking threads end after a second, so that the example can check that they end.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().thread_keep_alive(Duration::from_secs(1)).build()?.block_on(run(folder))
}

async fn run(folder: &Path) -> std::io::Result<()> {
    std::panic::set_hook(Box::new(|_| ()));
    let file = |name| fs::File::create(folder.join(name)).map(|file| Arc::new(Mutex::new(file)));
    let (accepted, ended, failed) = (file("accepted")?, file("ended")?, file("failed")?);
    let registry = TaskRegistry::builder()
        .on_failure(move |report| note(&failed, &format!("{} {}", report.id, report.outcome.label())))
        .build()
        .unwrap();
    let app = App { registry: registry.clone(), serial: Arc::default(), accepted, ended };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let router = Router::new()
        .route("/{kind}", get(handle))
        .layer(TaskLayer::new(registry.clone()).drain_within(Duration::from_millis(500)))
        .route("/vitals", get(vitals))
        .with_state(app);
    let report = registry
        .serve(Duration::from_secs(20), |stop| {
            axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned())
        })
        .await?;
    let m = registry.metrics();
    println!("{report}");
    println!("added {} pending {} running {} stuck {}", m.added, m.pending, m.running, m.stuck);
    println!(
        "completed {} failed {} panicked {} timed_out {} aborted {} discarded {}",
        m.completed, m.failed, m.panicked, m.timed_out, m.aborted, m.discarded
    );
    Ok(())
}

// The clients.

/// Pseudo-random numbers, which are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn path(&mut self) -> &'static str {
        match self.roll(7) {
            0 => "/slow",
            1 => "/panic",
            2 => "/big",
            3 => "/stream",
            _ => "/ok",
        }
    }
}

/// Sends requests until the budget is used up. Errors are expected and ignored.
async fn client(port: u16, budget: Arc<AtomicU64>, mut dice: Dice) {
    let take = || budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    while take() {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await else { return };
        match dice.roll(3) {
            0 => drop(leave_early(stream, &mut dice).await),
            1 => drop(over_http1(stream, &mut dice, &take).await),
            _ => drop(over_http2(stream, &mut dice, &take).await),
        }
    }
}

/// Sends a request or half of one, reads some bytes or none, and disconnects.
async fn leave_early(mut stream: TcpStream, dice: &mut Dice) -> std::io::Result<()> {
    let request = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", dice.path());
    if dice.roll(4) == 0 {
        let half = request.split_at(request.len() / 2).0;
        return stream.write_all(half.as_bytes()).await;
    }
    stream.write_all(request.as_bytes()).await?;
    if dice.roll(2) == 0 {
        stream.shutdown().await?;
    }
    if dice.roll(2) == 0 {
        let _some = stream.read(&mut [0; 8192]).await?;
    }
    Ok(())
}

async fn over_http1(stream: TcpStream, dice: &mut Dice, take: &impl Fn() -> bool) -> hyper::Result<()> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    for _ in 0..dice.roll(20) {
        if !take() {
            break;
        }
        sender.ready().await?;
        let request = Request::get(dice.path()).header("host", "x").body(Empty::<Bytes>::new()).unwrap();
        let mut body = sender.send_request(request).await?.into_body();
        if dice.roll(8) == 0 {
            let _first = body.frame().await;
            break;
        }
        body.collect().await?;
    }
    connection.abort();
    Ok(())
}

async fn over_http2(stream: TcpStream, dice: &mut Dice, take: &impl Fn() -> bool) -> hyper::Result<()> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    for _ in 0..dice.roll(20) {
        if !take() {
            break;
        }
        sender.ready().await?;
        let url = format!("http://x{}", dice.path());
        let response = sender.send_request(Request::get(url).body(Empty::<Bytes>::new()).unwrap());
        match dice.roll(8) {
            // Dropping the response resets the stream.
            0 => drop(tokio::time::timeout(Duration::from_micros(dice.roll(500)), response).await),
            1 => drop(response.await?.into_body().frame().await),
            _ => {
                // A handler that panics resets its stream.
                if let Ok(response) = response.await {
                    let _body = response.into_body().collect().await;
                }
            }
        }
    }
    connection.abort();
    Ok(())
}

fn send(runtime: &tokio::runtime::Runtime, port: u16, requests: u64, seed: u64) -> Vec<tokio::task::JoinHandle<()>> {
    let budget = Arc::new(AtomicU64::new(requests));
    (1..=CLIENTS).map(|number| runtime.spawn(client(port, Arc::clone(&budget), Dice(number + seed * 1000)))).collect()
}

// The check.

struct Server {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    folder: PathBuf,
}

impl Server {
    fn line(&mut self) -> String {
        self.output.next().unwrap().unwrap()
    }

    fn noted(&self, file: &str) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.folder.join(file)).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    /// Compares the accepted tasks with the ended ones, as noted by the tasks themselves and by the failure hook.
    fn reconcile(&self) -> BTreeMap<String, u64> {
        let accepted = self.noted("accepted");
        let completed: BTreeSet<_> = self.noted("ended").into_iter().map(|(serial, _)| serial).collect();
        let failed: BTreeMap<_, _> = self.noted("failed").into_iter().collect();
        let mut outcomes = BTreeMap::new();
        let mut wrong = String::new();
        for (serial, id) in &accepted {
            let outcome = match (completed.contains(serial), failed.get(id)) {
                (true, None) => "completed",
                (false, Some(outcome)) => outcome,
                // Aborted by the shutdown after it had noted its end.
                (true, Some(outcome)) if outcome == "aborted" => outcome,
                (completed, failed) => {
                    writeln!(wrong, "task {id} ({serial}): completed {completed}, {failed:?}").unwrap();
                    "wrong"
                }
            };
            *outcomes.entry(outcome.to_owned()).or_default() += 1;
        }
        outcomes.insert("added".to_owned(), accepted.len() as u64);
        assert!(wrong.is_empty(), "tasks without exactly one outcome:\n{wrong}");
        outcomes
    }
}

fn vitals_of(runtime: &tokio::runtime::Runtime, port: u16) -> (u64, u64, u64) {
    runtime.block_on(async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/vitals").header("host", "x").body(Empty::<Bytes>::new()).unwrap();
        let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let mut numbers = text.split(' ').map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        (next(), next(), next())
    })
}

fn soak() {
    let requests: u64 = env::var("REQUESTS").map_or(200_000, |requests| requests.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut process =
        Command::new(env::current_exe().unwrap()).arg(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut server = Server { process, output, folder: folder.path().to_owned() };
    let port: u16 = server.line().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wait = |clients: Vec<tokio::task::JoinHandle<()>>| {
        runtime.block_on(async { futures::future::join_all(clients).await });
    };

    let (_, threads, _) = vitals_of(&runtime, port);
    let start = Instant::now();
    wait(send(&runtime, port, requests / 10, 1));
    let before = vitals_of(&runtime, port);
    println!("warm: {} MiB, {} threads, {} tasks", before.0, before.1, before.2);
    wait(send(&runtime, port, requests * 8 / 10, 2));
    let after = vitals_of(&runtime, port);
    println!("after nine tenths of {requests} requests: {} MiB, {} threads, {} tasks", after.0, after.1, after.2);
    assert!(after.0 <= before.0 + MEMORY_MARGIN_MIB, "memory is not back within {MEMORY_MARGIN_MIB} MiB");
    assert_eq!(after.2, 0, "tasks are still live");
    let mut patience = 60;
    while vitals_of(&runtime, port).1 > threads {
        patience -= 1;
        assert!(patience > 0, "more than the initial {threads} threads are left");
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("back at the initial {threads} threads");

    let clients = send(&runtime, port, requests / 10, 3);
    let accepted = server.noted("accepted").len();
    while server.noted("accepted").len() < accepted + usize::try_from(requests / 40).unwrap() {
        assert!(server.process.try_wait().unwrap().is_none(), "the server has ended early");
        std::thread::yield_now();
    }
    let status = Command::new("kill").args(["-TERM", &server.process.id().to_string()]).status().unwrap();
    assert!(status.success());
    println!("{} (SIGTERM after {:.1?})", server.line(), start.elapsed());
    let mut lines: Vec<_> = server.output.by_ref().map(Result::unwrap).collect();
    assert!(server.process.wait().unwrap().success());
    wait(clients);

    let counted = lines.split_off(lines.len() - 2);
    for line in lines.iter().chain(&counted) {
        println!("{line}");
    }
    let counted: BTreeMap<_, _> = counted.iter().flat_map(|line| pairs(line)).collect();
    let noted = server.reconcile();
    for (outcome, number) in &noted {
        assert_eq!(counted.get(outcome).copied().unwrap_or(0), *number, "{outcome}: counted, then noted");
    }
    for left in ["pending", "running", "stuck"] {
        assert_eq!(counted.get(left), Some(&0), "{left}");
    }
    println!("each of the {} tasks that were accepted has exactly one outcome", server.noted("accepted").len());
}

/// Reads `name 1 other 2`.
fn pairs(line: &str) -> Vec<(String, u64)> {
    let mut words = line.split(' ');
    let mut pairs = Vec::new();
    while let (Some(name), Some(number)) = (words.next(), words.next()) {
        pairs.push((name.to_owned(), number.parse().unwrap()));
    }
    pairs
}
