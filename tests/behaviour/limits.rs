//! Limits, at one and at many, and beyond them.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postlude::{BuildError, DiscardReason, Outcome, RejectReason, Task, TaskRegistry, after};
use tokio::sync::oneshot;

use crate::support::{Journal, SECOND, assert_conserved, until};

/// Counts how many of its tasks run at a time.
#[derive(Clone, Default)]
struct Gauge {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gauge {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    async fn nap(self) {
        self.enter();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.leave();
    }
}

/// Something that threads wait for, and the call that lets all of them pass.
fn thread_gate() -> (impl FnOnce(), Arc<dyn Fn() + Send + Sync>) {
    let gate = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
    let opener = Arc::clone(&gate);
    let open = move || {
        *opener.0.lock().unwrap() = true;
        opener.1.notify_all();
    };
    let wait = move || {
        let open = gate.0.lock().unwrap();
        let _open = gate.1.wait_while(open, |open| !*open).unwrap();
    };
    (open, Arc::new(wait))
}

mod max_concurrent {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn holds_for_spawned_tasks_and_sets() {
        for limit in [1, 3, 1000] {
            let registry = TaskRegistry::builder().max_concurrent(limit).build().unwrap();
            let gauge = Gauge::default();
            for _ in 0..5 {
                registry.spawn(gauge.clone().nap());
                let set = registry.set();
                set.add(gauge.clone().nap());
                set.add(gauge.clone().nap());
            }
            registry.wait_idle().await;
            // At most one task of each of the five sets, and the five spawned ones.
            assert_eq!(gauge.most(), limit.min(10));
            assert_conserved(&registry, 15);
        }
    }

    /// An aborted task leaves the queue.
    #[tokio::test]
    async fn is_first_in_first_out() {
        let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
        let journal = Journal::default();
        let (release, held) = oneshot::channel::<()>();
        registry.spawn(async { held.await.map_err(|_| "gone") });
        let waiting: Vec<_> = ["1", "2", "3", "4"].map(|name| registry.spawn(journal.task(name))).into();
        tokio::task::yield_now().await;
        assert!(waiting[1].abort());
        release.send(()).unwrap();
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["1", "3", "4"]);
    }

    /// Also if the runtime polls the spawned tasks in another order.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn keeps_order_of_spawns() {
        for name in ["unnamed", "mail"] {
            let limits = TaskRegistry::builder().limit_by_name("mail", 1).max_concurrent(1);
            let (registry, order) = (limits.build().unwrap(), Arc::new(Mutex::new(Vec::new())));
            let (spawner, note) = (registry.clone(), order.clone());
            let spawning = tokio::spawn(async move {
                for number in 0..5 {
                    let note = note.clone();
                    spawner.spawn(Task::new(async move { note.lock().unwrap().push(number) }).named(name));
                }
            });
            spawning.await.unwrap();
            registry.wait_idle().await;
            assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4], "{name}");
            assert_conserved(&registry, 5);
        }
    }

    #[tokio::test]
    async fn of_one_does_not_deadlock_on_nested_adds() {
        let registry = TaskRegistry::builder().max_concurrent(1).max_blocking(1).build().unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        let (counter, inner) = (ran.clone(), registry.clone());
        let set = registry.set();
        set.add(async move {
            for _ in 0..10 {
                let counter = counter.clone();
                after(async move {
                    counter.fetch_add(1, Ordering::SeqCst);
                })
                .unwrap();
            }
            for _ in 0..10 {
                let counter = counter.clone();
                inner.spawn(async move {
                    counter.fetch_add(1, Ordering::SeqCst);
                });
            }
            let (counter, nested) = (counter.clone(), inner.clone());
            inner.spawn_blocking(move || {
                let counter = counter.clone();
                nested.spawn_blocking(move || {
                    counter.fetch_add(1, Ordering::SeqCst);
                });
            });
        });
        set.drain().await;
        registry.wait_idle().await;
        assert_eq!(ran.load(Ordering::SeqCst), 21);
        assert_conserved(&registry, 23);
    }
}

mod max_blocking {
    use super::*;

