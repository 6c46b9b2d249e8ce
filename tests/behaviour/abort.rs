//! Aborting tasks: pending, running and between two polls.

use std::{
    fmt,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use postlude::{Outcome, TaskId, TaskRegistry, TaskSet, TaskState};
use tokio::sync::oneshot;

use crate::support::{assert_conserved, until};

#[tokio::test]
async fn pending_and_running_task() {
    let registry = TaskRegistry::new();
    let pending_task = registry.spawn(pending::<()>());
    assert!(pending_task.abort());
    assert!(!pending_task.abort(), "it has its outcome");
    assert!(matches!(pending_task.await, Outcome::Aborted));

    let (sender, dropped) = oneshot::channel::<()>();
    let running = registry.spawn(async move {
        let _sender = sender;
        pending::<()>().await;
    });
    tokio::task::yield_now().await;
    assert!(registry.abort(running.id()));
    assert_eq!(registry.metrics().aborted, 2, "counted at once");
    assert!(running.is_finished());
    assert!(dropped.await.is_err(), "its future is dropped");
    assert!(matches!(running.await, Outcome::Aborted));
    tokio::task::yield_now().await;
    assert_eq!(registry.metrics().stuck, 0);
    assert_conserved(&registry, 2);
}

/// The other tasks of the set run.
#[tokio::test]
async fn pending_and_running_task_of_a_set() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    let (sender, dropped) = oneshot::channel::<()>();
    let running = set.add(async move {
        let _sender = sender;
        pending::<()>().await;
    });
    let waiting = set.add(async {});
    set.add(async {});
    let drained = set.drain();
    tokio::task::yield_now().await;
    assert!(registry.abort(waiting));
    assert!(registry.abort(running));
    assert!(!registry.abort(running));
    let report = drained.await;
    assert_eq!((report.aborted, report.completed), (2, 1));
    assert!(dropped.await.is_err(), "its future is dropped");
    assert_conserved(&registry, 3);
}

#[tokio::test]
async fn by_the_task_itself() {
    let registry = TaskRegistry::new();
    let (id_sender, id) = oneshot::channel();
    let (sender, after_abort) = oneshot::channel();
    let inner = registry.clone();
    let set = registry.set();
    let own = set.add(async move {
        let id = id.await.unwrap();
        assert!(inner.abort(id));
        sender.send(inner.metrics().aborted).unwrap();
        pending::<()>().await;
    });
    set.add(async {});
    id_sender.send(own).unwrap();
    let report = set.drain().await;
    assert_eq!((report.aborted, report.completed), (1, 1));
    assert_eq!(after_abort.await.unwrap(), 1);
}

#[tokio::test]
async fn between_two_polls_of_the_drain() {
    // More than a drain ends in one poll: it yields with the next one started, and not yet polled.
    const TASKS: usize = 100;
    let (registry, runs) = (TaskRegistry::new(), Arc::new(AtomicUsize::new(0)));
    let set = registry.set();
    for _ in 0..TASKS {
        let runs = Arc::clone(&runs);
        set.add(async move {
            runs.fetch_add(1, Ordering::SeqCst);
        });
    }
    let drained = set.drain();
    // Its turn comes after the drain's first, and before its second.
    let aborter = registry.clone();
    let between = tokio::spawn(async move {
        let begun = aborter.tasks().into_iter().find(|task| task.state == TaskState::Running).unwrap();
        assert!(aborter.abort(begun.id));
    });
    between.await.unwrap();
    let report = drained.await;
    assert_eq!((report.completed, report.aborted), (TASKS as u64 - 1, 1));
    until(|| registry.metrics().stuck == 0).await;
    assert_eq!(runs.load(Ordering::SeqCst), TASKS - 1);
    assert_conserved(&registry, TASKS as u64);
}

