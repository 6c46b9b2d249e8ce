//! A task that is measured, beside a task that tokio-metrics measures and beside tasks that nobody measures: one that
//! returns from its first poll, and one that is polled ten times.

use criterion::Criterion;
use postlude::{Profile, TaskRegistry};
use tokio::{runtime::Runtime, task::yield_now};
use tokio_metrics::TaskMonitor;
use tokio_util::task::TaskTracker;

use crate::{WINDOW, measure, registry, runtimes};

/// How often a task is polled.
const POLLS: [usize; 2] = [1, 10];

async fn work(polls: usize) {
    for _ in 1..polls {
        yield_now().await;
    }
}

pub(crate) fn peers(criterion: &mut Criterion) {
    for (flavor, runtime) in runtimes() {
        for polls in POLLS {
            each(criterion, &format!("profile_{polls}/{flavor}"), &runtime, polls);
        }
    }
}

fn each(criterion: &mut Criterion, group: &str, runtime: &Runtime, polls: usize) {
    measure(criterion, group, runtime, "TaskTracker", || tracked(polls));
    let monitor = TaskMonitor::new();
    measure(criterion, group, runtime, "tokio_metrics", || instrumented(monitor.clone(), polls));
    let off = registry(runtime);
    measure(criterion, group, runtime, "postlude", || spawned(off.clone(), polls));
    let builder = TaskRegistry::builder().handle(runtime.handle().clone());
    let on = builder.profile(Profile::default()).build().unwrap();
    measure(criterion, group, runtime, "postlude_profile", || spawned(on.clone(), polls));
}

async fn tracked(polls: usize) {
    let tracker = TaskTracker::new();
    for _ in 0..WINDOW {
        tracker.spawn(work(polls));
    }
    tracker.close();
    tracker.wait().await;
}

async fn instrumented(monitor: TaskMonitor, polls: usize) {
    let tracker = TaskTracker::new();
    for _ in 0..WINDOW {
        tracker.spawn(monitor.instrument(work(polls)));
    }
    tracker.close();
    tracker.wait().await;
}

async fn spawned(registry: TaskRegistry, polls: usize) {
    for _ in 0..WINDOW {
        registry.spawn(work(polls));
    }
    registry.wait_idle().await;
}