    #[tokio::test]
    async fn holds_and_lets_async_tasks_pass() {
        for limit in [1, 4] {
            let registry = TaskRegistry::builder().max_blocking(limit).build().unwrap();
            let gauge = Gauge::default();
            let (release, held) = thread_gate();
            for _ in 0..8 {
                let (gauge, held) = (gauge.clone(), held.clone());
                registry.spawn_blocking(move || {
                    gauge.enter();
                    held();
                    gauge.leave();
                });
            }
            assert!(matches!(registry.spawn(async {}).await, Outcome::Completed), "not behind the blocking ones");
            until(|| gauge.now.load(Ordering::SeqCst) >= limit).await;
            assert_eq!(registry.metrics().pending, 8 - limit as u64);
            release();
            registry.wait_idle().await;
            assert_eq!(gauge.most(), limit);
            assert_conserved(&registry, 9);
        }
    }

    #[tokio::test]
    async fn permit_is_held_by_abandoned_closure() {
        let registry = TaskRegistry::builder().max_blocking(1).build().unwrap();
        let (release, held) = thread_gate();
        let first = registry.spawn(Task::blocking(move || held()).timeout(Duration::from_millis(1)));
        assert!(matches!(first.await, Outcome::TimedOut(_)));
        let second = registry.spawn_blocking(|| {});
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!((registry.metrics().pending, registry.metrics().stuck), (1, 1));
        release();
        assert!(matches!(second.await, Outcome::Completed));
    }
}

mod capacity {
    use super::*;

    #[tokio::test]
    async fn try_add_and_try_spawn_return_excess() {
        for capacity in [1, 10] {
            let registry = TaskRegistry::builder().capacity(capacity).build().unwrap();
            let set = registry.set();
            for _ in 0..capacity {
                set.add(pending::<()>());
            }
            let rejected = set.try_add(Task::new(async {}).named("kept")).unwrap_err();
            assert_eq!(rejected.reason(), RejectReason::Capacity);
            assert!(rejected.to_string().contains("capacity"), "{rejected}");
            assert_eq!(registry.try_spawn(rejected.into_task()).unwrap_err().reason(), RejectReason::Capacity);
            assert_conserved(&registry, capacity as u64);

            set.add(async {});
            let handle = registry.spawn(async {});
            assert!(handle.is_finished());
            assert!(matches!(handle.await, Outcome::Discarded(DiscardReason::Capacity)));
            assert_eq!(registry.metrics().discarded, 2);
            assert_conserved(&registry, capacity as u64 + 2);

            assert_eq!(set.clear(), capacity);
            assert!(matches!(registry.spawn(async {}).await, Outcome::Completed), "there is room again");
            assert_conserved(&registry, capacity as u64 + 3);
        }
    }

    #[tokio::test]
    async fn is_not_used_by_rejected_tasks() {
        let registry = TaskRegistry::builder().capacity(2).build().unwrap();
        for _ in 0..100 {
            let handles: Vec<_> = (0..5).map(|_| registry.spawn(async {})).collect();
            for handle in handles {
                handle.await;
            }
        }
        let metrics = registry.metrics();
        assert_eq!((metrics.completed, metrics.discarded), (200, 300));
    }
}

mod limit_by_name {
    use super::*;

    /// A task that waits for its name's limit holds no other permit.
    #[tokio::test(start_paused = true)]
    async fn holds_without_other_permits() {
        let registry = TaskRegistry::builder().limit_by_name("thumbnail", 2).max_concurrent(3).build().unwrap();
        let gauge = Gauge::default();
        for _ in 0..3 {
            registry.spawn(Task::new(gauge.clone().nap()).named("thumbnail"));
            let set = registry.set();
            set.add(Task::new(gauge.clone().nap()).named("thumbnail"));
        }
        tokio::task::yield_now().await;
        let others = tokio::time::Instant::now();
        for _ in 0..3 {
            registry.spawn(async {}).await;
        }
        assert_eq!(others.elapsed(), Duration::ZERO, "the third permit is free");
        registry.wait_idle().await;
        assert_eq!((gauge.most(), others.elapsed()), (2, Duration::from_secs(3)));
        assert_conserved(&registry, 9);
    }

