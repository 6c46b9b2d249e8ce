//! Sets of several sizes, beside as many spawns; and the add by itself.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput};
use postlude_floor::Registry;
use tokio_util::task::TaskTracker;

use crate::{WINDOW, measure, measure_of, peers, registry, runtimes};

pub(crate) fn sizes(criterion: &mut Criterion) {
    for (flavor, runtime) in runtimes() {
        let (registry, floor) = (registry(&runtime), Registry::new());
        for size in [1, 4, 16, 256] {
            let group = format!("set_of_{size}/{flavor}");
            let (sets, tasks) = ((WINDOW / size).max(1), WINDOW.max(size));
            measure_of(criterion, &group, &runtime, "TaskTracker", tasks, || peers::task_tracker(tasks));
            measure_of(criterion, &group, &runtime, "postlude", tasks, || {
                peers::postlude_sets(registry.clone(), sets, size)
            });
            measure_of(criterion, &group, &runtime, "floor", tasks, || peers::floor_sets(floor.clone(), sets, size));
            measure_of(criterion, &group, &runtime, "timed", tasks, || peers::timed_rows(sets, size));
            measure_of(criterion, &group, &runtime, "rows_in_TaskTracker", tasks, || {
                peers::rows_in_task_tracker(sets, size)
            });
        }
        // A set that is made, and gets no task.
        let group = format!("set_of_0/{flavor}");
        measure(criterion, &group, &runtime, "postlude", || peers::postlude_sets(registry.clone(), WINDOW, 0));
        measure(criterion, &group, &runtime, "TaskTracker_token", || async {
            let tracker = TaskTracker::new();
            for _ in 0..WINDOW {
                drop(black_box(tracker.token()));
            }
        });
    }
}

/// The add alone: what a handler waits for. The drain is not part of the time.
#[expect(clippy::disallowed_methods, reason = "it times, and nothing pauses this clock")]
pub(crate) fn add(criterion: &mut Criterion) {
    let [(_, runtime), _] = runtimes();
    let registry = registry(&runtime);
    let mut group = criterion.benchmark_group("add/current_thread");
    group.throughput(Throughput::Elements(WINDOW as u64));
    group.bench_function("boxed_push", |bencher| {
        bencher.iter(|| {
            let mut queue: Vec<futures::future::BoxFuture<'static, ()>> = Vec::new();
            for _ in 0..WINDOW {
                queue.push(Box::pin(peers::work()));
            }
            black_box(queue);
        });
    });
    group.bench_function("postlude", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let set = registry.set();
                let begun = Instant::now();
                for _ in 0..WINDOW {
                    set.add(peers::work());
                }
                total += begun.elapsed();
                runtime.block_on(set.drain());
            }
            total
        });
    });
    group.finish();
}
