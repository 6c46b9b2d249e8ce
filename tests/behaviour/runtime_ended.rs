//! A registry whose runtime has ended accepts nothing, and says why.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use postlude::{
    BatchPolicy, DiscardReason, Outcome, RejectReason, ReplayError, RetryPolicy, Task, TaskRegistry, TaskStatus,
};
use tokio::{
    runtime::{Builder, Runtime},
    task::yield_now,
};

use crate::support::{Reports, assert_conserved, until};

fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().unwrap(),
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
    ]
}

fn registry_on(runtime: &Runtime) -> TaskRegistry {
    TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap()
}

/// For what is awaited after the end of the registry's runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn it_is_closed_from_then_on() {
    for runtime in runtimes() {
        let registry = registry_on(&runtime);
        let token = registry.cancellation_token();
        runtime.block_on(yield_now());
        assert!(!registry.is_closed());
        drop(runtime);
        assert!(registry.is_closed() && token.is_cancelled());
        assert!(!registry.is_shutting_down());
    }
}

#[test]
fn a_registry_that_was_never_used_and_one_that_is_built_too_late_are_closed_too() {
    for runtime in runtimes() {
        let (unused, handle) = (registry_on(&runtime), runtime.handle().clone());
        drop(runtime);
        let late = TaskRegistry::builder().handle(handle).build().unwrap();
        assert!(unused.is_closed() && late.is_closed());
        assert_eq!(late.try_spawn(async {}).unwrap_err().reason(), RejectReason::RuntimeEnded);
    }
}

#[test]
fn try_spawn_and_try_add_hand_the_task_back() {
    for runtime in runtimes() {
        let registry = registry_on(&runtime);
        let set = registry.set();
        drop(runtime);
        let rejected = registry.try_spawn(Task::new(async {}).named("mail")).unwrap_err();
        assert_eq!((rejected.reason(), rejected.into_task().name().as_str()), (RejectReason::RuntimeEnded, "mail"));
        let rejected = set.try_add(Task::new(async {}).named("mail")).unwrap_err();
        assert_eq!((rejected.reason(), rejected.into_task().name().as_str()), (RejectReason::RuntimeEnded, "mail"));
        assert_conserved(&registry, 0);
    }
}

#[test]
fn spawn_and_add_discard_the_task_and_list_nothing() {
    for runtime in runtimes() {
        let reports = Reports::default();
        let builder = TaskRegistry::builder().handle(runtime.handle().clone()).on_failure(reports.hook());
        let registry = builder.build().unwrap();
        let set = registry.set();
        drop(runtime);
        let outcome = block_on(registry.spawn(async {}));
        assert!(matches!(outcome, Outcome::Discarded(DiscardReason::RuntimeEnded)), "{outcome}");
        for _ in 0..100 {
            set.add(async {});
            registry.spawn(async {});
            registry.spawn(Task::blocking(|| {}).timeout(Duration::from_secs(1)));
        }
        assert_eq!(block_on(set.drain()).discarded, 100);
        assert!(registry.tasks().is_empty());
        assert_conserved(&registry, 301);
        assert_eq!(registry.metrics().stuck, 0);
        let reports = reports.read();
        assert_eq!(reports.len(), 301);
        assert!(reports.iter().all(|report| report.outcome.is_loss()), "{reports:?}");
    }
}

#[test]
fn what_had_not_started_is_discarded_and_what_had_is_aborted() {
    // On one thread: another worker may run a task that gets the permit of one that is dropped.
    let [runtime, _] = runtimes();
    let builder = TaskRegistry::builder().handle(runtime.handle().clone()).max_concurrent(1);
    let registry = builder.build().unwrap();
    let limit = Duration::from_secs(600);
    let started = registry.spawn(Task::new(pending::<()>()).timeout(limit)).id();
    runtime.block_on(async {
        while registry.metrics().running == 0 {
            yield_now().await;
        }
    });
    let waiting = registry.spawn(async {}).id();
    let delayed = registry.spawn(Task::new(async {}).delay(limit)).id();
    let set = registry.set();
    let behind = [set.add(async {}), set.add(async {})];
    set.drain();
    let open = registry.set();
    let in_open_set = open.add(async {});
    drop(runtime);
    drop(open);
    let outcome = |id| match registry.get(id) {
        Some(TaskStatus::Ended(report)) => report.outcome,
        other => panic!("{other:?}"),
    };
    // Its time limit was not over.
    assert!(matches!(outcome(started), Outcome::Aborted), "{}", outcome(started));
    for id in [waiting, delayed, behind[0], behind[1], in_open_set] {
        assert!(matches!(outcome(id), Outcome::Discarded(DiscardReason::RuntimeEnded)), "{}", outcome(id));
    }
    assert_conserved(&registry, 6);
    assert_eq!(registry.metrics().stuck, 0);
}