    #[tokio::test]
    async fn holds_for_blocking_tasks_until_they_return() {
        let registry = TaskRegistry::builder().limit_by_name("scan", 1).build().unwrap();
        let (release, held) = thread_gate();
        let scan = Task::blocking(move || held()).named("scan").timeout(Duration::from_millis(1));
        assert!(matches!(registry.spawn(scan).await, Outcome::TimedOut(_)));
        let next = registry.spawn(Task::new(async {}).named("scan"));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!((registry.metrics().pending, registry.metrics().stuck), (1, 1));
        release();
        assert!(matches!(next.await, Outcome::Completed));
    }

    #[tokio::test(start_paused = true)]
    async fn permit_returns_after_any_outcome() {
        let registry = TaskRegistry::builder().limit_by_name("frail", 1).build().unwrap();
        let hang = || Task::new(pending::<()>()).named("frail");
        for _ in 0..3 {
            registry.spawn(Task::new(async { Err::<(), _>("failed") }).named("frail"));
            registry.spawn(Task::new(async { panic!("panicked") }).named("frail"));
            registry.spawn(hang().timeout(Duration::from_secs(1)));
            let running = registry.spawn(hang());
            let waiting = registry.spawn(hang());
            assert!(waiting.abort());
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(running.abort());
            let last = registry.spawn(Task::new(async {}).named("frail"));
            assert!(matches!(last.await, Outcome::Completed));
        }
        assert_conserved(&registry, 18);
    }

    #[tokio::test]
    async fn rejects_zero_and_duplicates() {
        let error = TaskRegistry::builder().limit_by_name("scan", 0).build().unwrap_err();
        assert!(
            matches!(error, BuildError::ZeroLimitOfName { setting: "limit_by_name", name, .. } if name == "scan"),
            "{error}"
        );
        assert!(error.to_string().contains("`scan`"), "{error}");
        let error = TaskRegistry::builder()
            .limit_by_name("scan", 1)
            .limit_by_name("mail", 1)
            .limit_by_name("scan", 2)
            .build()
            .unwrap_err();
        assert!(
            matches!(error, BuildError::TwoLimitsOfName { setting: "limit_by_name", name, .. } if name == "scan"),
            "{error}"
        );
        let error = TaskRegistry::builder().limit_by_name("", 1).limit_by_name("unnamed", 1).build().unwrap_err();
        assert!(
            matches!(error, BuildError::TwoLimitsOfName { name, .. } if name == "unnamed"),
            "no name is that name: {error}"
        );
        let error = TaskRegistry::builder().limit_by_name("scan", usize::MAX).build().unwrap_err();
        assert!(matches!(error, BuildError::HugeLimitOfName { limit: usize::MAX, .. }), "{error}");
    }
}

mod may_start {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_the_least_of_the_limits() {
        let builder = TaskRegistry::builder().max_concurrent(3).limit_by_name("mail", 2).capacity(4);
        let registry = builder.build().unwrap();
        assert_eq!((registry.may_start("mail"), registry.may_start("report")), (2, 3));
        registry.spawn(Task::new(pending::<()>()).named("mail"));
        registry.spawn(Task::new(pending::<()>()).named("mail"));
        assert_eq!(registry.may_start("mail"), 0);
        until(|| registry.may_start("report") == 1).await;
        registry.spawn(Task::blocking(|| ()).named("takes a slot")).await;
        registry.spawn(Task::new(pending::<()>()).delay(SECOND));
        registry.spawn(Task::new(pending::<()>()).delay(SECOND));
        assert_eq!(registry.may_start("report"), 0, "no slot is free");
    }

    #[tokio::test(start_paused = true)]
    async fn is_unlimited_without_limits_and_zero_when_closed() {
        let registry = TaskRegistry::new();
        assert_eq!(registry.may_start("mail"), usize::MAX);
        registry.shutdown(SECOND).await;
        assert_eq!(registry.may_start("mail"), 0);
    }

    #[cfg(feature = "rate-limit")]
    #[tokio::test(start_paused = true)]
    async fn is_one_at_a_rate_that_allows_a_start() {
        let rate = postlude::RateLimit::per_second(1);
        let registry = TaskRegistry::builder().rate_limit("mail", rate).build().unwrap();
        assert_eq!(registry.may_start("mail"), 1);
        registry.spawn(Task::new(async {}).named("mail")).await;
        registry.spawn(Task::new(async {}).named("mail"));
        tokio::task::yield_now().await;
        assert_eq!(registry.may_start("mail"), 0, "one waits for the rate");
    }
}
