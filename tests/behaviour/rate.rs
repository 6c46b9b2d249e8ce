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

#[tokio::test(start_paused = true)]
async fn tasks_of_a_name_start_at_its_rate_spawned_or_in_sets_and_others_do_not_wait() {
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
async fn a_burst_starts_at_once_and_comes_back_with_time() {
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

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_rate_is_pending_holds_no_permit_and_does_not_time_out() {
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

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_rate_goes_by_priority_and_one_that_is_aborted_takes_nobodys_turn() {
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
async fn a_rate_beyond_the_timers_resolution_is_kept_nevertheless() {
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
async fn a_rate_of_zero_and_two_rates_for_a_name_are_errors_that_name_it() {
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
    for odd in [RateLimit::per_second(u32::MAX), RateLimit::per_hour(1).burst(u32::MAX), RateLimit::per_hour(u32::MAX)]
    {
        let registry = registry(odd);
        assert!(matches!(registry.spawn(Task::new(async {}).named("webhook")).await, Outcome::Completed), "{odd:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_kept_by_tasks_that_had_to_wait_for_permits_after_it() {
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
async fn who_waits_for_the_rate_is_as_old_as_its_wait() {
    let registry = registry(RateLimit::per_hour(1));
    for _ in 0..100 {
        registry.spawn(Task::new(async {}).named("webhook"));
    }
    sleep(Duration::from_secs(5 * 3600)).await;
    assert_eq!(registry.metrics().oldest_pending, Duration::from_secs(5 * 3600));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_aborted_before_it_was_polled_takes_no_place() {
    let registry = registry(RateLimit::per_hour(1).burst(1));
    let first = registry.spawn(Task::new(async {}).named("webhook"));
    assert!(first.abort());
    assert!(matches!(first.await, Outcome::Aborted));
    let begin = Instant::now();
    assert!(matches!(registry.spawn(Task::new(async {}).named("webhook")).await, Outcome::Completed));
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_conserved(&registry, 2);
}
