//! What a task costs in the core, beside its peers: per spawned task, and per set of 1, 4 and 16.
//!
//! Each measurement keeps a window of tasks in flight, as a server does; all peers run in one process.
#![expect(missing_docs, reason = "criterion's macros make public items")]
#![expect(clippy::disallowed_methods, reason = "the peers spawn by themselves")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use postlude::TaskRegistry;
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::TaskTracker;

/// Tasks in flight at a time.
const WINDOW: usize = 128;

fn runtimes() -> [(&'static str, Runtime); 2] {
    [
        ("current_thread", Builder::new_current_thread().enable_all().build().unwrap()),
        ("multi_thread_2", Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()),
    ]
}

/// Lets `window` put a window of tasks in flight and wait for them, as often as criterion asks.
fn measure<W>(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, name: &str, window: W)
where
    W: AsyncFn() + Clone + Send + Sync + 'static,
    for<'a> W::CallRefFuture<'a>: Send,
{
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let window = window.clone();
            runtime.block_on(async { window().await });
        });
    });
}
criterion_group!(benches, spawn);
criterion_main!(benches);
fn spawn(_: &mut Criterion) {}
