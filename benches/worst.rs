//! The worst single call, not the mean: what one spawn, add, abort or look-up takes at most, while up to two million tasks are
//! live. In processor time of the thread, so that what else the machine does is not counted.
//!
//! `cargo bench --bench worst` prints a table: for each call the median and the worst, in µs, by how many were live. Beside
//! postlude stand a control that only boxes, and peers that keep a boxed value by number: a hash map that grows in one
//! piece, one in shards, and a slab. A second table has the time that a shutdown without grace takes to end as many.
//! `WORST_LIVE=100000` takes fewer.
#![expect(clippy::print_stdout, reason = "the figures are there to be read")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]

use std::{
    collections::HashMap,
    env,
    future::pending,
    hint::black_box,
    time::{Duration, Instant},
};

use dashmap::DashMap;
use postlude::{TaskId, TaskRegistry};
use rustix::time::{ClockId, clock_gettime};
use slab::Slab;
use tokio::task::yield_now;

/// The live tasks at which a column ends.
const COLUMNS: [usize; 5] = [10, 1_000, 100_000, 1_000_000, 2_000_000];

/// The number of look-ups, and of aborts.
const CALLS: usize = 20_000;

/// A value of the size of a task without captures.
type Value = Box<[u64; 9]>;

fn value() -> Value {
    black_box(Box::new([0; 9]))
}

/// The processor time of a call.
fn timed<R>(call: impl FnOnce() -> R) -> (R, Duration) {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let begin = now();
    let result = call();
    (result, now().saturating_sub(begin))
}

/// The median and the worst, in µs.
fn cell(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let micros = |time: &Duration| time.as_secs_f64() * 1e6;
    match (times.get(times.len() / 2), times.last()) {
        (Some(median), Some(worst)) => format!("{:.1}, {:.0}", micros(median), micros(worst)),
        _ => String::new(),
    }
}

/// Prints a row of calls, each of which made one more task live.
fn row(name: &str, times: &[Duration]) {
    let begins = [0].into_iter().chain(COLUMNS);
    let cells = begins.zip(COLUMNS).map(|(begin, end)| {
        let end = end.min(times.len());
        cell(times.get(begin..end).unwrap_or_default().to_vec())
    });
    println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
}

/// Prints a row of calls with the same number of live tasks.
fn row_at_the_end(name: &str, live: usize, times: Vec<Duration>) {
    let column = COLUMNS.iter().position(|end| live <= *end).unwrap_or(COLUMNS.len() - 1);
    let mut cells = [const { String::new() }; COLUMNS.len()];
    if let Some(last) = cells.get_mut(column) {
        *last = cell(times);
    }
    println!("| {name} | {} |", cells.join(" | "));
}

fn main() {
    let live: usize = env::var("WORST_LIVE").map_or(COLUMNS[4], |live| live.parse().unwrap());
    println!("| a call: median, worst | to {} live |", COLUMNS.map(|end| end.to_string()).join(" | to "));
    println!("|---|{}", "---|".repeat(COLUMNS.len()));
    boxes(live);
    maps(live);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let spawned = shut_down(spawns(live).await).await;
        let of_one_set = shut_down(adds(live)).await;
        let of_a_set_each = shut_down(sets(live)).await;
        println!("\n| a shutdown of {live} tasks | ms |\n|---|---|");
        for (which, time) in [("spawned", spawned), ("of one set", of_one_set), ("of a set each", of_a_set_each)] {
            println!("| {which} | {:.0} |", time.as_secs_f64() * 1e3);
        }
    });
}

fn boxes(live: usize) {
    let mut kept = Vec::with_capacity(live);
    let times: Vec<_> = (0..live).map(|_| timed(|| kept.push(value())).1).collect();
    row("the control: a box", &times);
}

fn maps(live: usize) {
    let mut map = HashMap::new();
    let times: Vec<_> = (0..live).map(|number| timed(|| map.insert(number, value())).1).collect();
    row("a hash map", &times);
    drop(map);
    let map = DashMap::new();
    let times: Vec<_> = (0..live).map(|number| timed(|| map.insert(number, value())).1).collect();
    row("`dashmap`", &times);
    drop(map);
    let mut slab = Slab::new();
    let times: Vec<_> = (0..live).map(|_| timed(|| slab.insert(value())).1).collect();
    row("`slab`", &times);
}

/// Every 64 spawns the tasks have their first poll, so that the runtime's own queue stays short.
async fn spawns(live: usize) -> TaskRegistry {
    let registry = registry();
    let (mut times, mut ids) = (Vec::with_capacity(live), Vec::with_capacity(live));
    for number in 0..live {
        let (handle, time) = timed(|| registry.spawn(pending::<()>()));
        times.push(time);
        ids.push(handle.id());
        if number % 64 == 0 {
            yield_now().await;
            yield_now().await;
        }
    }
    row("**`TaskRegistry::spawn`**", &times);
    look_up_and_abort("spawned", &registry, &ids, live);
    registry
}

/// Tasks of one set.
fn adds(live: usize) -> TaskRegistry {
    let registry = registry();
    let set = registry.set();
    let (mut times, mut ids) = (Vec::with_capacity(live), Vec::with_capacity(live));
    for _ in 0..live {
        let (id, time) = timed(|| set.add(pending::<()>()));
        times.push(time);
        ids.push(id);
    }
    row("**`TaskSet::add`**, to one set", &times);
    look_up_and_abort("of one set", &registry, &ids, live);
    registry
}

/// A set for each task.
fn sets(live: usize) -> TaskRegistry {
    let registry = registry();
    let mut sets = Vec::with_capacity(live);
    let mut times = Vec::with_capacity(live);
    for _ in 0..live {
        let (set, time) = timed(|| {
            let set = registry.set();
            set.add(pending::<()>());
            set
        });
        times.push(time);
        sets.push(set);
    }
    row("**`TaskSet::add`**, to a new set", &times);
    registry
}

/// Without a history, whose memory would be part of the figures, and without a time for tasks to end by themselves.
fn registry() -> TaskRegistry {
    TaskRegistry::builder().history(0).settle(Duration::ZERO).build().unwrap()
}

/// Ends all tasks, and returns how long that took.
#[expect(clippy::disallowed_methods, reason = "it times, and nothing pauses this clock")]
async fn shut_down(registry: TaskRegistry) -> Duration {
    let begun = Instant::now();
    registry.shutdown(Duration::ZERO).await;
    begun.elapsed()
}

fn look_up_and_abort(which: &str, registry: &TaskRegistry, ids: &[TaskId], live: usize) {
    // Spread over all of them, in no order.
    let some = || (0..CALLS.min(live)).filter_map(|call| ids.get(call * 7_919 % live));
    let times = some().map(|id| timed(|| black_box(registry.get(*id))).1).collect();
    row_at_the_end(&format!("**`TaskRegistry::get`**, {which}"), live, times);
    let times = some().map(|id| timed(|| registry.abort(*id)).1).collect();
    row_at_the_end(&format!("**`TaskRegistry::abort`**, {which}"), live, times);
}
