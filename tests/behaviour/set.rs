//! A set: adds, drains, clears.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use postlude::{RejectReason, RetryPolicy, Task, TaskRegistry, TaskReport, TaskSet, TaskState, after};
use tokio::sync::{Notify, oneshot};

use crate::support::{
    Bomb, Journal, SECOND, assert_conserved,
    retries::{each_second, never, succeeds_at, until_retrying},
    until,
};

mod add {
    use super::*;

    #[tokio::test]
    async fn runs() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        set.add(journal.task("ran"));
        assert_eq!(set.drain().await.completed, 1);
        assert_eq!(journal.read(), ["ran"]);
        assert_conserved(&registry, 1);
    }

    /// Adds after the drain run in order and do not overlap.
    #[tokio::test(start_paused = true)]
    async fn after_drain_runs_in_order() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let late = set.clone();
        set.add(journal.task("before"));
        set.drain().await;
        registry.wait_idle().await;

        for name in ["late", "later"] {
            let journal = journal.clone();
            late.add(async move {
                journal.note(format!("{name} begins"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                journal.note(format!("{name} ends"));
            });
        }
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["before", "late begins", "late ends", "later begins", "later ends"]);
    }

    /// No task is lost, and no two overlap.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn racing_with_end_of_drain() {
        for _ in 0..200 {
            let registry = TaskRegistry::new();
            let (running, ran) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            let set = registry.set();
            set.clone().drain();
            let adders: Vec<_> = (0..4)
                .map(|_| {
                    let (set, running, ran) = (set.clone(), running.clone(), ran.clone());
                    tokio::spawn(async move {
                        for _ in 0..25 {
                            let (running, ran) = (running.clone(), ran.clone());
                            set.add(async move {
                                assert!(!running.swap(true, Ordering::SeqCst), "two at once");
                                tokio::task::yield_now().await;
                                running.store(false, Ordering::SeqCst);
                                ran.fetch_add(1, Ordering::SeqCst);
                            });
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            for adder in adders {
                adder.await.unwrap();
            }
            registry.wait_idle().await;
            assert_eq!(ran.load(Ordering::SeqCst), 100);
            assert_eq!(registry.metrics().completed, 100);
            assert_conserved(&registry, 100);
        }
    }
}

mod add_blocking {
    use super::*;

    #[tokio::test]
    async fn runs_on_another_thread() {
        let registry = TaskRegistry::new();
        let here = std::thread::current().id();
        let (sender, receiver) = oneshot::channel();
        registry.set().add_blocking(move || sender.send(std::thread::current().id()).unwrap());
        assert_ne!(receiver.await.unwrap(), here);
        registry.wait_idle().await;
        assert_eq!(registry.metrics().completed, 1);
    }

    #[tokio::test]
    async fn shares_order_with_async_tasks() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let names = ["1", "2", "3", "4", "5", "6"];
        for (number, name) in names.into_iter().enumerate() {
            let noted = journal.clone();
            if number % 2 == 0 {
                set.add(journal.task(name));
            } else {
                set.add_blocking(move || noted.note(name));
            }
        }
        set.drain().await;
        assert_eq!(journal.read(), names);
    }
}

mod drain {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn runs_in_order_without_overlap() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        for (name, seconds) in [("slow", 3), ("quick", 1), ("middling", 2)] {
            let journal = journal.clone();
            set.add(async move {
                journal.note(format!("{name} begins"));
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                journal.note(format!("{name} ends"));
            });
        }
        set.drain().await;
        let expected = ["slow begins", "slow ends", "quick begins", "quick ends", "middling begins", "middling ends"];
        assert_eq!(journal.read(), expected);
    }

    /// A task that fails, panics or hangs stops no other task, and is counted once.
    #[tokio::test(start_paused = true)]
    async fn goes_on_after_failures() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        set.add(journal.task("first"));
        set.add(async { Err::<(), _>("no such mailbox") });
        set.add(journal.task("second"));
        set.add(async { panic!("a bug") });
        set.add(journal.task("third"));
        set.add(Task::new(std::future::pending::<()>()).timeout(Duration::from_secs(5)));
        set.add(Task::blocking(|| -> Result<(), std::io::Error> { Err(std::io::Error::other("disk full")) }));
        set.add(Task::blocking(|| panic!("another bug")));
        set.add(journal.task("last"));

        let report = set.drain().await;
        assert_eq!(journal.read(), ["first", "second", "third", "last"]);
        let counts = (report.completed, report.failed, report.panicked, report.timed_out, report.total());
        assert_eq!(counts, (4, 2, 2, 1, 9));
        let m = registry.metrics();
        assert_eq!((m.completed, m.failed, m.panicked, m.timed_out), (4, 2, 2, 1));
        assert_conserved(&registry, 9);
    }

    #[tokio::test]
    async fn goes_on_after_panic_in_drop() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        // Dropped with its future, in mid-flight, when the task is aborted.
        let bomb = Bomb;
        let hanging = set.add(async move {
            let _bomb = bomb;
            std::future::pending::<()>().await;
        });
        // Captured, and dropped with the rest of the future after its end.
        let bomb = Bomb;
        set.add(std::future::poll_fn(move |_| {
            let _captured = &bomb;
            std::task::Poll::Ready(())
        }));
        // A payload that panics in turn when the panic has been caught.
        set.add(async { std::panic::panic_any(Bomb) });
        set.add(journal.task("last"));
        let drained = set.drain();
        tokio::task::yield_now().await;
        assert!(registry.abort(hanging));
        let report = drained.await;
        assert_eq!((report.aborted, report.panicked, report.completed), (1, 2, 1));
        assert_eq!(journal.read(), ["last"]);
        registry.wait_idle().await;
        assert_conserved(&registry, 4);
    }

    /// The end of a task is visible while the next task of its set runs.
    #[tokio::test]
    async fn each_end_is_visible_at_once() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let ids: Vec<_> = (0..40).map(|_| set.add(async {})).collect();
        let (open, opened) = oneshot::channel::<()>();
        set.add(async { opened.await.unwrap() });
        let drained = set.drain();
        until(|| registry.tasks().iter().any(|task| task.state == TaskState::Running)).await;
        assert!(ids.iter().all(|id| registry.get(*id).is_some_and(|task| task.label() == "completed")));
        assert_eq!(registry.history().len(), 40);
        let metrics = registry.metrics();
        assert_eq!((metrics.added, metrics.completed, metrics.running, metrics.pending), (41, 40, 1, 0));
        open.send(()).unwrap();
        assert_eq!(drained.await.completed, 41);
    }

    #[tokio::test]
    async fn starts_when_last_handle_is_dropped() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let clone = set.clone();
        set.add(journal.task("ran"));
        drop(set);
        tokio::task::yield_now().await;
        assert_eq!(registry.metrics().pending, 1, "a handle is left");
        drop(clone);
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["ran"]);
    }

    #[tokio::test]
    async fn of_empty_set_reports_nothing() {
        let registry = TaskRegistry::new();
        let report = registry.set().drain().await;
        assert_eq!(report.total(), 0);
        assert!(report.is_success());
        drop(registry.set());
        assert_conserved(&registry, 0);
    }

    #[tokio::test]
    async fn yields_to_other_tasks() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let ran = Arc::new(AtomicUsize::new(0));
        for _ in 0..100_000 {
            let ran = ran.clone();
            set.add(async move {
                ran.fetch_add(1, Ordering::Relaxed);
            });
        }
        let drained = set.drain();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let seen = ran.load(Ordering::Relaxed);
        assert!(seen > 0 && seen < 100_000, "another task of the thread gets its turn: {seen}");
        assert_eq!(drained.await.completed, 100_000);
        assert_conserved(&registry, 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_hook_on_another_thread() {
        let (at_work, is_at_work) = std::sync::mpsc::channel();
        let (finish, may_finish) = std::sync::mpsc::channel::<()>();
        let may_finish = Mutex::new(may_finish);
        let hook = move |_: &TaskReport| {
            at_work.send(()).unwrap();
            may_finish.lock().unwrap().recv().unwrap();
        };
        let registry = TaskRegistry::builder().on_failure(hook).build().unwrap();
        let set = registry.set();
        let away = set.add(Task::new(async {}).delay(Duration::from_secs(3600)));
        let (open, opened) = oneshot::channel::<()>();
        set.add(async { opened.await.unwrap() });
        let mut drained = set.drain();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let aborting = registry.clone();
        let thread = std::thread::spawn(move || aborting.abort(away));
        is_at_work.recv().unwrap();
        open.send(()).unwrap();
        let too_early = tokio::time::timeout(Duration::from_secs(1), &mut drained).await;
        assert!(too_early.is_err(), "the hook is at work");
        finish.send(()).unwrap();
        thread.join().unwrap();
        let report = drained.await;
        assert_eq!((report.completed, report.aborted), (1, 1));
    }
}

