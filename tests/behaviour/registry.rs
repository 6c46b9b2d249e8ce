//! A registry as a whole: building it, its metrics, and when it is idle.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use futures::FutureExt;
use postlude::{BuildError, Task, TaskInfo, TaskObserver, TaskRegistry, TaskReport};
use tokio::sync::oneshot;

use crate::support::assert_conserved;

mod build {
    use super::*;

    #[tokio::test]
    async fn rejects_zero_and_huge_limits() {
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

    /// `TaskRegistry::new` panics with the same advice.
    #[test]
    fn without_runtime_fails() {
        let error = TaskRegistry::builder().build().unwrap_err();
        assert_eq!(error, BuildError::NoRuntime);
        assert!(error.to_string().contains("handle"), "{error}");

        let payload = std::panic::catch_unwind(TaskRegistry::new).unwrap_err();
        assert!(payload.downcast_ref::<String>().unwrap().contains("no tokio runtime here"));
    }
}

mod wait_idle {
    use super::*;

    #[tokio::test]
    async fn waits_for_add_after_clear() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        set.add(async {});
        let drained = set.clone().drain();
        assert_eq!(set.clear(), 1);
        let (open, opened) = oneshot::channel::<()>();
        set.add(async { opened.await.unwrap() });
        set.add(async {});
        assert!(registry.wait_idle().now_or_never().is_none(), "two tasks are pending");
        assert_eq!(registry.metrics().pending, 2);
        open.send(()).unwrap();
        registry.wait_idle().await;
        drained.await;
        assert_conserved(&registry, 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn waits_for_observers() {
        let (release, released) = mpsc::channel::<()>();
        let (entered, entering) = mpsc::channel();
        let released = Mutex::new(released);
        let slow = move |_: &TaskReport| {
            entered.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
        };
        let registry = TaskRegistry::builder().observe(slow).build().unwrap();
        registry.spawn(async {});
        tokio::task::spawn_blocking(move || entering.recv().unwrap()).await.unwrap();
        assert_eq!(registry.metrics().completed, 1, "counted");
        let mut idle = std::pin::pin!(registry.wait_idle());
        assert!(futures::poll!(&mut idle).is_pending(), "and the observer is at work");
        release.send(()).unwrap();
        idle.await;
    }
}

mod metrics {
    use super::*;

    /// Counts what it sees.
    #[derive(Default)]
    struct Counting {
        added: AtomicU64,
        started: AtomicU64,
        finished: AtomicU64,
    }

    impl TaskObserver for Counting {
        fn added(&self, _: &TaskInfo) {
            self.added.fetch_add(1, Ordering::Relaxed);
        }

        fn started(&self, _: &TaskInfo) {
            self.started.fetch_add(1, Ordering::Relaxed);
        }

        fn finished(&self, _: &TaskReport) {
            self.finished.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn count_time_of_attempts_without_wait() {
        let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
        for seconds in [1, 3] {
            let nap = async move { tokio::time::sleep(Duration::from_secs(seconds)).await };
            registry.spawn(Task::new(nap).named("nap"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let metrics = registry.metrics();
        assert_eq!((metrics.running, metrics.pending), (1, 1));
        assert_eq!(metrics.oldest_pending, Duration::from_millis(500));
        registry.wait_idle().await;
        let metrics = registry.metrics();
        // The timer's granularity is a millisecond.
        let near = |duration: Duration, seconds: u64| duration.abs_diff(Duration::from_secs(seconds)).as_millis() < 5;
        assert!(near(metrics.total_time, 4), "{:?}", metrics.total_time);
        assert!(near(metrics.average_duration(), 2));
        assert_eq!(metrics.oldest_pending, Duration::ZERO);
        for (q, seconds) in [(0.0, 1.0), (0.5, 1.0), (1.0, 3.0), (7.0, 3.0)] {
            let quantile = metrics.quantile(q).as_secs_f64();
            assert!((seconds..seconds * 1.07).contains(&quantile), "{q}: {quantile}");
            assert_eq!(metrics.by_name()["nap"].quantile(q), metrics.quantile(q));
        }
        assert_eq!(metrics.failure_rate(), 0.0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn agree_with_observers() {
        let counting = Arc::new(Counting::default());
        let registry = TaskRegistry::builder().max_concurrent(3).observe(counting.clone()).build().unwrap();
        let adders: Vec<_> = (0..4)
            .map(|adder| {
                let registry = registry.clone();
                tokio::spawn(async move {
                    for i in 0..200 {
                        let set = registry.set();
                        set.add(async {});
                        let id = set.add(async { Err::<(), _>("no") });
                        let handle = registry.spawn(tokio::task::yield_now());
                        match (i + adder) % 4 {
                            0 => drop(registry.abort(id)),
                            1 => drop(handle.abort()),
                            2 => drop(set.clear()),
                            _ => {}
                        }
                    }
                })
            })
            .collect();
        for adder in adders {
            adder.await.unwrap();
        }
        registry.wait_idle().await;
        assert_conserved(&registry, 2400);
        let metrics = registry.metrics();
        assert_eq!(counting.added.load(Ordering::Relaxed), 2400);
        assert_eq!(counting.finished.load(Ordering::Relaxed), 2400, "all observed before it is idle: {metrics:?}");
        let started = counting.started.load(Ordering::Relaxed);
        assert!(started >= metrics.completed + metrics.failed, "{started}: {metrics:?}");
        assert!(started <= 2400 - metrics.discarded, "{started}: {metrics:?}");
    }
}

/// A handler that panics under `catch_unwind` may hold them.
#[test]
fn is_unwind_safe() {
    fn check<T: std::panic::UnwindSafe + std::panic::RefUnwindSafe>() {}
    check::<TaskRegistry>();
    check::<postlude::TaskSet>();
    check::<postlude::DeadLetters>();
}
