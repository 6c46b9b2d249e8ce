//! Tasks that start later than their turn.

use std::time::Duration;

use postlude::{DiscardReason, Outcome, RetryPolicy, Task, TaskRegistry, TaskState};
use tokio::time::Instant;

use crate::support::{Journal, assert_conserved};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_spawned_task_starts_after_its_delay_async_or_blocking() {
    let registry = TaskRegistry::new();
    let start = Instant::now();
    assert!(registry.spawn(Task::new(async {}).delay(10 * SECOND)).await.is_completed());
    assert_eq!(start.elapsed(), 10 * SECOND);
    assert!(registry.spawn(Task::blocking(|| ()).delay(10 * SECOND)).await.is_completed());
    assert_eq!(start.elapsed(), 20 * SECOND);
    assert!(registry.spawn(Task::new(async {}).delay(Duration::ZERO)).await.is_completed());
    assert_eq!(start.elapsed(), 20 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn in_a_set_the_delay_counts_from_the_tasks_turn_and_the_next_ones_run_meanwhile() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    let start = Instant::now();
    set.add(async { tokio::time::sleep(5 * SECOND).await });
    set.add(Task::new(journal.task("delayed")).delay(10 * SECOND));
    set.add(journal.task("next"));
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(set.drain().await.completed, 3);
    assert_eq!(journal.read(), ["next", "delayed"]);
    assert_eq!(start.elapsed(), 17 * SECOND);
    assert_conserved(&registry, 3);
}

#[tokio::test(start_paused = true)]
async fn in_a_set_that_stops_on_failure_the_others_wait() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    set.stop_on_failure();
    set.add(Task::new(journal.task("delayed")).delay(10 * SECOND));
    set.add(journal.task("next"));
    set.drain().await;
    assert_eq!(journal.read(), ["delayed", "next"]);
}

#[tokio::test(start_paused = true)]
async fn many_delayed_tasks_of_a_set_wait_side_by_side() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    let start = Instant::now();
    for seconds in (1..=100).rev() {
        set.add(Task::new(journal.task("ran")).delay(seconds * SECOND));
    }
    assert_eq!(set.drain().await.completed, 100);
    assert_eq!((journal.read().len(), start.elapsed()), (100, 100 * SECOND));
    assert!(registry.tasks().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failure_stops_a_delayed_task_that_had_left_its_line_before_the_set_was_told_to_stop() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    set.add(Task::new(journal.task("before the failure")).delay(20 * SECOND));
    set.add(Task::retrying(RetryPolicy::constant(SECOND).attempts(2), || async { Err::<(), _>("failed") }));
    set.add(Task::new(journal.task("after the failure")).delay(20 * SECOND));
    let drained = set.clone().drain();
    tokio::time::sleep(SECOND / 2).await;
    set.stop_on_failure();
    let report = drained.await;
    assert_eq!((report.failed, report.discarded, report.completed), (1, 1, 1));
    assert_eq!(journal.read(), ["before the failure"]);
}

#[tokio::test(start_paused = true)]
async fn each_of_very_many_delayed_tasks_of_a_set_is_found_by_its_id() {
    const MANY: u64 = 20_000;
    let registry = TaskRegistry::new();
    let set = registry.set();
    let ids: Vec<_> = (0..MANY).map(|_| set.add(Task::new(async {}).delay(3600 * SECOND))).collect();
    let drained = set.drain();
    tokio::time::sleep(SECOND).await;
    assert!(ids.iter().step_by(2).all(|id| registry.abort(*id)));
    assert!(ids.iter().step_by(2).all(|id| !registry.abort(*id)));
    let report = drained.await;
    assert_eq!((report.aborted, report.completed), (MANY / 2, MANY / 2));
    assert_conserved(&registry, MANY);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_task_is_pending_listed_with_its_time_and_not_overdue() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    let handle = registry.spawn(Task::new(async {}).delay(60 * SECOND));
    tokio::time::sleep(20 * SECOND).await;
    let [task] = &registry.tasks()[..] else { panic!("it is live") };
    assert_eq!((task.state, task.attempt, task.due_in), (TaskState::Pending, 0, Some(40 * SECOND)));
    assert_eq!(registry.metrics().oldest_pending, Duration::ZERO);
    assert!(registry.spawn(async {}).await.is_completed(), "it holds no permit");
    let busy = registry.spawn(async { tokio::time::sleep(100 * SECOND).await });
    tokio::time::sleep(50 * SECOND).await;
    assert_eq!(registry.metrics().oldest_pending, 10 * SECOND, "due, and waiting for its turn");
    busy.await;
    assert!(handle.await.is_completed());
}

#[tokio::test(start_paused = true)]
async fn a_delayed_task_can_be_taken_back_and_aborted() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    set.add(Task::new(journal.task("cleared")).delay(60 * SECOND));
    let aborted = set.add(Task::new(journal.task("aborted")).delay(60 * SECOND));
    set.add(async {});
    let drained = set.clone().drain();
    tokio::time::sleep(SECOND).await;
    assert_eq!(set.len(), 2);
    assert!(registry.abort(aborted));
    assert_eq!(set.clear(), 1);
    let report = drained.await;
    assert_eq!((report.completed, report.aborted, report.discarded), (1, 1, 1));

    let handle = registry.spawn(Task::new(journal.task("aborted, too")).delay(60 * SECOND));
    tokio::task::yield_now().await;
    assert!(handle.abort());
    assert!(matches!(handle.await, Outcome::Aborted));
    registry.wait_idle().await;
    tokio::time::sleep(100 * SECOND).await;
    assert!(journal.read().is_empty());
    assert_eq!(registry.metrics().stuck, 0);
    assert_conserved(&registry, 4);
}

#[tokio::test(start_paused = true)]
async fn a_delay_without_end_is_given_up_at_the_shutdown() {
    let registry = TaskRegistry::new();
    let handle = registry.spawn(Task::new(async {}).delay(Duration::MAX).named("never"));
    tokio::time::sleep(SECOND).await;
    let start = Instant::now();
    let report = registry.shutdown(60 * SECOND).await;
    assert!(start.elapsed() < 5 * SECOND);
    assert_eq!((report.discarded.len(), report.discarded[0].name.as_str()), (1, "never"));
    assert!(matches!(handle.await, Outcome::Discarded(DiscardReason::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_clock_makes_everything_due_that_it_passed() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    registry.spawn(Task::new(journal.task("soon")).delay(10 * SECOND));
    registry.spawn(Task::new(journal.task("late")).delay(1000 * 3600 * SECOND));
    tokio::task::yield_now().await;
    tokio::time::advance(999 * 3600 * SECOND).await;
    while registry.metrics().completed < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(journal.read(), ["soon"]);
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["soon", "late"]);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn after_a_response_a_delayed_task_waits_for_its_time() {
    use axum::{Router, routing::get};
    use postlude::{TaskLayer, TaskSet};

    use crate::net::{Client, Version, serve};

    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let noted = journal.clone();
    let handler = |set: TaskSet| async move {
        set.add(Task::new(noted.task("delayed")).delay(Duration::from_millis(50)));
        set.add(noted.task("next"));
    };
    let router = Router::new().route("/", get(handler)).layer(TaskLayer::new(registry.clone()));
    let mut client = Client::connect(Version::H1, serve(router).await).await;
    client.get("/").await;
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["next", "delayed"]);
}
