//! What a task costs in the core, beside its peers: spawned by itself, and in sets of 1, 4 and 16.
//!
//! Each iteration puts a window of 128 empty tasks in flight, as a busy server does, and waits for them; a
//! figure divided by 128 is the cost of one task. All peers run in one process, on the same runtimes.
#![expect(missing_docs, reason = "criterion's macros make public items")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::{FutureExt, future::BoxFuture};
use postlude::TaskRegistry;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tokio_util::task::TaskTracker;

/// Tasks in flight at a time.
const WINDOW: usize = 128;

fn runtimes() -> [(&'static str, Runtime); 2] {
    [
        ("current_thread", Builder::new_current_thread().enable_all().build().unwrap()),
        ("multi_thread_2", Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()),
    ]
}

/// Measures `window`, which runs on a worker of the runtime.
fn measure<F>(criterion: &mut Criterion, group: &str, runtime: &Runtime, peer: &str, mut window: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(WINDOW as u64));
    group.bench_function(peer, |bencher| {
        bencher.iter(|| runtime.block_on(runtime.spawn(window())).unwrap());
    });
    group.finish();
}

/// The peer to which all are compared.
async fn tracked() {
    let tracker = TaskTracker::new();
    for _ in 0..WINDOW {
        tracker.spawn(async {});
    }
    tracker.close();
    tracker.wait().await;
}

fn spawn(criterion: &mut Criterion) {
    for (flavor, runtime) in runtimes() {
        let group = format!("spawn/{flavor}");
        measure(criterion, &group, &runtime, "TaskTracker", tracked);
        measure(criterion, &group, &runtime, "JoinSet", || async {
            let mut set = JoinSet::new();
            for _ in 0..WINDOW {
                set.spawn(async {});
            }
            while set.join_next().await.is_some() {}
        });
        let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
        measure(criterion, &group, &runtime, "postlude", || {
            let registry = registry.clone();
            async move {
                for _ in 0..WINDOW {
                    registry.spawn(async {});
                }
                registry.wait_idle().await;
            }
        });
    }
}

fn set(criterion: &mut Criterion) {
    for (flavor, runtime) in runtimes() {
        let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
        for size in [1, 4, 16] {
            let group = format!("set_of_{size}/{flavor}");
            measure(criterion, &group, &runtime, "TaskTracker", tracked);
            measure(criterion, &group, &runtime, "boxed futures in a row", move || async move {
                let tracker = TaskTracker::new();
                for _ in 0..WINDOW / size {
                    let set: Vec<BoxFuture<'static, ()>> = (0..size).map(|_| async {}.boxed()).collect();
                    tracker.spawn(async {
                        for task in set {
                            task.await;
                        }
                    });
                }
                tracker.close();
                tracker.wait().await;
            });
            measure(criterion, &group, &runtime, "postlude", || {
                let registry = registry.clone();
                async move {
                    for _ in 0..WINDOW / size {
                        let set = registry.set();
                        for _ in 0..size {
                            set.add(async {});
                        }
                    }
                    registry.wait_idle().await;
                }
            });
        }
    }
}

criterion_group!(benches, spawn, set);
criterion_main!(benches);