/// Its thread may be busy, and the runtime drops it when its turn comes.
#[tokio::test(start_paused = true)]
async fn task_that_waits_to_be_dropped_is_not_stuck() {
    let registry = TaskRegistry::new();
    let handle = registry.spawn(pending::<()>());
    tokio::task::yield_now().await;
    assert!(handle.abort());
    // The clock goes on, and the runtime polls nothing else.
    let half_a_second = tokio::time::advance(Duration::from_millis(500));
    assert!(half_a_second.now_or_never().is_none());
    assert_eq!(registry.metrics().stuck, 0);
}

mod never_yields {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn holds_up_neither_set_nor_handle() {
        let registry = TaskRegistry::new();
        let (started, has_started) = oneshot::channel();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let set = registry.set();
        let id = set.add(async move {
            started.send(()).unwrap();
            // Blocks its worker, as no async task should.
            held.recv().map_err(|_| "released")
        });
        set.add(async {});
        let drained = set.drain();
        has_started.await.unwrap();
        assert!(registry.abort(id));
        let report = drained.await;
        assert_eq!((report.aborted, report.completed), (1, 1));
        until(|| registry.metrics().stuck == 1).await;
        release.send(()).unwrap();
        until(|| registry.metrics().stuck == 0).await;
        assert_conserved(&registry, 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn handle_resolves_at_once() {
        let registry = TaskRegistry::new();
        let (started, has_started) = oneshot::channel();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let handle = registry.spawn(async move {
            started.send(()).unwrap();
            held.recv().map_err(|_| "released")
        });
        has_started.await.unwrap();
        let id = handle.id();
        let waiter = tokio::spawn(handle);
        assert!(registry.abort(id));
        assert!(matches!(waiter.await.unwrap(), Outcome::Aborted));
        until(|| registry.metrics().stuck == 1).await;
        drop(release);
    }
}

mod late_error {
    use super::*;

    /// An error that calls the registry when it is dropped.
    #[derive(Debug)]
    struct Nosy(TaskRegistry);

    impl fmt::Display for Nosy {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("nosy")
        }
    }

    impl std::error::Error for Nosy {}

    impl Drop for Nosy {
        fn drop(&mut self) {
            let _metrics = self.0.metrics();
            self.0.spawn(async {});
        }
    }

    /// The task fails after its abort: its error is dropped.
    #[tokio::test]
    async fn may_call_registry_in_drop() {
        let registry = TaskRegistry::new();
        let (sender, id) = oneshot::channel::<TaskId>();
        let inner = registry.clone();
        let handle = registry.spawn(async move {
            inner.abort(id.await.unwrap());
            Err::<(), _>(Nosy(inner))
        });
        sender.send(handle.id()).unwrap();
        assert!(matches!(handle.await, Outcome::Aborted));
        registry.wait_idle().await;
        assert_conserved(&registry, 2);

        let (sender, id) = oneshot::channel::<TaskId>();
        let (set, inner) = (registry.set(), registry.clone());
        let own = set.add(async move {
            inner.abort(id.await.unwrap());
            Err::<(), _>(Nosy(inner))
        });
        sender.send(own).unwrap();
        assert_eq!(set.drain().await.aborted, 1);
        registry.wait_idle().await;
        assert_conserved(&registry, 4);
    }

    #[tokio::test]
    async fn may_hold_last_handle_of_set() {
        let registry = TaskRegistry::builder().capacity(1).build().unwrap();
        let (sender, id) = oneshot::channel::<TaskId>();
        let inner = registry.clone();
        let set = registry.set();
        let own = set.add(async move {
            let set = TaskSet::current().unwrap();
            let again = set.clone();
            let rejected = set.try_add(async move { drop(again) });
            drop(set);
            inner.abort(id.await.unwrap());
            rejected.map(drop)
        });
        sender.send(own).unwrap();
        let drained = set.drain();
        assert_eq!(drained.await.aborted, 1);
        assert_conserved(&registry, 1);
    }
}
