//! Bad input, and places where nobody expects a task.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use postlude::{BuildError, DiscardReason, Outcome, RejectReason, Task, TaskRegistry, TaskSet, after};
use tokio::runtime::Builder;

use crate::support::assert_conserved;

#[tokio::test]
async fn a_limit_of_zero_or_beyond_counting_is_an_error_that_names_it() {
    let builders = [
        ("capacity", TaskRegistry::builder().capacity(0), TaskRegistry::builder().capacity(usize::MAX)),
        (
            "max_concurrent",
            TaskRegistry::builder().max_concurrent(0),
            TaskRegistry::builder().max_concurrent(usize::MAX),
        ),
        ("max_blocking", TaskRegistry::builder().max_blocking(0), TaskRegistry::builder().max_blocking(usize::MAX)),
    ];
    for (setting, zero, huge) in builders {
        let error = zero.build().unwrap_err();
        assert!(matches!(error, BuildError::ZeroLimit { name, .. } if name == setting), "{error}");
        assert!(error.to_string().contains(setting), "{error}");
        let error = huge.build().unwrap_err();
        assert!(matches!(error, BuildError::HugeLimit { name, .. } if name == setting), "{error}");
    }
    let error = TaskRegistry::builder().default_timeout(Duration::ZERO).build().unwrap_err();
    assert_eq!(error, BuildError::ZeroTimeout);
}

#[test]
fn without_a_runtime_the_builder_gives_an_error_and_new_panics_with_advice() {
    let error = TaskRegistry::builder().build().unwrap_err();
    assert_eq!(error, BuildError::NoRuntime);
    assert!(error.to_string().contains("handle"), "{error}");

    let payload = std::panic::catch_unwind(TaskRegistry::new).unwrap_err();
    assert!(payload.downcast_ref::<String>().unwrap().contains("no tokio runtime here"));
}

#[test]
fn with_a_handle_everything_but_waiting_works_outside_a_runtime() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    let set = registry.set();
    set.add(async { tokio::time::sleep(Duration::from_millis(1)).await });
    set.add(Task::new(std::future::pending::<()>()).timeout(Duration::from_millis(1)));
    drop(set);
    let handle = registry.spawn_blocking(|| {});
    assert!(matches!(futures_executor(handle), Outcome::Completed));
    runtime.block_on(registry.wait_idle());
    let metrics = registry.metrics();
    assert_eq!((metrics.completed, metrics.timed_out), (2, 1));
}

/// Waits for a future on a thread that knows no runtime.
fn futures_executor<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

#[tokio::test]
async fn a_timeout_of_zero_is_over_before_the_work_begins() {
    let registry = TaskRegistry::new();
    let polled = Arc::new(AtomicBool::new(false));
    let witness = polled.clone();
    let task = Task::new(async move { witness.store(true, Ordering::SeqCst) }).timeout(Duration::ZERO);
    assert!(matches!(registry.spawn(task).await, Outcome::TimedOut(Duration::ZERO)));
    assert!(!polled.load(Ordering::SeqCst));
}

#[test]
fn a_runtime_without_a_timer_is_an_error_that_says_what_to_enable() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let error = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap_err();
    assert!(matches!(error, BuildError::NoTimer));
    assert!(error.to_string().contains("enable_time()"), "{error}");
}

/// Adds to a set when it is dropped, and counts what it adds.
struct AddsWhenDropped(TaskSet, Arc<AtomicU64>);

impl Drop for AddsWhenDropped {
    fn drop(&mut self) {
        self.0.add(async {});
        // A set is current if the task had started.
        let added = 1 + u64::from(after(async {}).is_ok());
        self.1.fetch_add(added, Ordering::SeqCst);
    }
}

#[test]
fn a_runtime_dropped_under_a_registry_full_of_tasks_panics_nowhere_and_everything_is_counted() {
    for multi_thread in [false, true] {
        let mut builder = if multi_thread { Builder::new_multi_thread() } else { Builder::new_current_thread() };
        let runtime = builder.enable_all().build().unwrap();
        let registry = TaskRegistry::builder().max_blocking(1).handle(runtime.handle().clone()).build().unwrap();
        let late = Arc::new(AtomicU64::new(0));
        let (open, added) = runtime.block_on(async {
            for _ in 0..100 {
                registry.spawn(std::future::pending::<()>());
                registry.spawn(Task::new(std::future::pending::<()>()).timeout(Duration::from_secs(600)));
            }
            for _ in 0..50 {
                let set = registry.set();
                let reentrant = AddsWhenDropped(set.clone(), late.clone());
                set.add(async move {
                    let _reentrant = reentrant;
                    std::future::pending::<()>().await;
                });
                set.add(std::future::pending::<()>());
                set.drain();
            }
            tokio::task::yield_now().await;
            for _ in 0..50 {
                registry.spawn(std::future::pending::<()>());
                registry.spawn_blocking(|| {});
            }
            let open = registry.set();
            open.add(std::future::pending::<()>());
            (open, 100 * 2 + 50 * 2 + 50 * 2 + 1)
        });
        drop(runtime);

        let added = added + late.load(Ordering::SeqCst);
        assert_conserved(&registry, added);
        assert_eq!(registry.metrics().pending, 1, "the open set still waits for its handle");
        drop(open);
        assert_conserved(&registry, added);
        let metrics = registry.metrics();
        assert_eq!((metrics.pending, metrics.running), (0, 0), "{metrics:?}");
        assert!(registry.tasks().is_empty());

        let set = registry.set();
        set.add(async {});
        drop(set);
        let handle = registry.spawn(async {});
        assert!(matches!(futures_executor(handle), Outcome::Discarded(DiscardReason::RuntimeEnded)));
        assert_conserved(&registry, added + 2);
    }
}

#[tokio::test]
async fn a_task_in_a_set_that_holds_its_own_set_is_known_to_the_registry_and_ended_by_a_shutdown() {
    let registry = TaskRegistry::builder().settle(Duration::ZERO).build().unwrap();
    let set = registry.set();
    let own = set.clone();
    set.add(async move { drop(own) });
    drop(set);
    tokio::task::yield_now().await;
    assert_eq!((registry.metrics().open_sets, registry.tasks().len()), (1, 1));
    let report = registry.shutdown(Duration::ZERO).await;
    assert_eq!(report.discarded.len(), 1);
    assert_conserved(&registry, 1);
}

#[tokio::test]
async fn a_rejected_task_is_an_error_that_the_question_mark_passes_on() {
    async fn handler(registry: TaskRegistry) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        registry.try_spawn(async {})?;
        Ok(())
    }

    let registry = TaskRegistry::new();
    registry.shutdown(Duration::ZERO).await;
    let error = handler(registry).await.unwrap_err();
    let rejected = error.downcast_ref::<postlude::Rejected>().unwrap();
    assert_eq!(rejected.reason(), RejectReason::Closed);
}
