//! What people use in place of a registry, each putting a number of empty tasks in flight and waiting for them.
//!
//! An empty task shows what is added to the work. It is made by [`work`], so that all run the same future.
#![expect(clippy::disallowed_methods, reason = "these are the peers that spawn by themselves")]

use std::{
    collections::HashMap,
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use postlude::{Task, TaskRegistry};
use postlude_floor::Registry;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_metrics::TaskMonitor;
use tokio_util::task::TaskTracker;

/// What each task does.
pub(crate) async fn work() {}

/// The floor: boxed futures awaited where they are, without a runtime's help.
pub(crate) async fn awaited_in_place(tasks: usize) {
    let boxed: Vec<BoxFuture<'static, ()>> = (0..tasks).map(|_| work().boxed()).collect();
    for task in boxed {
        task.await;
    }
}

pub(crate) async fn futures_unordered(tasks: usize) {
    let mut all: FuturesUnordered<_> = (0..tasks).map(|_| work()).collect();
    while all.next().await.is_some() {}
}

/// `tokio::spawn`, with the handles awaited.
pub(crate) async fn tokio_spawn(tasks: usize) {
    let handles: Vec<_> = (0..tasks).map(|_| tokio::spawn(work())).collect();
    for handle in handles {
        let _never_cancelled = handle.await;
    }
}

/// The peer to which all are compared.
pub(crate) async fn task_tracker(tasks: usize) {
    let tracker = TaskTracker::new();
    for _ in 0..tasks {
        tracker.spawn(work());
    }
    tracker.close();
    tracker.wait().await;
}

/// [`task_tracker`] with nothing but the times of each task: when it was added, when it started, how long it took. What
/// a registry costs at least that knows these.
pub(crate) async fn timed(tasks: usize) {
    let tracker = TaskTracker::new();
    for _ in 0..tasks {
        let added = Instant::now();
        tracker.spawn(async move {
            let started = Instant::now();
            work().await;
            black_box((started - added, started.elapsed()));
        });
    }
    tracker.close();
    tracker.wait().await;
}

/// [`rows_in_task_tracker`] with the times of each task, the end of one being the start of the next.
pub(crate) async fn timed_rows(sets: usize, size: usize) {
    let tracker = TaskTracker::new();
    for _ in 0..sets {
        let boxed: Vec<(Instant, BoxFuture<'static, ()>)> =
            (0..size).map(|_| (Instant::now(), work().boxed())).collect();
        tracker.spawn(async {
            let mut started = Instant::now();
            for (added, task) in boxed {
                task.await;
                let ended = Instant::now();
                black_box((started - added, ended - started));
                started = ended;
            }
        });
    }
    tracker.close();
    tracker.wait().await;
}

/// [`task_tracker`] for sets: boxed futures awaited in a row, in one spawn a set.
pub(crate) async fn rows_in_task_tracker(sets: usize, size: usize) {
    let tracker = TaskTracker::new();
    for _ in 0..sets {
        tracker.spawn(awaited_in_place(size));
    }
    tracker.close();
    tracker.wait().await;
}

pub(crate) async fn join_set(tasks: usize) {
    let mut set = JoinSet::new();
    for _ in 0..tasks {
        set.spawn(work());
    }
    while set.join_next().await.is_some() {}
}

/// A tracker whose tasks tokio-metrics watches: counts and times, as a registry's figures have them.
pub(crate) async fn instrumented(monitor: TaskMonitor, tasks: usize) {
    let tracker = TaskTracker::new();
    for _ in 0..tasks {
        tracker.spawn(monitor.instrument(work()));
    }
    tracker.close();
    tracker.wait().await;
}

/// What people write by hand: a map of abort handles behind a mutex, from which each task strikes itself.
#[derive(Clone, Default)]
pub(crate) struct ByHand(Arc<Shared>);

#[derive(Default)]
struct Shared {
    tasks: Mutex<Tasks>,
    idle: Notify,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    /// `None` until the spawn has returned.
    live: HashMap<u64, Option<AbortHandle>>,
}

impl ByHand {
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::clone(&self.0);
        let mut tasks = shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.next += 1;
        let id = tasks.next;
        tasks.live.insert(id, None);
        drop(tasks);
        let abort = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                task.await;
                let mut tasks = shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                tasks.live.remove(&id);
                if tasks.live.is_empty() {
                    shared.idle.notify_waiters();
                }
            }
        })
        .abort_handle();
        let mut tasks = shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = tasks.live.get_mut(&id) {
            *slot = Some(abort);
        }
    }

    pub(crate) async fn wait_idle(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).live.is_empty() {
                return;
            }
            idle.await;
        }
    }
}

pub(crate) async fn by_hand(registry: ByHand, tasks: usize) {
    for _ in 0..tasks {
        registry.spawn(work());
    }
    registry.wait_idle().await;
}

pub(crate) async fn postlude(registry: TaskRegistry, tasks: usize) {
    for _ in 0..tasks {
        registry.spawn(work());
    }
    registry.wait_idle().await;
}

pub(crate) async fn postlude_named(registry: TaskRegistry, tasks: usize) {
    for _ in 0..tasks {
        registry.spawn(Task::new(work()).named("work"));
    }
    registry.wait_idle().await;
}

pub(crate) async fn postlude_sets(registry: TaskRegistry, sets: usize, size: usize) {
    for _ in 0..sets {
        let set = registry.set();
        for _ in 0..size {
            set.add(work());
        }
    }
    registry.wait_idle().await;
}

/// [`postlude`] with the least registry.
pub(crate) async fn floor(registry: Registry, tasks: usize) {
    for _ in 0..tasks {
        registry.spawn(work());
    }
    registry.wait_idle().await;
}

/// [`postlude_sets`] with the least registry.
pub(crate) async fn floor_sets(registry: Registry, sets: usize, size: usize) {
    for _ in 0..sets {
        let set = registry.set();
        for _ in 0..size {
            set.add(work());
        }
    }
    registry.wait_idle().await;
}