mod clear {
    use super::*;

    #[tokio::test]
    async fn discards_pending_tasks() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let handle = set.clone();
        let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        set.add(journal.task("first"));
        let (has_started, may_go, noted) = (started.clone(), go.clone(), journal.clone());
        set.add(async move {
            has_started.notify_one();
            may_go.notified().await;
            noted.note("second");
        });
        set.add(journal.task("never"));
        set.add(journal.task("never"));
        let drained = set.drain();
        started.notified().await;
        assert_eq!(handle.len(), 2);
        assert_eq!(handle.clear(), 2);
        assert!(handle.is_empty());
        go.notify_one();
        let report = drained.await;
        assert_eq!((report.completed, report.discarded), (2, 2));
        assert_eq!(journal.read(), ["first", "second"]);

        handle.add(journal.task("after"));
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["first", "second", "after"]);
        assert_conserved(&registry, 5);
    }

    #[tokio::test]
    async fn before_drain_leaves_nothing() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        set.add(async {});
        set.add(async {});
        assert_eq!(registry.metrics().open_sets, 1);
        assert_eq!(set.clear(), 2);
        assert_eq!(registry.metrics().open_sets, 0);
        registry.wait_idle().await;
        drop(set);
        assert_eq!(registry.metrics().discarded, 2);
        assert_conserved(&registry, 2);
    }
}

