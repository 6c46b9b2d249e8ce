//! The worst single call, not the mean: what one spawn, add, abort or look-up takes at most, while up to two million tasks are
//! live. In processor time of the thread, so that what else the machine does is not counted. What interrupts the processor
//! is counted all the same, some 200 µs at a time, and may meet any call: so each call is made in several processes, which
//! do the same in the same order, and the shortest of its times counts.
//!
//! `cargo bench --bench worst` prints a table: for each call the median and the worst, in µs, by how many were live. Beside
//! postlude stand a control that only boxes, and peers that keep a boxed value by number: a hash map that grows in one
//! piece, one in shards, and a slab. A second table has the time that a shutdown without grace takes to end a million.
//! `WORST_LIVE=100000` takes fewer.
#![expect(clippy::print_stdout, reason = "the figures are there to be read")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]

use std::{
    collections::HashMap,
    env,
    future::pending,
    hint::black_box,
    io::{self, BufRead, BufReader, BufWriter, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use postlude::{TaskId, TaskRegistry};
use rustix::time::{ClockId, clock_gettime};
use slab::Slab;
use tokio::task::yield_now;

/// The live tasks at which a column ends.
const COLUMNS: [usize; 5] = [10, 1_000, 100_000, 1_000_000, 2_000_000];

/// How many tasks a shutdown ends.
const MILLION: usize = 1_000_000;

/// How many processes make each call.
const PROCESSES: usize = 3;

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

/// What a process has measured: the times of the calls of each row, in the order in which they were made.
#[derive(Default)]
struct Measured {
    rows: Vec<Row>,
    shutdowns: Vec<(String, Duration)>,
}

struct Row {
    name: String,
    times: Vec<Duration>,
    /// Whether each call made one more task live. Otherwise the same number was live in all of them.
    grows: bool,
}

impl Measured {
    fn row(&mut self, name: &str, times: Vec<Duration>) {
        self.rows.push(Row { name: name.to_owned(), times, grows: true });
    }

    fn row_at_the_end(&mut self, name: &str, times: Vec<Duration>) {
        self.rows.push(Row { name: name.to_owned(), times, grows: false });
    }

    /// Takes the shorter one of each two times.
    fn shortest(&mut self, other: &Self) {
        for (row, other) in self.rows.iter_mut().zip(&other.rows) {
            row.times.iter_mut().zip(&other.times).for_each(|(time, other)| *time = (*time).min(*other));
        }
        for ((_, time), (_, other)) in self.shutdowns.iter_mut().zip(&other.shutdowns) {
            *time = (*time).min(*other);
        }
    }

    /// Writes everything for the process that asked for it: in each line a name, a kind, and times in ns.
    fn write(&self, mut to: impl Write) {
        let nanos = |time: &Duration| time.as_nanos().to_string();
        for Row { name, times, grows } in &self.rows {
            let times: Vec<_> = times.iter().map(nanos).collect();
            writeln!(to, "{name}|{grows}|{}", times.join(" ")).unwrap();
        }
        for (name, time) in &self.shutdowns {
            writeln!(to, "{name}|shutdown|{}", nanos(time)).unwrap();
        }
    }

    fn read(from: impl BufRead) -> Self {
        let mut measured = Self::default();
        for line in from.lines().map(Result::unwrap) {
            let mut parts = line.split('|');
            let (name, kind, times) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            let mut times = times.split(' ').map(|time| Duration::from_nanos(time.parse().unwrap()));
            match kind {
                "shutdown" => measured.shutdowns.push((name.to_owned(), times.next().unwrap())),
                "true" => measured.row(name, times.collect()),
                _ => measured.row_at_the_end(name, times.collect()),
            }
        }
        measured
    }

    fn print(&self, live: usize) {
        println!("| a call: median, worst | to {} live |", COLUMNS.map(|end| end.to_string()).join(" | to "));
        println!("|---|{}", "---|".repeat(COLUMNS.len()));
        for Row { name, times, grows } in &self.rows {
            let at = COLUMNS.iter().position(|end| live <= *end).unwrap_or(COLUMNS.len() - 1);
            let cells = [0].into_iter().chain(COLUMNS).zip(COLUMNS).enumerate().map(|(column, (begin, end))| {
                let part =
                    if *grows { times.get(begin..end.min(times.len())) } else { (column == at).then_some(&**times) };
                cell(part.unwrap_or_default().to_vec())
            });
            println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
        println!("\n| a shutdown of {} tasks | ms |\n|---|---|", live.min(MILLION));
        for (which, time) in &self.shutdowns {
            println!("| {which} | {:.0} |", time.as_secs_f64() * 1e3);
        }
    }
}

fn main() {
    let live: usize = env::var("WORST_LIVE").map_or(COLUMNS[4], |live| live.parse().unwrap());
    if env::args().any(|argument| argument == "measure") {
        return measure(live).write(BufWriter::new(io::stdout()));
    }
    let mut all: Option<Measured> = None;
    for _ in 0..PROCESSES {
        let mut process = Command::new(env::current_exe().unwrap());
        let mut process = process.arg("measure").stdout(Stdio::piped()).spawn().unwrap();
        let measured = Measured::read(BufReader::new(process.stdout.take().unwrap()));
        assert!(process.wait().unwrap().success(), "a process could not measure");
        match &mut all {
            None => all = Some(measured),
            Some(all) => all.shortest(&measured),
        }
    }
    all.unwrap_or_default().print(live);
}

fn measure(live: usize) -> Measured {
    let mut measured = Measured::default();
    boxes(&mut measured, live);
    maps(&mut measured, live);
    on_runtime(async || drop(spawns(&mut measured, live).await));
    on_runtime(async || drop(adds(&mut measured, live)));
    on_runtime(async || drop(sets(&mut measured, live)));
    // Of these, only the shutdowns count.
    let (few, mut rest) = (live.min(MILLION), Measured::default());
    let spawned = on_runtime(async || shut_down(spawns(&mut rest, few).await).await);
    let of_one_set = on_runtime(async || shut_down(adds(&mut rest, few)).await);
    let of_a_set_each = on_runtime(async || shut_down(sets(&mut rest, few)).await);
    let shutdowns = [("spawned", spawned), ("of one set", of_one_set), ("of a set each", of_a_set_each)];
    measured.shutdowns = shutdowns.map(|(which, time)| (which.to_owned(), time)).into();
    measured
}

/// Runs on a runtime of its own, so that the tasks of one measurement do not end during the next one.
fn on_runtime<R>(run: impl AsyncFnOnce() -> R) -> R {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run())
}

fn boxes(measured: &mut Measured, live: usize) {
    let mut kept = Vec::with_capacity(live);
    let times: Vec<_> = (0..live).map(|_| timed(|| kept.push(value())).1).collect();
    measured.row("the control: a box", times);
}

fn maps(measured: &mut Measured, live: usize) {
    let mut map = HashMap::new();
    let times: Vec<_> = (0..live).map(|number| timed(|| map.insert(number, value())).1).collect();
    measured.row("a hash map", times);
    drop(map);
    let map = DashMap::new();
    let times: Vec<_> = (0..live).map(|number| timed(|| map.insert(number, value())).1).collect();
    measured.row("`dashmap`", times);
    drop(map);
    let mut slab = Slab::new();
    let times: Vec<_> = (0..live).map(|_| timed(|| slab.insert(value())).1).collect();
    measured.row("`slab`", times);
}

/// Every 64 spawns the tasks have their first poll, so that the runtime's own queue stays short.
async fn spawns(measured: &mut Measured, live: usize) -> TaskRegistry {
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
    measured.row("**`TaskRegistry::spawn`**", times);
    look_up_and_abort(measured, "spawned", &registry, &ids, live);
    registry
}

/// Tasks of one set.
fn adds(measured: &mut Measured, live: usize) -> TaskRegistry {
    let registry = registry();
    let set = registry.set();
    let (mut times, mut ids) = (Vec::with_capacity(live), Vec::with_capacity(live));
    for _ in 0..live {
        let (id, time) = timed(|| set.add(pending::<()>()));
        times.push(time);
        ids.push(id);
    }
    measured.row("**`TaskSet::add`**, to one set", times);
    look_up_and_abort(measured, "of one set", &registry, &ids, live);
    registry
}

/// A set for each task.
fn sets(measured: &mut Measured, live: usize) -> TaskRegistry {
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
    measured.row("**`TaskSet::add`**, to a new set", times);
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

fn look_up_and_abort(measured: &mut Measured, which: &str, registry: &TaskRegistry, ids: &[TaskId], live: usize) {
    // Spread over all of them, in no order.
    let some = || (0..CALLS.min(live)).filter_map(|call| ids.get(call * 7_919 % live));
    let times = some().map(|id| timed(|| black_box(registry.get(*id))).1).collect();
    measured.row_at_the_end(&format!("**`TaskRegistry::get`**, {which}"), times);
    let times = some().map(|id| timed(|| registry.abort(*id)).1).collect();
    measured.row_at_the_end(&format!("**`TaskRegistry::abort`**, {which}"), times);
}
