//! Attempts: when the next one starts, and which tasks run meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use postlude::{Outcome, RetryPolicy, Task, TaskRegistry, TaskState, attempt, cancellation};
use tokio::time::Instant;

use crate::support::{
    Bomb, Journal, Reports, SECOND, assert_conserved,
    retries::{each_second, never, succeeds_at, until_retrying},
    until,
};

#[tokio::test(start_paused = true)]
async fn starts_next_attempt_after_delay() {
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

/// Each attempt counts in the durations.
#[tokio::test(start_paused = true)]
async fn last_attempt_decides_outcome() {
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
    let [report] = &reports.read()[..] else { panic!("reported once") };
    assert_eq!((report.attempt, report.ran_for, report.queued_for), (3, 3 * SECOND, Duration::ZERO));
    assert_conserved(&registry, 1);
}

#[tokio::test(start_paused = true)]
async fn is_listed_between_attempts() {
    let registry = TaskRegistry::new();
    let handle = registry.spawn(never().named("webhook"));
    until_retrying(&registry, handle.id()).await;
    tokio::time::advance(SECOND / 4).await;
    let [task] = &registry.tasks()[..] else { panic!("it is live") };
    assert_eq!((task.name.as_str(), task.state, task.attempt), ("webhook", TaskState::Retrying, 1));
    assert_eq!((task.due_in, task.running_for), (Some(SECOND * 3 / 4), None));
    let metrics = registry.metrics();
    assert_eq!((metrics.running, metrics.retrying, metrics.pending), (1, 1, 0));
    assert_eq!(metrics.oldest_pending, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn between_attempts_holds_slot_but_no_permit() {
    let registry = TaskRegistry::builder().max_concurrent(1).max_blocking(1).capacity(2).build().unwrap();
    let retrying_task = registry.spawn(never());
    until_retrying(&registry, retrying_task.id()).await;
    assert!(registry.spawn(async {}).await.is_completed());
    assert!(registry.try_spawn(std::future::pending::<()>()).is_ok());
    assert!(registry.try_spawn(async {}).is_err(), "the resting one is live, too");

    let registry = TaskRegistry::builder().max_blocking(1).build().unwrap();
    let task = registry.spawn(Task::retrying_blocking(each_second(), || Err::<(), _>("once more")));
    until_retrying(&registry, task.id()).await;
    assert!(registry.spawn_blocking(|| ()).await.is_completed());
}

#[tokio::test(start_paused = true)]
async fn between_attempts_the_set_goes_on() {
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
async fn abort_between_attempts() {
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
    until_retrying(&registry, handle.id()).await;
    assert!(handle.abort());
    assert!(matches!(handle.await, Outcome::Aborted));

    let set = registry.set();
    let id = set.add(holds(&alive));
    set.add(async {});
    let drained = set.drain();
    until_retrying(&registry, id).await;
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
async fn factory_may_panic_in_drop() {
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
    let retrying_task = registry.spawn(bombed());
    until_retrying(&registry, retrying_task.id()).await;
    retrying_task.abort();
    assert!(registry.spawn(async {}).await.is_completed());
    assert_eq!(registry.dead_letters().len(), 1);
    registry.dead_letters().clear();
    registry.shutdown(SECOND).await;
    assert_conserved(&registry, 4);
}

mod timeout {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_followed_by_next_attempt() {
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

    /// The abandoned attempt is listed as stuck and sees its token cancelled.
    #[tokio::test]
    async fn of_blocking_attempt_keeps_its_permit() {
        let registry = TaskRegistry::builder().max_blocking(2).build().unwrap();
        let policy = RetryPolicy::constant(Duration::ZERO).attempts(2);
        let released = Arc::new(AtomicBool::new(false));
        let cancelled = Arc::new(AtomicU32::new(0));
        let (release, noted) = (Arc::clone(&released), Arc::clone(&cancelled));
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
        until(|| registry.tasks().iter().filter(|task| task.state == TaskState::Running).count() >= 1).await;
        assert!(!two.is_finished(), "of two permits one is held by the stuck attempt");
        open.send(()).unwrap();
        assert!(one.await.is_completed() && two.await.is_completed());
        released.store(true, Ordering::SeqCst);
        until(|| registry.metrics().stuck == 0).await;
        assert_eq!(cancelled.load(Ordering::SeqCst), 1);
        assert_conserved(&registry, 3);
    }
}

mod policy {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retry_panics() {
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
    async fn retry_if() {
        let registry = TaskRegistry::new();
        let policy = each_second().retry_if(|error| error.to_string() == "attempt 1");
        assert!(!registry.spawn(succeeds_at(3, policy, &Journal::default())).await.is_completed());
        assert_eq!(registry.metrics().retries, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn retry_if_that_panics_means_yes() {
        let registry = TaskRegistry::new();
        let policy = each_second().retry_if(|_| panic!("no opinion"));
        assert!(registry.spawn(succeeds_at(2, policy, &Journal::default())).await.is_completed());
        assert_eq!(registry.metrics().hook_panics, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn give_up_after() {
        let registry = TaskRegistry::new();
        let policy = RetryPolicy::constant(SECOND).attempts(100).give_up_after(3 * SECOND);
        let start = Instant::now();
        registry.spawn(Task::retrying(policy, || async { Err::<(), _>("once more") })).await;
        assert_eq!((registry.metrics().retries, start.elapsed()), (3, 3 * SECOND));
    }
}

mod shutdown {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_attempt_due_in_grace() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        set.add(succeeds_at(3, each_second(), &journal));
        drop(set);
        let report = registry.shutdown(30 * SECOND).await;
        assert_eq!((report.completed, report.is_clean()), (1, true));
    }

    #[tokio::test(start_paused = true)]
    async fn aborts_attempt_due_after_grace() {
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
        until_retrying(&registry, id).await;
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
    async fn discards_tasks_behind_late_attempt() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        set.stop_on_failure();
        let id = set.add(Task::retrying(RetryPolicy::constant(3600 * SECOND), || async { Err::<(), _>("once more") }));
        set.add(async {});
        drop(set);
        until_retrying(&registry, id).await;
        let start = Instant::now();
        let report = registry.shutdown(60 * SECOND).await;
        assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
        assert_eq!((report.aborted.len(), report.discarded.len()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn completes_drain() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        set.add(Task::new(async {}).delay(7200 * SECOND));
        let id = set.add(Task::retrying(RetryPolicy::constant(7200 * SECOND), || async { Err::<(), _>("failed") }));
        let drained = set.drain();
        until_retrying(&registry, id).await;
        registry.shutdown(60 * SECOND).await;
        let report = drained.await;
        assert_eq!((report.aborted, report.discarded), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_endless_policy() {
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
}
