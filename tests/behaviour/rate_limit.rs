//! How often tasks of a name start.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use postlude::{BuildError, Outcome, Priority, RateLimit, Task, TaskRegistry, TaskState};
use tokio::time::{Instant, sleep};

use crate::support::assert_conserved;

fn registry(limit: RateLimit) -> TaskRegistry {
    TaskRegistry::builder().rate_limit("webhook", limit).build().unwrap()
}

/// Notes when tasks start, in milliseconds from its own making.
#[derive(Clone)]
struct Starts {
    begin: Instant,
    at: Arc<Mutex<Vec<u128>>>,
}

impl Starts {
    fn new() -> Self {
        Self { begin: Instant::now(), at: Arc::default() }
    }

    fn task(&self) -> Task {
        let starts = self.clone();
        Task::new(async move {
            starts.at.lock().unwrap().push(starts.begin.elapsed().as_millis());
        })
        .named("webhook")
    }

    fn read(&self) -> Vec<u128> {
        self.at.lock().unwrap().clone()
    }
}

/// Other names do not wait.
#[tokio::test(start_paused = true)]
async fn holds_for_spawned_tasks_and_sets() {
    let registry = registry(RateLimit::per_second(2));
    let starts = Starts::new();
    for _ in 0..3 {
        registry.spawn(starts.task());
    }
    let set = registry.set();
    set.add(starts.task());
    set.add(starts.task());
    drop(set);
    registry.spawn(async {}).await;
    assert_eq!(starts.begin.elapsed(), Duration::ZERO, "another name");
    registry.wait_idle().await;
    assert_eq!(starts.read(), [0, 500, 1000, 1500, 2000]);
    assert_conserved(&registry, 6);
}

#[tokio::test(start_paused = true)]
async fn burst_is_refilled_with_time() {
    let registry = registry(RateLimit::per_minute(60).burst(3));
    let starts = Starts::new();
    for _ in 0..5 {
        registry.spawn(starts.task());
    }
    registry.wait_idle().await;
    assert_eq!(starts.read(), [0, 0, 0, 1000, 2000]);
    sleep(Duration::from_secs(60)).await;
    let starts = Starts::new();
    for _ in 0..4 {
        registry.spawn(starts.task());
    }
    registry.wait_idle().await;
    assert_eq!(starts.read(), [0, 0, 0, 1000], "three places, and no more, however long nothing came");
}

/// It does not time out.
#[tokio::test(start_paused = true)]
async fn waiting_task_is_pending_without_permit() {
    let registry = TaskRegistry::builder()
        .rate_limit("webhook", RateLimit::per_hour(1))
        .limit_by_name("webhook", 1)
        .max_concurrent(1)
        .default_timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    let starts = Starts::new();
    let handles = [(); 3].map(|()| registry.spawn(starts.task()));
    sleep(Duration::from_secs(60)).await;
    let waiting = registry.tasks();
    assert_eq!(waiting.len(), 2);
    assert!(waiting.iter().all(|task| task.state == TaskState::Pending));
    let due_in = waiting.iter().map(|task| task.due_in.unwrap().as_secs());
    assert_eq!(due_in.collect::<Vec<_>>(), [3600 - 60, 7200 - 60]);
    assert!(matches!(registry.spawn(async {}).await, Outcome::Completed), "the one permit is free");
    for handle in handles {
        assert!(matches!(handle.await, Outcome::Completed));
    }
    assert_eq!(starts.read(), [0, 3_600_000, 7_200_000]);
}

