//! Attempts: which follows when, and what goes on meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use postlude::{Outcome, RetryPolicy, Task, TaskId, TaskRegistry, TaskState, after, attempt, cancellation};
use tokio::time::Instant;

use crate::support::{Journal, Reports, assert_conserved};

const SECOND: Duration = Duration::from_secs(1);

fn each_second() -> RetryPolicy {
    RetryPolicy::constant(SECOND).attempts(4)
}

/// Fails until its `last` attempt.
fn succeeds_at(last: u32, policy: RetryPolicy, journal: &Journal) -> Task {
    let journal = journal.clone();
    Task::retrying(policy, move || {
        let journal = journal.clone();
        async move {
            journal.note(format!("attempt {}", attempt()));
            if attempt() < last { Err(format!("attempt {}", attempt())) } else { Ok(()) }
        }
    })
}

fn never() -> Task {
    succeeds_at(u32::MAX, each_second(), &Journal::default())
}

/// Waits until the task rests between two attempts.
async fn resting(registry: &TaskRegistry, id: TaskId) {
    while !registry.tasks().iter().any(|task| task.id == id && task.state == TaskState::Retrying) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_is_followed_by_another_after_its_delay() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let start = Instant::now();
    let outcome = registry.spawn(succeeds_at(3, RetryPolicy::delays([SECOND, 10 * SECOND]), &journal)).await;
    assert!(outcome.is_completed());
    assert_eq!(start.elapsed(), 11 * SECOND);
    assert_eq!(journal.read(), ["attempt 1", "attempt 2", "attempt 3"]);
    let metrics = registry.metrics();
    assert_eq!((metrics.added, metrics.completed, metrics.failed, metrics.retries), (1, 1, 0, 2));
    assert_eq!(metrics.by_name()["unnamed"].retries, 2);
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_decides_the_outcome_and_each_one_counts_in_the_durations() {
    let reports = Reports::default();
    let registry = TaskRegistry::builder().on_failure(reports.hook()).build().unwrap();
    let slow = Task::retrying(RetryPolicy::constant(60 * SECOND).attempts(3), || async {
        tokio::time::sleep(SECOND * attempt()).await;
        Err::<(), _>(format!("attempt {}", attempt()))
    });
    let Outcome::Failed(error) = registry.spawn(slow).await else { panic!("it fails each time") };
    assert_eq!(error.to_string(), "attempt 3");
    let metrics = registry.metrics();
    assert_eq!((metrics.failed, metrics.retries), (1, 2));
    assert_eq!(metrics.total_time, 6 * SECOND);
    let [report] = &reports.read()[..] else { panic!("told once") };
    assert_eq!((report.attempt, report.ran_for, report.queued_for), (3, 3 * SECOND, Duration::ZERO));
    assert_conserved(&registry, 1);
}

#[tokio::test(start_paused = true)]
async fn while_a_task_rests_the_next_ones_of_its_set_run_and_it_comes_back_by_itself() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    set.add(succeeds_at(2, each_second(), &journal));
    set.add(journal.task("second task"));
    set.add(succeeds_at(3, each_second(), &journal));
    set.add(journal.task("fourth task"));
    let report = set.drain().await;
    assert_eq!((report.completed, report.total()), (4, 4));
    assert_eq!(
        journal.read(),
        ["attempt 1", "second task", "attempt 1", "fourth task", "attempt 2", "attempt 2", "attempt 3"]
    );
    assert_conserved(&registry, 4);
    assert!(registry.tasks().is_empty());
}

