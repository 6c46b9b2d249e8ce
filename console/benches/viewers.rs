//! What viewers of the page cost the watched service: processor time, allocations and memory, of this process alone. The
//! viewers are another process.
//!
//! `cargo bench -p postlude-console --bench viewers` prints a table. `VIEWERS_SECONDS=2` measures for a shorter time, and
//! `VIEWERS_LIVE=20,100000` with other numbers of live tasks.
#![expect(unsafe_code, reason = "an allocator that counts can't be written without it")]
#![expect(clippy::disallowed_methods, reason = "it plays the server and the viewers")]
#![expect(clippy::print_stdout, reason = "the figures are there to be read")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]
#![expect(clippy::cast_precision_loss, reason = "counts that are far below 2^53")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env,
    future::pending,
    net::SocketAddr,
    process::Stdio,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use axum::Router;
use postlude::{Task, TaskRegistry};
use postlude_console::StatusRouter;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    time::{Instant, interval, sleep},
};
use tokio_util::sync::CancellationToken;

/// The live tasks of the watched service, and its names: as many as a snapshot lists.
const LIVE: [usize; 3] = [20, 100_000, 1_000_000];
const NAMES: usize = 100;
const SECONDS: u64 = 10;
/// How often each client of a storm loads the page again.
const REFRESH_EVERY: Duration = Duration::from_millis(100);
/// What the page asks for when it is loaded, or shows another view.
const PATHS: [&str; 5] = ["index.html", "assets/main.js", "snapshot.json", "samples.json", "tasks?limit=50"];

/// The allocator of the system, with a count.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
/// Bytes that the server has sent, by the count of the viewers.
static RECEIVED: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Who looks: how many read the stream, how many a little of it, how many nothing, and how many load the page again and
/// again.
#[derive(Clone, Copy, Default)]
struct Viewers {
    reading: usize,
    slow: usize,
    silent: usize,
    storm: usize,
}

const SCENARIOS: [(&str, Viewers); 6] = [
    ("nobody", Viewers { reading: 0, slow: 0, silent: 0, storm: 0 }),
    ("1 viewer", Viewers { reading: 1, slow: 0, silent: 0, storm: 0 }),
    ("100 viewers", Viewers { reading: 100, slow: 0, silent: 0, storm: 0 }),
    ("100, one slow, one that never reads", Viewers { reading: 98, slow: 1, silent: 1, storm: 0 }),
    ("100 that never read", Viewers { reading: 0, slow: 0, silent: 100, storm: 0 }),
    ("a storm: 50 clients, 500 requests/s", Viewers { reading: 0, slow: 0, silent: 0, storm: 50 }),
];

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = env::args().skip_while(|argument| argument != "--look").skip(1).collect();
    if let [address, reading, slow, silent, storm] = arguments.as_slice() {
        let number = |text: &String| text.parse().unwrap();
        let (reading, slow) = (number(reading), number(slow));
        look(address.parse().unwrap(), Viewers { reading, slow, silent: number(silent), storm: number(storm) }).await;
        return;
    }
    println!("| live tasks | who looks | processor time, % of a core | allocations/s | KiB held | answered KiB/s |");
    println!("|---|---|---|---|---|---|");
    let live = env::var("VIEWERS_LIVE").ok().map(|text| text.split(',').map(|one| one.parse().unwrap()).collect());
    for live in live.unwrap_or_else(|| LIVE.to_vec()) {
        measure(live).await;
    }
}

async fn measure(live: usize) {
    let registry = TaskRegistry::new();
    let names: Vec<&'static str> = (0..NAMES).map(|number| &*format!("name_{number}").leak()).collect();
    for name in names.iter().cycle().take(live) {
        registry.spawn(Task::new(pending::<()>()).named(*name));
    }
    while registry.metrics().running < live as u64 {
        tokio::task::yield_now().await;
    }
    let status = StatusRouter::new(registry.clone()).stop(CancellationToken::new());
    let app = Router::new().nest("/admin", status.build());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    // The first look of all allocates what all later ones use.
    ask(address, "snapshot.json", &mut Vec::new()).await;
    sleep(Duration::from_secs(12)).await;
    for (label, viewers) in SCENARIOS {
        scenario(live, label, address, viewers).await;
    }
    server.abort();
}

async fn scenario(live: usize, label: &str, address: SocketAddr, viewers: Viewers) {
    let seconds = env::var("VIEWERS_SECONDS").ok().map_or(SECONDS, |text| text.parse().unwrap());
    let before = BYTES.load(Ordering::Relaxed);
    let Viewers { reading, slow, silent, storm } = viewers;
    let numbers = [reading, slow, silent, storm].map(|number| number.to_string());
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg("--look").arg(address.to_string()).args(numbers);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // They have connected.
    lines.next_line().await.unwrap().unwrap();
    sleep(Duration::from_secs(2)).await;

    let cpu = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
    let begin = (Instant::now(), cpu(), ALLOCATIONS.load(Ordering::Relaxed));
    sleep(Duration::from_secs(seconds)).await;
    let (time, used) = (begin.0.elapsed().as_secs_f64(), (cpu() - begin.1).as_secs_f64());
    let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - begin.2) as f64 / time;
    let held = BYTES.load(Ordering::Relaxed).saturating_sub(before) / 1024;
    drop(child.stdin.take());
    let received: f64 = lines.next_line().await.unwrap().unwrap().parse().unwrap();
    child.wait().await.unwrap();
    let share = 100.0 * used / time;
    println!("| {live} | {label} | {share:.2} | {allocations:.0} | {held} | {:.0} |", received / 1024.0);
    // Those who have gone are noticed at the next snapshot, and nobody counts as one who looks after ten seconds.
    sleep(Duration::from_secs(12)).await;
}

/// The viewers: look until the end of the standard input, then tell how many bytes a second they were sent.
async fn look(address: SocketAddr, viewers: Viewers) {
    let open = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /admin/events HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        stream
    };
    let mut silent = Vec::new();
    for _ in 0..viewers.silent {
        silent.push(open().await);
    }
    for (count, pause) in [(viewers.reading, Duration::ZERO), (viewers.slow, Duration::from_millis(100))] {
        for _ in 0..count {
            let stream = open().await;
            tokio::spawn(read(stream, pause));
        }
    }
    for _ in 0..viewers.storm {
        tokio::spawn(refresh(address));
    }
    println!("look");
    let (begin, before) = (Instant::now(), RECEIVED.load(Ordering::Relaxed));
    tokio::io::stdin().read_to_end(&mut Vec::new()).await.unwrap();
    let received = RECEIVED.load(Ordering::Relaxed) - before;
    println!("{}", received as f64 / begin.elapsed().as_secs_f64());
    drop(silent);
}

async fn read(mut stream: TcpStream, pause: Duration) {
    let mut buffer = vec![0; if pause.is_zero() { 65_536 } else { 64 }];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        RECEIVED.fetch_add(count as u64, Ordering::Relaxed);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

async fn refresh(address: SocketAddr) {
    let (mut ticks, mut answer) = (interval(REFRESH_EVERY), Vec::new());
    for path in PATHS.iter().cycle() {
        ticks.tick().await;
        ask(address, path, &mut answer).await;
        RECEIVED.fetch_add(answer.len() as u64, Ordering::Relaxed);
    }
}

async fn ask(address: SocketAddr, path: &str, answer: &mut Vec<u8>) {
    answer.clear();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /admin/{path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_to_end(answer).await.unwrap();
}
