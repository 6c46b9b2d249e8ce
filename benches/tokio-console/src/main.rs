//! What it costs to watch a task: postlude's profile, tokio-metrics, and tokio-console's subscriber, on the same work,
//! in one run.
//!
//! ```sh
//! cd benches/tokio-console && cargo run --release
//! ```
//!
//! Each row runs rounds of 128 tasks on a `current_thread` runtime, in turns with the other rows. The table has the
//! medians of the turns, in nanoseconds a task, and their ratio to a bare `tokio::spawn`. tokio-console's aggregator
//! runs on a thread of its own, as its `init` sets it up, and no client is connected.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use console_subscriber::ConsoleLayer;
use postlude::{Profile, TaskRegistry};
use tokio::task::{JoinSet, yield_now};
use tokio_metrics::TaskMonitor;
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::{Registry, layer::SubscriberExt};

const TASKS: usize = 128;
const ROUNDS: usize = 200;
const TURNS: usize = 15;

/// How the tasks of a row are spawned and watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Spawn,
    Metrics,
    Console,
    Postlude,
    Profile,
}

const ROWS: [(Row, &str); 5] = [
    (Row::Spawn, "`tokio::spawn`"),
    (Row::Metrics, "`tokio::spawn`, with tokio-metrics"),
    (Row::Console, "`tokio::spawn`, with tokio-console's subscriber"),
    (Row::Postlude, "`TaskRegistry::spawn`"),
    (Row::Profile, "the same with a profile"),
];

async fn work(polls: usize) {
    for _ in 1..polls {
        yield_now().await;
    }
}

/// Runs all rounds of a row, and returns the time of one task.
async fn run(row: Row, polls: usize) -> Duration {
    let monitor = TaskMonitor::new();
    let registry = match row {
        Row::Profile => TaskRegistry::builder().profile(Profile::default()).build().expect("a profile"),
        _ => TaskRegistry::new(),
    };
    let start = Instant::now();
    for _ in 0..ROUNDS {
        match row {
            Row::Spawn | Row::Console => {
                let mut tasks = JoinSet::new();
                (0..TASKS).for_each(|_| _ = tasks.spawn(work(polls)));
                tasks.join_all().await;
            }
            Row::Metrics => {
                let mut tasks = JoinSet::new();
                (0..TASKS).for_each(|_| _ = tasks.spawn(monitor.instrument(work(polls))));
                tasks.join_all().await;
            }
            Row::Postlude | Row::Profile => {
                (0..TASKS).for_each(|_| drop(registry.spawn(work(polls))));
                registry.wait_idle().await;
            }
        }
    }
    start.elapsed() / u32::try_from(ROUNDS * TASKS).expect("few tasks")
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let console = ConsoleLayer::builder().server_addr((Ipv4Addr::LOCALHOST, 0)).spawn();
    let watched = Dispatch::new(Registry::default().with(console));
    println!("| a task | 1 poll, ns | ratio | 10 polls, ns | ratio |\n|---|---|---|---|---|");
    let mut times = [(); ROWS.len()].map(|()| [Vec::new(), Vec::new()]);
    for _ in 0..TURNS {
        for ((row, _), times) in ROWS.iter().zip(&mut times) {
            for (polls, times) in [1, 10].into_iter().zip(times) {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let dispatch = if *row == Row::Console { watched.clone() } else { Dispatch::none() };
                times.push(dispatcher::with_default(&dispatch, || runtime.block_on(run(*row, polls))));
            }
        }
    }
    let medians = times.map(|of_row| of_row.map(median));
    let [bare, ..] = medians;
    for ((_, name), row) in ROWS.iter().zip(medians) {
        let cell = |index: usize| {
            let ratio = row[index].as_secs_f64() / bare[index].as_secs_f64();
            format!("{} | {ratio:.2}", row[index].as_nanos())
        };
        println!("| {name} | {} | {} |", cell(0), cell(1));
    }
}