#[tokio::test(start_paused = true)]
async fn in_a_set_that_stops_on_failure_the_others_wait_for_the_last_attempt() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    set.stop_on_failure();
    set.add(succeeds_at(2, each_second(), &journal));
    set.add(journal.task("next"));
    set.add(never());
    set.add(journal.task("stopped"));
    let report = set.drain().await;
    assert_eq!(journal.read(), ["attempt 1", "attempt 2", "next"]);
    assert_eq!((report.completed, report.failed, report.discarded), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_after_it_left_its_line_stops_a_set_that_was_told_to_meanwhile() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    let id = set.add(never());
    let waiting = set.clone().drain();
    resting(&registry, id).await;
    set.stop_on_failure();
    let (open, opened) = tokio::sync::oneshot::channel::<()>();
    set.add(async { opened.await.unwrap() });
    set.add(journal.task("stopped"));
    tokio::time::sleep(10 * SECOND).await;
    open.send(()).unwrap();
    let report = waiting.await;
    assert_eq!((report.failed, report.completed, report.discarded), (1, 1, 1));
    assert!(journal.read().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_resting_task_holds_no_permit_but_its_place_within_the_capacity() {
    let registry = TaskRegistry::builder().max_concurrent(1).max_blocking(1).capacity(2).build().unwrap();
    let resting_task = registry.spawn(never());
    resting(&registry, resting_task.id()).await;
    assert!(registry.spawn(async {}).await.is_completed());
    assert!(registry.try_spawn(std::future::pending::<()>()).is_ok());
    assert!(registry.try_spawn(async {}).is_err(), "the resting one is live, too");

    let registry = TaskRegistry::builder().max_blocking(1).build().unwrap();
    let task = registry.spawn(Task::retrying_blocking(each_second(), || Err::<(), _>("once more")));
    resting(&registry, task.id()).await;
    assert!(registry.spawn_blocking(|| ()).await.is_completed());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_times_out_is_followed_by_another_async_or_blocking() {
    let registry = TaskRegistry::new();
    let hangs = Task::retrying(each_second(), || async {
        if attempt() < 3 {
            std::future::pending::<()>().await;
        }
    });
    assert!(registry.spawn(hangs.timeout(5 * SECOND)).await.is_completed());
    assert_eq!(registry.metrics().retries, 2);
    assert_eq!(registry.metrics().total_time, 10 * SECOND);

    let outcome = registry.spawn(never().timeout(Duration::ZERO)).await;
    assert!(matches!(outcome, Outcome::TimedOut(Duration::ZERO)));
    assert_eq!(registry.metrics().retries, 2 + 3);
}

#[tokio::test]
async fn a_blocking_attempt_that_was_given_up_holds_its_permit_is_listed_as_stuck_and_is_told_to_end() {
    let registry = TaskRegistry::builder().max_blocking(2).build().unwrap();
    let policy = RetryPolicy::constant(Duration::ZERO).attempts(2);
    let released = Arc::new(AtomicBool::new(false));
    let told = Arc::new(AtomicU32::new(0));
    let (release, noted) = (Arc::clone(&released), Arc::clone(&told));
    let stubborn = Task::retrying_blocking(policy, move || {
        if attempt() == 1 {
            let token = cancellation();
            while !token.is_cancelled() {
                std::thread::yield_now();
            }
            noted.fetch_add(1, Ordering::SeqCst);
            while !release.load(Ordering::SeqCst) {
                // Asked anew, it is still the first attempt's.
                noted.fetch_add(u32::from(!cancellation().is_cancelled() || attempt() != 1), Ordering::SeqCst);
                std::thread::yield_now();
            }
        }
    });
    assert!(registry.spawn(stubborn.timeout(Duration::from_millis(5))).await.is_completed());
    registry.wait_idle().await;
    assert_eq!(registry.metrics().stuck, 1, "the first attempt goes on");
    let (open, opened) = std::sync::mpsc::channel::<()>();
    let one = registry.spawn_blocking(move || opened.recv().unwrap());
    let two = registry.spawn_blocking(|| ());
    while registry.tasks().iter().filter(|task| task.state == TaskState::Running).count() < 1 {
        tokio::task::yield_now().await;
    }
    assert!(!two.is_finished(), "of two permits one is held by the stuck attempt");
    open.send(()).unwrap();
    assert!(one.await.is_completed() && two.await.is_completed());
    released.store(true, Ordering::SeqCst);
    while registry.metrics().stuck > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(told.load(Ordering::SeqCst), 1);
    assert_conserved(&registry, 3);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_followed_by_another_attempt_only_if_asked_also_one_of_the_factory() {
    async fn bursts() {
        assert!(attempt() > 1, "the first bursts");
    }
    fn bursts_at_once() -> std::future::Ready<()> {
        assert!(attempt() > 1, "the first bursts");
        std::future::ready(())
    }
    let registry = TaskRegistry::new();
    for make in [Task::retrying(each_second(), bursts), Task::retrying(each_second(), bursts_at_once)] {
        assert!(
            matches!(registry.spawn(make).await, Outcome::Panicked(panic) if panic.message() == "the first bursts")
        );
    }
    let asked = || each_second().retry_panics();
    for make in [Task::retrying(asked(), bursts), Task::retrying(asked(), bursts_at_once)] {
        assert!(registry.spawn(make).await.is_completed());
    }
    let metrics = registry.metrics();
    assert_eq!((metrics.panicked, metrics.completed, metrics.retries), (2, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn only_errors_that_the_condition_names_are_tried_again() {
    let registry = TaskRegistry::new();
    let policy = each_second().retry_if(|error| error.to_string() == "attempt 1");
    assert!(!registry.spawn(succeeds_at(3, policy, &Journal::default())).await.is_completed());
    assert_eq!(registry.metrics().retries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_panics_is_counted_and_taken_for_a_yes() {
    let registry = TaskRegistry::new();
    let policy = each_second().retry_if(|_| panic!("no opinion"));
    assert!(registry.spawn(succeeds_at(2, policy, &Journal::default())).await.is_completed());
    assert_eq!(registry.metrics().hook_panics, 1);
}

#[tokio::test(start_paused = true)]
async fn the_attempt_is_known_in_the_factory_the_future_and_the_closure() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let noted = journal.clone();
    let both = Task::retrying(each_second(), move || {
        let (made_for, noted) = (attempt(), noted.clone());
        async move {
            noted.note(format!("{made_for} {}", attempt()));
            tokio::task::yield_now().await;
            if attempt() == 1 { Err("once more") } else { Ok(()) }
        }
    });
    registry.spawn(both).await;
    let noted = journal.clone();
    let closure = Task::retrying_blocking(each_second(), move || {
        noted.note(format!("closure {}", attempt()));
        if attempt() == 1 { Err("once more") } else { Ok(()) }
    });
    registry.spawn(closure.timeout(60 * SECOND)).await;
    let set = registry.set();
    let noted = journal.clone();
    set.add(async move { noted.note(format!("plain {}", attempt())) });
    set.drain().await;
    assert_eq!(journal.read(), ["1 1", "2 2", "closure 1", "closure 2", "plain 1"]);
    assert_eq!(attempt(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_abort_ends_a_resting_task_at_once_spawned_or_in_a_set() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let alive = Arc::new(());
    let holds = |alive: &Arc<()>| {
        let (alive, journal) = (Arc::clone(alive), journal.clone());
        Task::retrying(each_second(), move || {
            let _held = &alive;
            journal.note("attempt");
            async { Err::<(), _>("once more") }
        })
    };
    let handle = registry.spawn(holds(&alive));
    resting(&registry, handle.id()).await;
    assert!(handle.abort());
    assert!(matches!(handle.await, Outcome::Aborted));

    let set = registry.set();
    let id = set.add(holds(&alive));
    set.add(async {});
    let drained = set.drain();
    resting(&registry, id).await;
    assert!(registry.abort(id));
    assert!(!registry.abort(id));
    let report = drained.await;
    assert_eq!((report.aborted, report.completed), (1, 1));

    registry.shutdown(SECOND).await;
    assert_eq!(journal.read(), ["attempt", "attempt"]);
    assert_eq!(Arc::strong_count(&alive), 1, "the factories are gone");
    assert_eq!(registry.metrics().stuck, 0);
    assert_conserved(&registry, 3);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_an_attempt_that_is_due_within_its_grace() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    set.add(succeeds_at(3, each_second(), &journal));
    drop(set);
    let report = registry.shutdown(30 * SECOND).await;
    assert_eq!((report.completed, report.is_clean()), (1, true));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_up_at_once_what_is_due_after_its_grace_and_says_so() {
    let registry = TaskRegistry::new();
    let patient = || {
        let policy = RetryPolicy::constant(3600 * SECOND);
        Task::retrying(policy, || async { Err::<(), _>("once more") }).named("patient")
    };
    let handle = registry.spawn(patient());
    let set = registry.set();
    let id = set.add(patient());
    set.add(async { tokio::time::sleep(3 * SECOND).await });
    drop(set);
    resting(&registry, id).await;
    let start = Instant::now();
    let report = registry.shutdown(60 * SECOND).await;
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
    assert_eq!((report.completed, report.aborted.len(), report.stuck.len()), (1, 2, 0));
    for lost in &report.aborted {
        assert_eq!((lost.name.as_str(), lost.state, lost.attempt), ("patient", TaskState::Retrying, 1));
        assert!(lost.due_in.unwrap() > 3000 * SECOND);
    }
    assert!(matches!(handle.await, Outcome::Aborted));
    assert_conserved(&registry, 3);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_up_what_waits_behind_a_task_that_is_due_too_late() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    set.stop_on_failure();
    let id = set.add(Task::retrying(RetryPolicy::constant(3600 * SECOND), || async { Err::<(), _>("once more") }));
    set.add(async {});
    drop(set);
    resting(&registry, id).await;
    let start = Instant::now();
    let report = registry.shutdown(60 * SECOND).await;
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
    assert_eq!((report.aborted.len(), report.discarded.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_over_when_a_shutdown_gives_up_what_had_left_the_line() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    set.add(Task::new(async {}).delay(7200 * SECOND));
    let id = set.add(Task::retrying(RetryPolicy::constant(7200 * SECOND), || async { Err::<(), _>("failed") }));
    let drained = set.drain();
    resting(&registry, id).await;
    registry.shutdown(60 * SECOND).await;
    let report = drained.await;
    assert_eq!((report.aborted, report.discarded), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_never_ends_ends_with_the_registry() {
    let registry = TaskRegistry::builder().settle(SECOND).build().unwrap();
    let endless = RetryPolicy::constant(Duration::ZERO).attempts(u32::MAX);
    let handle = registry.spawn(Task::retrying(endless, || async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Err::<(), _>("once more")
    }));
    let report = registry.shutdown(5 * SECOND).await;
    assert_eq!(report.aborted.len(), 1);
    assert!(matches!(handle.await, Outcome::Aborted));
    assert!(registry.metrics().retries > 1000);
    assert!(registry.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_attempt_follows_once_the_total_limit_is_over() {
    let registry = TaskRegistry::new();
    let policy = RetryPolicy::constant(SECOND).attempts(100).give_up_after(3 * SECOND);
    let start = Instant::now();
    registry.spawn(Task::retrying(policy, || async { Err::<(), _>("once more") })).await;
    assert_eq!((registry.metrics().retries, start.elapsed()), (3, 3 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_resting_task_is_listed_with_what_it_waits_for() {
    let registry = TaskRegistry::new();
    let handle = registry.spawn(never().named("webhook"));
    resting(&registry, handle.id()).await;
    tokio::time::advance(SECOND / 4).await;
    let [task] = &registry.tasks()[..] else { panic!("it is live") };
    assert_eq!((task.name.as_str(), task.state, task.attempt), ("webhook", TaskState::Retrying, 1));
    assert_eq!((task.due_in, task.running_for), (Some(SECOND * 3 / 4), None));
    let metrics = registry.metrics();
    assert_eq!((metrics.running, metrics.retrying, metrics.pending), (1, 1, 0));
    assert_eq!(metrics.oldest_pending, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_may_add_to_its_set_also_after_the_task_has_left_the_line() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    let noted = journal.clone();
    set.add(Task::retrying(each_second(), move || {
        let noted = noted.clone();
        async move {
            after(noted.task(if attempt() == 1 { "added by the first" } else { "added by the second" })).unwrap();
            if attempt() == 1 { Err("once more") } else { Ok(()) }
        }
    }));
    assert_eq!(set.drain().await.completed, 3);
    assert_eq!(journal.read(), ["added by the first", "added by the second"]);
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_panics_when_it_is_dropped_harms_nobody() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let registry = TaskRegistry::builder().dead_letters(1).build().unwrap();
    let bombed = || {
        let bomb = Bomb;
        Task::retrying(each_second(), move || {
            let _held = &bomb;
            async { Err::<(), _>("once more") }
        })
    };
    assert!(matches!(registry.spawn(bombed()).await, Outcome::Failed(_)));
    assert!(matches!(registry.spawn(bombed()).await, Outcome::Failed(_)));
    let resting_task = registry.spawn(bombed());
    resting(&registry, resting_task.id()).await;
    resting_task.abort();
    assert!(registry.spawn(async {}).await.is_completed());
    assert_eq!(registry.dead_letters().len(), 1);
    registry.dead_letters().clear();
    registry.shutdown(SECOND).await;
    assert_conserved(&registry, 4);
}

#[tokio::test]
async fn a_runtime_that_ends_between_two_attempts_leaves_an_outcome() {
    let reports = Reports::default();
    let hook = reports.hook();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let registry = TaskRegistry::builder().on_failure(hook).build().unwrap();
            let patient =
                || Task::retrying(RetryPolicy::constant(3600 * SECOND), || async { Err::<(), _>("once more") });
            let set = registry.set();
            let delayed = set.add(patient().delay(3600 * SECOND));
            let id = set.add(patient());
            drop(set);
            resting(&registry, id).await;
            assert!(registry.tasks().iter().any(|task| task.id == delayed && task.due_in.is_some()));
            let handle = registry.spawn(patient());
            resting(&registry, handle.id()).await;
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
async fn a_drain_is_over_when_the_runtime_ends_under_what_had_left_the_line() {
    let thread = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let registry = TaskRegistry::new();
            let set = registry.set();
            set.add(Task::new(async {}).delay(7200 * SECOND));
            let id = set.add(Task::retrying(RetryPolicy::constant(7200 * SECOND), || async { Err::<(), _>("failed") }));
            let drained = set.clone().drain();
            resting(&registry, id).await;
            (set, drained)
        })
    });
    let (_set, drained) = thread.join().unwrap();
    let report = drained.await;
    assert_eq!((report.aborted, report.discarded), (1, 1));
}

#[tokio::test]
async fn a_closure_with_no_time_at_all_is_never_called() {
    let registry = TaskRegistry::new();
    let called = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&called);
    let task = Task::blocking(move || noted.store(true, Ordering::SeqCst)).timeout(Duration::ZERO);
    assert!(matches!(registry.spawn(task).await, Outcome::TimedOut(Duration::ZERO)));
    registry.shutdown(Duration::ZERO).await;
    assert!(!called.load(Ordering::SeqCst));
}