#[test]
fn a_closure_that_got_no_thread_is_discarded() {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap();
    let registry = registry_on(&runtime);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let running = registry.spawn_blocking(move || _ = held.recv()).id();
    while registry.metrics().running == 0 {
        std::thread::yield_now();
    }
    let waiting = registry.spawn(Task::blocking(|| {})).id();
    // The only worker runs this after the task above, which then waits for a thread.
    runtime.block_on(runtime.spawn(async {})).unwrap();
    runtime.shutdown_background();
    while registry.metrics().pending > 0 || registry.metrics().running > 0 {
        std::thread::yield_now();
    }
    let label = |id| match registry.get(id) {
        Some(TaskStatus::Ended(report)) => report.outcome.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(label(running), "aborted");
    assert_eq!(label(waiting), "discarded: the registry's runtime has ended");
    assert_eq!(registry.metrics().stuck, 1);
    drop(release);
}

#[test]
fn a_closure_that_asks_for_a_thread_when_there_are_none_any_more_is_discarded() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registry = registry_on(&runtime);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (spawned, id) = std::sync::mpsc::channel();
    let own = registry.clone();
    runtime.spawn(async move {
        spawned.send(own.spawn(Task::blocking(|| {})).id()).unwrap();
        // The worker goes on with the task above when the runtime has given up its other threads.
        _ = held.recv();
    });
    let id = id.recv().unwrap();
    runtime.shutdown_background();
    drop(release);
    while registry.metrics().pending > 0 {
        std::thread::yield_now();
    }
    let Some(TaskStatus::Ended(report)) = registry.get(id) else { panic!("it has ended") };
    assert!(matches!(report.outcome, Outcome::Discarded(DiscardReason::RuntimeEnded)), "{}", report.outcome);
    assert_eq!(registry.metrics().stuck, 0);
}

#[test]
fn push_hands_the_item_back_and_no_push_waits_for_room() {
    for runtime in runtimes() {
        let registry = registry_on(&runtime);
        let policy = BatchPolicy::default().max_items(10).capacity(2);
        let batcher = registry.batcher("clicks", policy, |_: Vec<u32>| pending::<()>());
        runtime.block_on(async {
            batcher.push(1).await.unwrap();
            batcher.push(2).await.unwrap();
        });
        assert_eq!(batcher.try_push(3).unwrap_err().reason(), RejectReason::BatcherFull);
        let waiting = batcher.clone();
        let waiting = std::thread::spawn(move || block_on(waiting.push(3)).unwrap_err());
        drop(runtime);
        let waiting = waiting.join().unwrap();
        assert_eq!((waiting.reason(), waiting.into_item()), (RejectReason::RuntimeEnded, 3));
        let rejected = batcher.try_push(4).unwrap_err();
        assert_eq!((rejected.reason(), rejected.into_item()), (RejectReason::RuntimeEnded, 4));
        let rejected = block_on(batcher.push(5)).unwrap_err();
        assert_eq!((rejected.reason(), rejected.into_item()), (RejectReason::RuntimeEnded, 5));
    }
}

#[test]
fn the_items_of_a_batch_that_waits_are_dropped() {
    for runtime in runtimes() {
        let registry = registry_on(&runtime);
        let batcher = registry.batcher("clicks", BatchPolicy::default(), |_: Vec<Arc<()>>| async {});
        let item = Arc::new(());
        runtime.block_on(batcher.push(item.clone())).unwrap();
        drop(runtime);
        assert_eq!(Arc::strong_count(&item), 1);
        assert_conserved(&registry, 1);
    }
}

#[test]
fn replay_leaves_the_letter_where_it_is() {
    for runtime in runtimes() {
        let registry = registry_on(&runtime);
        let task = Task::retrying(RetryPolicy::default().attempts(1), || async { Err::<(), _>("down") });
        let id = registry.spawn(task).id();
        runtime.block_on(registry.wait_idle());
        drop(runtime);
        let letters = registry.dead_letters();
        for _ in 0..2 {
            let error = letters.replay(id).unwrap_err();
            assert!(matches!(error, ReplayError::Rejected { reason: RejectReason::RuntimeEnded, .. }), "{error}");
        }
        assert!(letters.replay_all().is_empty());
        assert!(letters.find(id).unwrap().is_replayable);
    }
}

#[test]
fn a_shutdown_of_it_returns_at_once_and_the_reason_stays() {
    for runtime in runtimes() {
        let registry = registry_on(&runtime);
        let open = registry.set();
        open.add(async {});
        drop(runtime);
        let (returned, report) = std::sync::mpsc::channel();
        let own = registry.clone();
        // On a thread of its own: it might never yield.
        std::thread::spawn(move || returned.send(block_on(own.shutdown(Duration::from_secs(3600)))));
        let report = report.recv_timeout(Duration::from_secs(30)).expect("it returns at once");
        assert_eq!(report.discarded.len(), 1, "the set was still open: {report}");
        assert_eq!(registry.try_spawn(async {}).unwrap_err().reason(), RejectReason::RuntimeEnded);
        assert_conserved(&registry, 1);
    }
}

#[test]
fn the_end_of_the_runtime_after_a_shutdown_changes_the_reason() {
    for runtime in runtimes() {
        let registry = registry_on(&runtime);
        runtime.block_on(registry.shutdown(Duration::ZERO));
        assert_eq!(registry.try_spawn(async {}).unwrap_err().reason(), RejectReason::Closed);
        drop(runtime);
        assert_eq!(registry.try_spawn(async {}).unwrap_err().reason(), RejectReason::RuntimeEnded);
    }
}

#[test]
fn what_watches_the_runtime_keeps_no_registry_alive() {
    struct Dropped(Arc<AtomicBool>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    for runtime in runtimes() {
        let is_dropped = Arc::new(AtomicBool::new(false));
        let held = Dropped(is_dropped.clone());
        let builder = TaskRegistry::builder().handle(runtime.handle().clone());
        let registry = builder.on_failure(move |_| _ = &held).build().unwrap();
        runtime.block_on(registry.spawn(async {}));
        let metrics = runtime.metrics();
        // The driver of its timer.
        runtime.block_on(until(|| metrics.num_alive_tasks() == 1));
        drop(registry);
        assert!(is_dropped.load(Ordering::SeqCst));
        runtime.block_on(until(|| metrics.num_alive_tasks() == 0));
    }
}
