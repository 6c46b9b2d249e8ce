//! Limits at one and at many, and what happens beyond them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postlude::{BuildError, DiscardReason, Outcome, RejectReason, Task, TaskRegistry, after};
use tokio::sync::oneshot;

use crate::support::{Journal, assert_conserved};

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

#[tokio::test(start_paused = true)]
async fn no_more_async_tasks_run_than_the_limit_allows_spawned_or_in_sets() {
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

#[tokio::test]
async fn no_more_blocking_tasks_run_than_the_limit_allows_and_async_tasks_pass_them() {
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
        while gauge.now.load(Ordering::SeqCst) < limit {
            tokio::task::yield_now().await;
        }
        assert_eq!(registry.metrics().pending, 8 - limit as u64);
        release();
        registry.wait_idle().await;
        assert_eq!(gauge.most(), limit);
        assert_conserved(&registry, 9);
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

#[tokio::test]
async fn the_permit_of_a_closure_that_was_given_up_is_held_until_it_returns() {
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

#[tokio::test(start_paused = true)]
async fn waiting_for_a_turn_does_not_count_towards_a_timeout() {
    let registry = TaskRegistry::builder().max_concurrent(1).default_timeout(Duration::from_secs(3)).build().unwrap();
    let handles: Vec<_> =
        (0..5).map(|_| registry.spawn(async { tokio::time::sleep(Duration::from_secs(2)).await })).collect();
    for handle in handles {
        assert!(matches!(handle.await, Outcome::Completed));
    }
}

#[tokio::test]
async fn waiting_tasks_start_first_in_first_out_and_an_aborted_one_leaves_the_queue() {
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

#[tokio::test]
async fn what_exceeds_the_capacity_is_handed_back_or_discarded() {
    for capacity in [1, 10] {
        let registry = TaskRegistry::builder().capacity(capacity).build().unwrap();
        let set = registry.set();
        for _ in 0..capacity {
            set.add(std::future::pending::<()>());
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
async fn a_refused_task_takes_no_place_for_good() {
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

#[tokio::test]
async fn a_task_at_the_limit_that_adds_tasks_does_not_deadlock() {
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

#[tokio::test(start_paused = true)]
async fn the_default_timeout_bounds_tasks_that_have_none_of_their_own() {
    let registry = TaskRegistry::builder().default_timeout(Duration::from_secs(2)).build().unwrap();
    let sleep = |seconds| async move { tokio::time::sleep(Duration::from_secs(seconds)).await };
    let unbounded = registry.spawn(sleep(3));
    let bounded = registry.spawn(Task::new(sleep(3)).timeout(Duration::from_secs(4)));
    let limitless = registry.spawn(Task::new(sleep(300)).timeout(Duration::MAX));
    assert!(matches!(unbounded.await, Outcome::TimedOut(limit) if limit == Duration::from_secs(2)));
    assert!(matches!(bounded.await, Outcome::Completed));
    assert!(matches!(limitless.await, Outcome::Completed));
}

#[tokio::test(start_paused = true)]
async fn no_more_tasks_of_a_name_run_than_its_limit_allows_and_those_that_wait_hold_no_permit() {
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
async fn the_limit_of_a_name_holds_for_its_blocking_tasks_too_until_they_return() {
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
async fn the_permit_of_a_name_comes_back_however_its_task_ends() {
    let registry = TaskRegistry::builder().limit_by_name("frail", 1).build().unwrap();
    let hang = || Task::new(std::future::pending::<()>()).named("frail");
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
async fn a_limit_of_zero_and_two_limits_for_a_name_are_errors_that_name_it() {
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
    assert!(TaskRegistry::builder().limit_by_name("scan", usize::MAX).build().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_one_task_spawns_starts_in_that_order_also_where_the_runtime_polls_it_in_another() {
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