/// An aborted task uses up no place.
#[tokio::test(start_paused = true)]
async fn follows_priority() {
    let registry = registry(RateLimit::per_second(1));
    let starts = Starts::new();
    registry.spawn(starts.task()).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut handles = Vec::new();
    for (name, priority) in
        [("head", Priority::Low), ("low", Priority::Low), ("gone", Priority::High), ("high", Priority::High)]
    {
        let order = order.clone();
        let task = Task::new(async move { order.lock().unwrap().push(name) });
        handles.push(registry.spawn(task.named("webhook").priority(priority)));
        tokio::task::yield_now().await;
    }
    assert!(handles[0].abort(), "the one that watches the clock");
    assert!(handles[2].abort());
    registry.wait_idle().await;
    assert_eq!(*order.lock().unwrap(), ["high", "low"]);
    assert_eq!(starts.begin.elapsed(), Duration::from_secs(2));
    assert_conserved(&registry, 5);
}

#[tokio::test(start_paused = true)]
async fn beyond_resolution_of_timer() {
    let registry = registry(RateLimit::per_second(10_000));
    let starts = Starts::new();
    for _ in 0..5_000 {
        registry.spawn(starts.task());
    }
    registry.wait_idle().await;
    let took = starts.begin.elapsed().as_millis();
    assert!((480..=500).contains(&took), "{took} ms");
}

#[tokio::test]
async fn rejects_zero_and_duplicates() {
    for zero in [RateLimit::per_second(0), RateLimit::per_minute(10).burst(0)] {
        let error = TaskRegistry::builder().rate_limit("webhook", zero).build().unwrap_err();
        assert!(
            matches!(error, BuildError::ZeroLimitOfName { setting: "rate_limit", name, .. } if name == "webhook"),
            "{error}"
        );
    }
    let once = RateLimit::per_second(1);
    let error = TaskRegistry::builder().rate_limit("webhook", once).rate_limit("webhook", once).build().unwrap_err();
    assert!(
        matches!(error, BuildError::TwoLimitsOfName { setting: "rate_limit", name, .. } if name == "webhook"),
        "{error}"
    );
    let huge = TaskRegistry::builder().rate_limit("webhook", RateLimit::per_hour(1).burst(u32::MAX)).build();
    let error = huge.unwrap_err();
    assert!(matches!(error, BuildError::HugeBurst { burst: u32::MAX, .. }), "{error}");
    for odd in [RateLimit::per_second(u32::MAX), RateLimit::per_hour(u32::MAX)] {
        let registry = registry(odd);
        assert!(matches!(registry.spawn(Task::new(async {}).named("webhook")).await, Outcome::Completed), "{odd:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn holds_after_wait_for_permits() {
    let limit = RateLimit::per_second(1);
    for (blocker, name) in [("other", "unnamed"), ("own", "webhook")] {
        let builder =
            TaskRegistry::builder().max_concurrent(1).limit_by_name("webhook", 1).rate_limit("webhook", limit);
        let (registry, starts) = (builder.build().unwrap(), Starts::new());
        registry.spawn(Task::new(sleep(Duration::from_secs(60))).named(name));
        tokio::task::yield_now().await;
        for _ in 0..5 {
            registry.spawn(starts.task());
        }
        registry.wait_idle().await;
        assert_eq!(starts.read(), [60_000, 61_000, 62_000, 63_000, 64_000], "{blocker}");
        assert_conserved(&registry, 6);
    }
}

#[tokio::test(start_paused = true)]
async fn wait_counts_as_oldest_pending() {
    let registry = registry(RateLimit::per_hour(1));
    for _ in 0..100 {
        registry.spawn(Task::new(async {}).named("webhook"));
    }
    sleep(Duration::from_secs(5 * 3600)).await;
    assert_eq!(registry.metrics().oldest_pending, Duration::from_secs(5 * 3600));
}

#[tokio::test(start_paused = true)]
async fn is_not_used_by_task_aborted_before_first_poll() {
    let registry = registry(RateLimit::per_hour(1).burst(1));
    let first = registry.spawn(Task::new(async {}).named("webhook"));
    assert!(first.abort());
    assert!(matches!(first.await, Outcome::Aborted));
    let begin = Instant::now();
    assert!(matches!(registry.spawn(Task::new(async {}).named("webhook")).await, Outcome::Completed));
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_conserved(&registry, 2);
}
