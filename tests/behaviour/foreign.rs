//! What the user brings into it, at its worst: errors, hooks and subscribers that panic or call back.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postlude::{DiscardReason, Outcome, Task, TaskId, TaskRegistry, TaskSet};
use tokio::sync::oneshot;

use crate::support::{Journal, assert_conserved};

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

#[tokio::test]
async fn the_error_of_a_task_that_was_aborted_meanwhile_may_call_the_registry_when_it_is_dropped() {
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

/// An error that panics when it is shown, and when it is dropped.
#[derive(Debug)]
struct Hostile;

impl fmt::Display for Hostile {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("shown");
    }
}

impl std::error::Error for Hostile {}

impl Drop for Hostile {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[tokio::test]
async fn an_error_that_holds_the_last_handle_of_a_set_may_be_dropped_when_its_task_was_aborted_meanwhile() {
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

#[tokio::test]
async fn an_error_that_panics_when_it_is_shown_or_dropped_stops_nothing() {
    // Somebody who looks at what is logged.
    let _listening = tracing::subscriber::set_default(tracing_subscriber::fmt().with_test_writer().finish());
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    set.add(async { Err::<(), _>(Hostile) });
    set.add(journal.task("second"));
    set.add(journal.task("third"));
    let report = set.drain().await;
    assert_eq!((report.failed, report.completed), (1, 2));
    drop(registry.spawn(async { Err::<(), _>(Hostile) }));
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["second", "third"]);
    assert_conserved(&registry, 4);
}

#[tokio::test]
async fn a_failure_hook_may_spawn_also_at_a_registry_that_refuses() {
    let slot: Arc<OnceLock<TaskRegistry>> = Arc::default();
    let (inner, told) = (slot.clone(), Arc::new(AtomicUsize::new(0)));
    let counter = told.clone();
    let registry = TaskRegistry::builder()
        .capacity(1)
        .on_failure(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            if let Some(registry) = inner.get() {
                registry.spawn(async {});
            }
        })
        .build()
        .unwrap();
    slot.set(registry.clone()).unwrap();
    registry.spawn(std::future::pending::<()>());
    registry.spawn(async {});
    assert_eq!(told.load(Ordering::SeqCst), 1, "of the task, not of the alert that was refused in turn");
    assert_eq!(registry.metrics().discarded, 2);
    assert_conserved(&registry, 3);
}

#[tokio::test]
async fn a_failure_hook_has_a_say_in_what_follows_and_its_time_is_nobodys() {
    let slot: Arc<Mutex<Option<(TaskRegistry, TaskId)>>> = Arc::default();
    let inner = slot.clone();
    let registry = TaskRegistry::builder()
        .on_failure(move |report| {
            if let (Outcome::Failed(_), Some((registry, next))) = (&report.outcome, inner.lock().unwrap().take()) {
                assert!(registry.abort(next));
            }
        })
        .build()
        .unwrap();
    let journal = Journal::default();
    let set = registry.set();
    set.add(async { Err::<(), _>("stop the next") });
    let next = set.add(journal.task("never"));
    set.add(journal.task("last"));
    *slot.lock().unwrap() = Some((registry.clone(), next));
    let report = set.drain().await;
    assert_eq!((report.failed, report.aborted, report.completed), (1, 1, 1));
    assert_eq!(journal.read(), ["last"]);
}

/// A subscriber that panics whenever a span is left.
struct PanicsOnExit;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for PanicsOnExit {
    fn on_exit(&self, _: &tracing::Id, _: tracing_subscriber::layer::Context<'_, S>) {
        panic!("on exit");
    }
}

#[tokio::test]
async fn a_subscriber_that_panics_costs_a_task_its_outcome_and_no_more() {
    use tracing_subscriber::layer::SubscriberExt as _;

    let registry = TaskRegistry::new();
    let set = registry.set();
    {
        let subscriber = tracing_subscriber::registry().with(PanicsOnExit);
        let _listening = tracing::subscriber::set_default(subscriber);
        set.add(async {});
    }
    set.add(async {});
    let report = set.drain().await;
    assert_eq!(report.total(), 2);
    assert_conserved(&registry, 2);
}

