//! Runtimes: other ones, ones without a timer, and their end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use postlude::{BuildError, DiscardReason, Outcome, RetryPolicy, Task, TaskRegistry, TaskSet, after};
use tokio::runtime::Builder;

use crate::support::{Reports, SECOND, assert_conserved, retries::until_retrying};

mod handle {
    use super::*;

    #[test]
    fn works_outside_a_runtime() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
        let set = registry.set();
        set.add(async { tokio::time::sleep(Duration::from_millis(1)).await });
        set.add(Task::new(std::future::pending::<()>()).timeout(Duration::from_millis(1)));
        drop(set);
        let handle = registry.spawn_blocking(|| {});
        assert!(matches!(futures::executor::block_on(handle), Outcome::Completed));
        runtime.block_on(registry.wait_idle());
        let metrics = registry.metrics();
        assert_eq!((metrics.completed, metrics.timed_out), (2, 1));
    }
}

mod timer {
    use super::*;

    #[test]
    fn missing_is_an_error_that_says_what_to_enable() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let error = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap_err();
        assert!(matches!(error, BuildError::NoTimer));
        assert!(error.to_string().contains("enable_time()"), "{error}");
    }
}

mod end {
    use super::*;

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
    fn counts_every_task() {
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
            assert_eq!(metrics.timed_out, 0, "the limits were not over");
            assert!(registry.tasks().is_empty());

            let set = registry.set();
            set.add(async {});
            drop(set);
            let handle = registry.spawn(async {});
            assert!(matches!(futures::executor::block_on(handle), Outcome::Discarded(DiscardReason::RuntimeEnded)));
            assert_conserved(&registry, added + 2);
        }
    }

    #[test]
    fn agrees_with_handle() {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
        let started = registry.spawn(std::future::pending::<()>());
        runtime.block_on(tokio::task::yield_now());
        let unstarted = registry.spawn(std::future::pending::<()>());
        drop(runtime);
        let refused = registry.spawn(async {});
        let other = Builder::new_current_thread().enable_time().build().unwrap();
        other.block_on(async {
            assert!(matches!(started.await, Outcome::Aborted));
            assert!(matches!(unstarted.await, Outcome::Discarded(DiscardReason::RuntimeEnded)));
            assert!(matches!(refused.await, Outcome::Discarded(DiscardReason::RuntimeEnded)));
        });
        let metrics = registry.metrics();
        assert_eq!((metrics.aborted, metrics.discarded), (1, 2));
    }

    #[tokio::test]
    async fn between_attempts_leaves_outcome() {
        let reports = Reports::default();
        let hook = reports.hook();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let registry = TaskRegistry::builder().on_failure(hook).build().unwrap();
                let patient =
                    || Task::retrying(RetryPolicy::constant(3600 * SECOND), || async { Err::<(), _>("once more") });
                let set = registry.set();
                let delayed = set.add(patient().delay(3600 * SECOND));
                let id = set.add(patient());
                drop(set);
                until_retrying(&registry, id).await;
                assert!(registry.tasks().iter().any(|task| task.id == delayed && task.due_in.is_some()));
                let handle = registry.spawn(patient());
                until_retrying(&registry, handle.id()).await;
                (registry, handle)
            })
        });
        let (registry, handle) = thread.join().unwrap();
        assert!(matches!(handle.await, Outcome::Aborted));
        assert!(registry.tasks().is_empty());
        let metrics = registry.metrics();
        assert_eq!((metrics.added, metrics.aborted, metrics.discarded), (3, 2, 1));
        assert_eq!(reports.read().len(), 3);
    }

    #[tokio::test]
    async fn completes_drain() {
        let thread = std::thread::spawn(|| {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let registry = TaskRegistry::new();
                let set = registry.set();
                set.add(Task::new(async {}).delay(7200 * SECOND));
                let id =
                    set.add(Task::retrying(RetryPolicy::constant(7200 * SECOND), || async { Err::<(), _>("failed") }));
                let drained = set.clone().drain();
                until_retrying(&registry, id).await;
                (set, drained)
            })
        });
        let (_set, drained) = thread.join().unwrap();
        let report = drained.await;
        assert_eq!((report.aborted, report.discarded), (1, 1));
    }
}

mod set {
    use super::*;

    #[tokio::test]
    async fn that_holds_itself_ends_with_shutdown() {
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
}
