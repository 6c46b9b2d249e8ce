//! What a task costs while a thousand to a million others are live: whether it stays flat.

use criterion::Criterion;
use futures::future::join_all;
use postlude::TaskRegistry;
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::TaskTracker;

use crate::{WINDOW, measure, peers, registry};

pub(crate) fn counts(criterion: &mut Criterion) {
    for live in [1_000, 10_000, 100_000, 1_000_000] {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let group = format!("live_{live}/current_thread");
        tracked(criterion, &group, &runtime, live);
        // Ends what is live before the next runtime fills up.
        drop(runtime);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        registered(criterion, &group, &runtime, live);
    }
}

fn tracked(criterion: &mut Criterion, group: &str, runtime: &Runtime, live: usize) {
    let tracker = TaskTracker::new();
    runtime.block_on(async {
        for _ in 0..live {
            tracker.spawn(std::future::pending::<()>());
        }
        settle().await;
    });
    measure(criterion, group, runtime, "TaskTracker", || {
        let tracker = tracker.clone();
        async move {
            join_all((0..WINDOW).map(|_| tracker.spawn(peers::work()))).await;
        }
    });
}

fn registered(criterion: &mut Criterion, group: &str, runtime: &Runtime, live: usize) {
    let registry = registry(runtime);
    fill(runtime, &registry, live);
    measure(criterion, group, runtime, "postlude", || {
        let registry = registry.clone();
        async move {
            join_all((0..WINDOW).map(|_| registry.spawn(peers::work()))).await;
        }
    });
    measure(criterion, group, runtime, "postlude_sets_of_4", || {
        let registry = registry.clone();
        async move {
            let drains = (0..WINDOW / 4).map(|_| {
                let set = registry.set();
                for _ in 0..4 {
                    set.add(peers::work());
                }
                set.drain()
            });
            join_all(drains).await;
        }
    });
}

fn fill(runtime: &Runtime, registry: &TaskRegistry, live: usize) {
    runtime.block_on(async {
        for _ in 0..live {
            registry.spawn(std::future::pending::<()>());
        }
        settle().await;
    });
}

/// Lets every task have its first poll.
async fn settle() {
    for _ in 0..100_000 {
        tokio::task::yield_now().await;
    }
}
