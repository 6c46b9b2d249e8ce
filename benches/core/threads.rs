//! Whether two threads that use one registry stand in each other's way.
//!
//! `add`: the same adds and clears from one thread and from two at once, on one registry: all that it shares,
//! without the runtime's part. `spawn`: windows of spawned tasks from one task on a runtime of one worker, and from
//! two tasks on one of two; here the runtime has its part, which the peers show. The figure is the time for one
//! window of each; with a core for each thread and nothing shared, it would be the same for both.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput};
use futures::future::join_all;
use postlude::TaskRegistry;
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::TaskTracker;

use crate::{WINDOW, measure, peers, registry};

pub(crate) fn both(criterion: &mut Criterion) {
    for threads in [1, 2] {
        let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
        let group = format!("threads_{threads}");
        spawns(criterion, &group, &runtime, threads);
        adds(criterion, &group, &runtime, threads);
    }
}

fn spawns(criterion: &mut Criterion, group: &str, runtime: &Runtime, threads: usize) {
    let (registry, tracker) = (registry(runtime), TaskTracker::new());
    measure(criterion, group, runtime, "TaskTracker", || {
        let tracker = tracker.clone();
        on_tasks(threads, move || join_all((0..WINDOW).map(|_| tracker.spawn(peers::work())).collect::<Vec<_>>()))
    });
    measure(criterion, group, runtime, "postlude", || {
        let registry = registry.clone();
        on_tasks(threads, move || join_all((0..WINDOW).map(|_| registry.spawn(peers::work())).collect::<Vec<_>>()))
    });
}

/// A window in each of some tokio tasks, ten times over so that both workers have time to meet.
#[expect(clippy::disallowed_methods, reason = "it starts what is measured")]
async fn on_tasks<F: Future<Output: Send> + Send>(threads: usize, window: impl Fn() -> F + Clone + Send + 'static) {
    let producers = (0..threads).map(|_| {
        let window = window.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                drop(window().await);
            }
        })
    });
    join_all(producers.collect::<Vec<_>>()).await;
}

fn adds(criterion: &mut Criterion, group: &str, runtime: &Runtime, threads: usize) {
    let registry = registry(runtime);
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(WINDOW as u64));
    group.bench_function("postlude_add_and_clear", |bencher| {
        bencher.iter_custom(|windows| on_threads(threads, windows, || add_and_clear(&registry)));
    });
    group.finish();
}

fn add_and_clear(registry: &TaskRegistry) {
    let set = registry.set();
    for _ in 0..WINDOW {
        set.add(peers::work());
    }
    set.clear();
}

/// How long `windows` windows take on each of some threads, which begin together.
#[expect(clippy::disallowed_methods, reason = "it times, and nothing pauses this clock")]
fn on_threads(threads: usize, windows: u64, window: impl Fn() + Sync) -> Duration {
    let barrier = Barrier::new(threads);
    let one = || {
        barrier.wait();
        let begun = Instant::now();
        for _ in 0..windows {
            window();
        }
        begun.elapsed()
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).max().unwrap_or_default()
    })
}