mod stop_on_failure {
    use super::*;

    #[tokio::test]
    async fn discards_rest_and_later_adds() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        set.stop_on_failure();
        set.add(journal.task("first"));
        set.add(async { Err::<(), _>("stop here") });
        set.add(journal.task("never"));
        set.add(journal.task("never"));
        let late = set.clone();
        let report = set.drain().await;
        assert_eq!((report.completed, report.failed, report.discarded), (1, 1, 2));

        assert_eq!(late.try_add(async {}).unwrap_err().reason(), RejectReason::PreviousFailed);
        late.add(journal.task("never"));
        assert_eq!(registry.metrics().discarded, 3);
        assert_eq!(journal.read(), ["first"]);
        assert_conserved(&registry, 5);
    }

    #[tokio::test]
    async fn is_not_triggered_by_abort_of_pending_task() {
        let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
        let (release, held) = oneshot::channel::<()>();
        registry.spawn(async { held.await.map_err(|_| "gone") });
        tokio::task::yield_now().await;
        let set = registry.set();
        set.stop_on_failure();
        let head = set.add(async {});
        set.add(async {});
        let drained = set.drain();
        tokio::task::yield_now().await;
        assert!(registry.abort(head));
        release.send(()).unwrap();
        let report = drained.await;
        assert_eq!((report.aborted, report.completed), (1, 1));
    }

    /// The next task waits until a retried task has its outcome.
    #[tokio::test(start_paused = true)]
    async fn waits_for_last_attempt() {
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
    async fn waits_for_delayed_task() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        set.stop_on_failure();
        set.add(Task::new(journal.task("delayed")).delay(10 * SECOND));
        set.add(journal.task("next"));
        set.drain().await;
        assert_eq!(journal.read(), ["delayed", "next"]);
    }

    /// A retried task that fails stops the set, even if `stop_on_failure` was called between its attempts.
    #[tokio::test(start_paused = true)]
    async fn applies_to_retried_task() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let id = set.add(never());
        let waiting = set.clone().drain();
        until_retrying(&registry, id).await;
        set.stop_on_failure();
        let (open, opened) = oneshot::channel::<()>();
        set.add(async { opened.await.unwrap() });
        set.add(journal.task("stopped"));
        tokio::time::sleep(10 * SECOND).await;
        open.send(()).unwrap();
        let report = waiting.await;
        assert_eq!((report.failed, report.completed, report.discarded), (1, 1, 1));
        assert!(journal.read().is_empty());
    }

    /// Also if the task was waiting when `stop_on_failure` was called.
    #[tokio::test(start_paused = true)]
    async fn discards_delayed_task() {
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
}

mod run_after {
    use super::*;

    #[tokio::test]
    async fn drains_although_a_handle_is_left() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let kept = set.clone();
        let inner = journal.clone();
        let answer = set
            .run_after(async move {
                assert!(TaskSet::current().is_some());
                after(inner.task("task")).unwrap();
                tokio::task::yield_now().await;
                inner.note("answer");
                7
            })
            .await;
        assert_eq!(answer, 7);
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["answer", "task"]);
        assert!(TaskSet::current().is_none());
        drop(kept);
    }

    #[tokio::test]
    async fn drains_when_dropped_or_panicking() {
        let registry = TaskRegistry::new();
        let mut given_up = Box::pin(registry.set().run_after(async {
            after(async {}).unwrap();
            std::future::pending::<()>().await;
        }));
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(given_up);
        registry.wait_idle().await;
        assert_eq!(registry.metrics().completed, 1);

        let panicking = registry.set().run_after(async {
            after(async {}).unwrap();
            panic!("in the handler");
        });
        assert!(tokio::spawn(panicking).await.unwrap_err().is_panic());
        registry.wait_idle().await;
        assert_eq!(registry.metrics().completed, 2);
    }
}
