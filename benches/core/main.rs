//! What a task costs in the core, beside its peers. One file a topic; all peers run in one process, on the same
//! runtimes, so that their ratios mean something.
//!
//! Each iteration puts a window of 128 empty tasks in flight, as a busy server does, and waits for them; a figure
//! divided by 128 is the cost of one task. `scripts/measure` makes the tables of `docs/performance.md` of it.
//!
//! The tokio that is measured has its `test-util` feature, which the tests ask for: as long as no test pauses the
//! clock, it costs one load of a static at each reading.
#![expect(missing_docs, reason = "criterion's macros make public items")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]

mod live;
mod logging;
mod peers;
mod policies;
mod profile;
mod set;
mod spawn;
mod threads;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use postlude::TaskRegistry;
use tokio::runtime::{Builder, Runtime};

/// Tasks in flight at a time.
const WINDOW: usize = 128;

fn runtimes() -> [(&'static str, Runtime); 2] {
    [
        ("current_thread", Builder::new_current_thread().enable_all().build().unwrap()),
        ("multi_thread_2", Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()),
    ]
}

fn registry(runtime: &Runtime) -> TaskRegistry {
    TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap()
}

/// Measures `window`, which runs on a worker of the runtime.
fn measure<F>(criterion: &mut Criterion, group: &str, runtime: &Runtime, peer: &str, window: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    measure_of(criterion, group, runtime, peer, WINDOW, window);
}

/// The same for a window of another size.
fn measure_of<F>(
    criterion: &mut Criterion,
    group: &str,
    runtime: &Runtime,
    peer: &str,
    size: usize,
    mut window: impl FnMut() -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(size as u64));
    group.bench_function(peer, |bencher| {
        bencher.iter(|| runtime.block_on(runtime.spawn(window())).unwrap());
    });
    group.finish();
}

/// Short runs, for what counts is the ratio of neighbours, and a machine changes its mind in a minute.
fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
}

criterion_group! {
    name = benches;
    config = short();
    targets = spawn::peers, set::sizes, set::add, policies::each, profile::peers, threads::both, live::counts,
        logging::json, logging::info
}
criterion_main!(benches);
