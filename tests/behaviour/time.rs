//! Time limits and delays of single tasks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use postlude::{DiscardReason, Outcome, Task, TaskRegistry, TaskState};
use tokio::{runtime::Builder, sync::oneshot, time::Instant};

use crate::support::{Journal, SECOND, assert_conserved, until};

mod timeout {
    use super::*;

    #[tokio::test]
    async fn of_zero_ends_before_first_poll() {
        let registry = TaskRegistry::new();
        let polled = Arc::new(AtomicBool::new(false));
        let witness = polled.clone();
        let task = Task::new(async move { witness.store(true, Ordering::SeqCst) }).timeout(Duration::ZERO);
        assert!(matches!(registry.spawn(task).await, Outcome::TimedOut(Duration::ZERO)));
        assert!(!polled.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn of_zero_never_calls_closure() {
        let registry = TaskRegistry::new();
        let called = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&called);
        let task = Task::blocking(move || noted.store(true, Ordering::SeqCst)).timeout(Duration::ZERO);
        assert!(matches!(registry.spawn(task).await, Outcome::TimedOut(Duration::ZERO)));
        registry.shutdown(Duration::ZERO).await;
        assert!(!called.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn does_not_count_wait_for_thread() {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap();
        let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = oneshot::channel();
        registry.spawn_blocking(move || {
            started.send(()).unwrap();
            held.recv().unwrap_err();
        });
        has_started.await.unwrap();
        let waiting = registry.spawn(Task::blocking(|| {}).timeout(Duration::from_millis(1)));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let metrics = registry.metrics();
        assert_eq!((metrics.running, metrics.pending), (1, 1));
        drop(release);
        // It may be late now that it runs, but it runs.
        assert!(matches!(waiting.await, Outcome::Completed | Outcome::TimedOut(_)));
        registry.wait_idle().await;
        assert_eq!(registry.metrics().by_name()["unnamed"].discarded, 0);
        runtime.shutdown_background();
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_count_wait_for_permit() {
        let registry =
            TaskRegistry::builder().max_concurrent(1).default_timeout(Duration::from_secs(3)).build().unwrap();
        let handles: Vec<_> =
            (0..5).map(|_| registry.spawn(async { tokio::time::sleep(Duration::from_secs(2)).await })).collect();
        for handle in handles {
            assert!(matches!(handle.await, Outcome::Completed));
        }
    }
}

mod default_timeout {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn applies_to_tasks_without_their_own() {
        let registry = TaskRegistry::builder().default_timeout(Duration::from_secs(2)).build().unwrap();
        let sleep = |seconds| async move { tokio::time::sleep(Duration::from_secs(seconds)).await };
        let unbounded = registry.spawn(sleep(3));
        let bounded = registry.spawn(Task::new(sleep(3)).timeout(Duration::from_secs(4)));
        let limitless = registry.spawn(Task::new(sleep(300)).timeout(Duration::MAX));
        assert!(matches!(unbounded.await, Outcome::TimedOut(limit) if limit == Duration::from_secs(2)));
        assert!(matches!(bounded.await, Outcome::Completed));
        assert!(matches!(limitless.await, Outcome::Completed));
    }
}

mod delay {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_spawned_task() {
        let registry = TaskRegistry::new();
        let start = Instant::now();
        assert!(registry.spawn(Task::new(async {}).delay(10 * SECOND)).await.is_completed());
        assert_eq!(start.elapsed(), 10 * SECOND);
        assert!(registry.spawn(Task::blocking(|| ()).delay(10 * SECOND)).await.is_completed());
        assert_eq!(start.elapsed(), 20 * SECOND);
        assert!(registry.spawn(Task::new(async {}).delay(Duration::ZERO)).await.is_completed());
        assert_eq!(start.elapsed(), 20 * SECOND);
    }

    /// The next tasks run meanwhile.
    #[tokio::test(start_paused = true)]
    async fn in_a_set_counts_from_tasks_turn() {
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
    async fn of_many_tasks_runs_side_by_side() {
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
    async fn of_very_many_tasks_keeps_each_findable() {
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
    async fn is_listed_as_pending_and_not_overdue() {
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
    async fn may_be_cleared_and_aborted() {
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
    async fn without_end_is_discarded_by_shutdown() {
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
    async fn after_jump_of_clock() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        registry.spawn(Task::new(journal.task("soon")).delay(10 * SECOND));
        registry.spawn(Task::new(journal.task("late")).delay(1000 * 3600 * SECOND));
        tokio::task::yield_now().await;
        tokio::time::advance(999 * 3600 * SECOND).await;
        until(|| registry.metrics().completed >= 1).await;
        assert_eq!(journal.read(), ["soon"]);
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["soon", "late"]);
    }

    #[cfg(feature = "axum")]
    #[tokio::test]
    async fn after_a_response() {
        use axum::{Router, routing::get};
        use postlude::{TaskLayer, TaskSet};

        use crate::support::net::{Client, Version, serve};

        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let noted = journal.clone();
        let handler = |set: TaskSet| async move {
            set.add(Task::new(noted.task("delayed")).delay(Duration::from_millis(50)));
            set.add(noted.task("next"));
        };
        let router = Router::new().route("/", get(handler)).layer(TaskLayer::new(registry.clone()));
        let mut client = Client::connect(Version::H1, serve(router)).await;
        client.get("/").await;
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["next", "delayed"]);
    }
}
