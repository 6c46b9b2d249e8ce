//! Tasks that run at the ticks of a schedule. The wall clock goes on with tokio's paused clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use postlude::{Schedule, Task, TaskRegistry};

use crate::support::{Reports, SECOND, assert_conserved};

const HOUR: Duration = Duration::from_secs(3600);

fn schedule(expression: &str) -> Schedule {
    Schedule::parse(expression).unwrap()
}

#[tokio::test(start_paused = true)]
async fn runs_at_each_tick() {
    let registry = TaskRegistry::new();
    registry.spawn_cron(schedule("*/10 * * * *"), || async {});
    registry.spawn_cron(schedule("0 4 * * *").time_zone("Asia/Tokyo").unwrap(), || Task::new(async {}).named("daily"));
    tokio::time::sleep(10 * 24 * HOUR).await;
    let metrics = registry.metrics();
    let daily = metrics.by_name().iter().find(|(name, _)| **name == "daily").unwrap().1.completed;
    assert_eq!((daily, metrics.completed - daily), (10, 10 * 24 * 6));
    assert_conserved(&registry, metrics.added);
}

/// A run that takes longer than the time between two ticks is followed by one run.
#[tokio::test(start_paused = true)]
async fn latest_missed_tick_runs_once() {
    let registry = TaskRegistry::new();
    // Begin just after a full hour.
    let now = std::time::SystemTime::now();
    let hour = schedule("0 * * * *").next_after(now).unwrap();
    tokio::time::sleep(hour.duration_since(now).unwrap() + SECOND).await;
    let takes = Arc::new(AtomicU32::new(1));
    let first = Arc::clone(&takes);
    registry.spawn_cron(schedule("0 0 * * * *"), move || {
        let hours = first.swap(0, Ordering::SeqCst);
        async move { tokio::time::sleep(HOUR * hours * 7 + HOUR / 2).await }
    });
    tokio::time::sleep(HOUR).await;
    assert_eq!(registry.metrics().running, 1);
    tokio::time::sleep(6 * HOUR).await;
    assert_eq!(registry.metrics().added, 1, "runs do not overlap");
    tokio::time::sleep(HOUR + HOUR / 2).await;
    assert_eq!(registry.metrics().added, 2, "one run for the ticks that were missed");
    tokio::time::sleep(HOUR).await;
    assert_eq!(registry.metrics().added, 3, "and then the schedule");
}

/// As if the machine had been suspended.
#[tokio::test(start_paused = true)]
async fn after_jump_of_clock() {
    let registry = TaskRegistry::new();
    registry.spawn_cron(schedule("0 * * * *"), || async {});
    tokio::time::sleep(SECOND).await;
    tokio::time::advance(5 * HOUR).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(registry.metrics().completed, 1);
    tokio::time::sleep(HOUR).await;
    assert_eq!(registry.metrics().completed, 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_is_followed_by_others() {
    let reports = Reports::default();
    let registry = TaskRegistry::builder().on_failure(reports.hook()).build().unwrap();
    let runs = AtomicU32::new(0);
    let line = line!() + 1;
    let repetition = registry.spawn_cron(schedule("0 * * * *"), move || {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        assert_ne!(run, 0, "the first call panics");
        Task::new(async move { if run == 1 { Err("failed") } else { Ok(()) } }).named("sweep")
    });
    tokio::time::sleep(4 * HOUR).await;
    let metrics = registry.metrics();
    assert_eq!((metrics.hook_panics, metrics.failed, metrics.completed), (1, 1, 2));
    let [report] = &reports.read()[..] else { panic!("one failure") };
    assert_eq!((report.name.as_str(), report.location.line()), ("sweep", line));
    assert!(!repetition.is_stopped());
}

#[tokio::test(start_paused = true)]
async fn ends_with_a_shutdown_or_its_handle() {
    let registry = TaskRegistry::new();
    let stopped = registry.spawn_cron(schedule("* * * * *"), || async {});
    let aborted = registry.spawn_cron(schedule("* * * * *"), std::future::pending::<()>);
    let shut_down = registry.spawn_cron(schedule("* * * * *"), || async {});
    tokio::time::sleep(90 * SECOND).await;
    stopped.stop();
    aborted.abort();
    let added = registry.metrics().added;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(registry.metrics().added, added + 1);
    assert_eq!(registry.metrics().aborted, 1);
    assert!(registry.shutdown(60 * SECOND).await.aborted.len() <= 1);
    assert!(shut_down.is_stopped());
    let late = registry.spawn_cron(schedule("* * * * *"), || async {});
    assert!(late.is_stopped());
    tokio::time::sleep(HOUR).await;
    assert_eq!(registry.metrics().added, added + 1);
}

/// A real clock: the tick is a whole second of the wall clock, and the run is not before it.
#[tokio::test]
async fn follows_the_wall_clock() {
    let registry = TaskRegistry::new();
    let (sender, mut runs) = tokio::sync::mpsc::unbounded_channel();
    let begun = std::time::SystemTime::now();
    registry.spawn_cron(schedule("* * * * * *"), move || {
        sender.send(std::time::SystemTime::now()).unwrap();
        async {}
    });
    let first = runs.recv().await.unwrap();
    let second = runs.recv().await.unwrap();
    let tick = schedule("* * * * * *").next_after(begun).unwrap();
    assert!(first >= tick && second >= tick + SECOND, "{begun:?} {first:?} {second:?}");
}