#[tokio::test]
async fn the_handle_says_what_was_counted_when_a_shutdown_ends_a_task_that_waits() {
    let registry = TaskRegistry::builder().max_concurrent(1).settle(Duration::ZERO).build().unwrap();
    let running = registry.spawn(std::future::pending::<()>());
    let mut waiting = registry.spawn(async {});
    let unasked = registry.spawn(async {});
    assert!(futures::poll!(&mut waiting).is_pending());
    tokio::task::yield_now().await;
    registry.shutdown(Duration::ZERO).await;
    assert!(matches!(running.await, Outcome::Aborted));
    assert!(matches!(waiting.await, Outcome::Discarded(DiscardReason::Closed)));
    assert!(matches!(unasked.await, Outcome::Discarded(DiscardReason::Closed)));
    let metrics = registry.metrics();
    assert_eq!((metrics.aborted, metrics.discarded), (1, 2));
}

#[test]
fn the_handle_says_what_was_counted_when_the_runtime_ends_under_a_task() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    let started = registry.spawn(std::future::pending::<()>());
    runtime.block_on(tokio::task::yield_now());
    let unstarted = registry.spawn(std::future::pending::<()>());
    drop(runtime);
    let refused = registry.spawn(async {});
    let other = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    other.block_on(async {
        assert!(matches!(started.await, Outcome::Aborted));
        assert!(matches!(unstarted.await, Outcome::Discarded(DiscardReason::RuntimeEnded)));
        assert!(matches!(refused.await, Outcome::Discarded(DiscardReason::RuntimeEnded)));
    });
    let metrics = registry.metrics();
    assert_eq!((metrics.aborted, metrics.discarded), (1, 2));
}

#[test]
fn a_shutdown_may_be_awaited_on_another_runtime_after_its_own_has_ended() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry =
        TaskRegistry::builder().settle(Duration::from_millis(1)).handle(runtime.handle().clone()).build().unwrap();
    let open = registry.set();
    open.add(async {});
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = other.block_on(registry.shutdown(Duration::from_millis(1)));
    assert_eq!(report.discarded.len(), 1);
    drop(open);
}

#[tokio::test]
async fn a_closure_that_waits_for_a_thread_has_not_started_and_its_limit_does_not_run() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (started, has_started) = oneshot::channel();
    registry.spawn_blocking(move || {
        started.send(()).unwrap();
        held.recv().unwrap_err();
    });
    has_started.await.unwrap();
    let waiting = registry.spawn(Task::blocking(|| {}).timeout(Duration::from_millis(1)));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let metrics = registry.metrics();
    assert_eq!((metrics.running, metrics.pending), (1, 1));
    drop(release);
    // It may be late now that it runs, but it runs.
    assert!(matches!(waiting.await, Outcome::Completed | Outcome::TimedOut(_)));
    registry.wait_idle().await;
    assert_eq!(registry.metrics().by_name()["unnamed"].discarded, 0);
    runtime.shutdown_background();
}

#[tokio::test]
async fn in_a_set_that_stops_on_failure_aborting_a_task_that_has_not_started_stops_nothing() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    let (release, held) = oneshot::channel::<()>();
    registry.spawn(async { held.await.map_err(|_| "gone") });
    tokio::task::yield_now().await;
    let set = registry.set();
    set.stop_on_failure();
    let head = set.add(async {});
    set.add(async {});
    let drained = set.drain();
    tokio::task::yield_now().await;
    assert!(registry.abort(head));
    release.send(()).unwrap();
    let report = drained.await;
    assert_eq!((report.aborted, report.completed), (1, 1));
}

#[tokio::test]
async fn an_aborted_future_may_still_ask_for_its_token_and_its_set_while_it_is_dropped() {
    struct Asks(Option<oneshot::Sender<bool>>);

    impl Drop for Asks {
        fn drop(&mut self) {
            let cancelled = postlude::cancellation().is_cancelled();
            postlude::after(async {}).unwrap();
            self.0.take().unwrap().send(cancelled).unwrap();
        }
    }

    let registry = TaskRegistry::new();
    let (sender, cancelled) = oneshot::channel();
    let set = registry.set();
    let asks = Asks(Some(sender));
    let id = set.add(async move {
        let _asks = asks;
        std::future::pending::<()>().await;
    });
    set.drain();
    tokio::task::yield_now().await;
    assert!(registry.abort(id));
    assert!(cancelled.await.unwrap());
    registry.wait_idle().await;
    assert_eq!(registry.metrics().completed, 1);
}
