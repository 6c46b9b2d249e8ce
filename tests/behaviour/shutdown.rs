//! The end of a registry.

use std::{
    future::pending,
    sync::{Arc, Mutex, OnceLock, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use postlude::{
    DiscardReason, Outcome, RejectReason, ShutdownReport, Task, TaskRegistry, TaskReport, TaskState, after,
    cancellation,
};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use crate::support::{Journal, SECOND, assert_conserved, until};

/// Later adds are rejected.
#[tokio::test(start_paused = true)]
async fn of_idle_registry_returns_at_once() {
    let registry = TaskRegistry::new();
    let start = Instant::now();
    let report = registry.shutdown(60 * SECOND).await;
    assert!(report.is_clean());
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(report.completed, 0);

    let set = registry.set();
    assert_eq!(set.try_add(async {}).unwrap_err().reason(), RejectReason::Closed);
    let rejected = registry.try_spawn(Task::new(async {}).named("mail")).unwrap_err();
    assert_eq!((rejected.reason(), rejected.into_task().name().as_str()), (RejectReason::Closed, "mail"));
    assert_conserved(&registry, 0);

    set.add(async {});
    assert!(matches!(registry.spawn(async {}).await, Outcome::Discarded(DiscardReason::Closed)));
    assert_eq!(registry.metrics().discarded, 2);
    assert_conserved(&registry, 2);
}

#[tokio::test(start_paused = true)]
async fn waits_for_work_and_its_adds() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let (noted, inner) = (journal.clone(), registry.clone());
    let set = registry.set();
    set.add(async move {
        sleep(SECOND).await;
        let spawned = noted.clone();
        inner.spawn(async move {
            sleep(2 * SECOND).await;
            spawned.note("spawned by a task");
        });
        after(noted.task("added by a task")).unwrap();
    });
    set.drain();
    let start = Instant::now();
    let report = registry.shutdown(60 * SECOND).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.completed, 3);
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(journal.read(), ["added by a task", "spawned by a task"]);
}

#[tokio::test(start_paused = true)]
async fn waits_for_open_set() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    let handler = tokio::spawn(set.run_after(async {
        after(async {}).unwrap();
        sleep(SECOND).await;
        after(async {}).unwrap();
    }));
    tokio::task::yield_now().await;
    assert_eq!(registry.metrics().open_sets, 1);
    let report = registry.shutdown(60 * SECOND).await;
    assert!(report.is_clean());
    assert_eq!(report.completed, 2);
    handler.await.unwrap();
}

#[tokio::test]
async fn of_cleared_task_is_clean() {
    let registry = TaskRegistry::new();
    let (go, may_go) = oneshot::channel::<()>();
    registry.spawn(async { may_go.await.map_err(|_| "gone") });
    let mut shutdown = Box::pin(registry.shutdown(60 * SECOND));
    assert!(futures::poll!(&mut shutdown).is_pending());
    let set = registry.set();
    set.add(async {});
    set.clear();
    go.send(()).unwrap();
    let report = shutdown.await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn waits_for_spawn_of_hook() {
    let (journal, own) = (Journal::default(), Arc::new(OnceLock::<TaskRegistry>::new()));
    let (noted, its) = (journal.clone(), Arc::clone(&own));
    let hook = move |_: &TaskReport| {
        let noted = noted.clone();
        its.get().unwrap().spawn(async move {
            sleep(10 * SECOND).await;
            noted.note("added meanwhile");
        });
    };
    let registry = TaskRegistry::builder().on_failure(hook).build().unwrap();
    own.set(registry.clone()).unwrap();
    registry.spawn(Task::new(async {}).delay(3600 * SECOND));
    sleep(SECOND).await;
    let report = registry.shutdown(60 * SECOND).await;
    assert_eq!((report.completed, report.discarded.len()), (1, 1), "{report}");
    assert_eq!(journal.read(), ["added meanwhile"]);
}

#[tokio::test(start_paused = true)]
async fn twice_reports_the_same() {
    let registry = TaskRegistry::new();
    registry.spawn(Task::new(pending::<()>()).named("deaf"));
    tokio::task::yield_now().await;
    let (one, two) = tokio::join!(registry.shutdown(SECOND), registry.shutdown(2 * SECOND));
    let three = registry.shutdown(SECOND).await;
    for report in [one, two, three] {
        assert_eq!(report.aborted.len(), 1, "{report}");
    }
    assert_conserved(&registry, 1);
}

#[tokio::test(start_paused = true)]
async fn dropped_is_resumed_by_next() {
    let registry = TaskRegistry::new();
    registry.spawn(async { sleep(10 * SECOND).await });
    assert!(timeout(SECOND, registry.shutdown(60 * SECOND)).await.is_err());
    assert!(registry.try_spawn(async {}).is_ok(), "everything goes on");
    let report = registry.shutdown(60 * SECOND).await;
    assert!(report.is_clean());
    assert_eq!(report.completed, 2);
}

#[tokio::test]
async fn in_a_task_returns() {
    let registry = TaskRegistry::builder().settle(Duration::from_millis(1)).build().unwrap();
    let inner = registry.clone();
    let handle = registry.spawn(async move {
        inner.shutdown(Duration::from_millis(1)).await;
    });
    assert!(matches!(handle.await, Outcome::Aborted));
    assert_conserved(&registry, 1);
}

#[test]
fn on_another_runtime() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let registry =
        TaskRegistry::builder().settle(Duration::from_millis(1)).handle(runtime.handle().clone()).build().unwrap();
    let open = registry.set();
    open.add(async {});
    drop(runtime);
    let other = Builder::new_current_thread().enable_all().build().unwrap();
    let report = other.block_on(registry.shutdown(Duration::from_millis(1)));
    assert_eq!(report.discarded.len(), 1);
    drop(open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_adds_run_or_are_rejected() {
    for _ in 0..100 {
        let registry = TaskRegistry::new();
        let (ran, refused) = (Journal::default(), Journal::default());
        let adders: Vec<_> = (0..4)
            .map(|_| {
                let (registry, ran, refused) = (registry.clone(), ran.clone(), refused.clone());
                tokio::spawn(async move {
                    for _ in 0..50 {
                        match registry.try_spawn(ran.task("ran")) {
                            Ok(_) => tokio::task::yield_now().await,
                            Err(rejected) => refused.note(rejected.to_string()),
                        }
                    }
                })
            })
            .collect();
        let report = registry.shutdown(10 * SECOND).await;
        assert!(report.is_clean());
        let at_close = registry.metrics();
        for adder in adders {
            adder.await.unwrap();
        }
        assert_eq!(registry.metrics().added, at_close.added, "nothing is accepted after the close");
        assert_eq!(ran.read().len() + refused.read().len(), 200);
        assert_conserved(&registry, ran.read().len() as u64);
    }
}

mod grace {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_followed_by_cancel_and_abort() {
        let registry = TaskRegistry::builder().settle(2 * SECOND).build().unwrap();
        let (cancelled, was_cancelled) = oneshot::channel();
        registry.spawn(
            Task::new(async {
                cancellation().cancelled().await;
                cancelled.send(()).map_err(|()| "nobody listens")
            })
            .named("listens"),
        );
        registry.spawn(Task::new(pending::<()>()).named("deaf"));
        let set = registry.set();
        set.add(Task::new(pending::<()>()).named("head"));
        set.add(Task::new(async {}).named("behind"));
        set.drain();

        let start = Instant::now();
        let report = registry.shutdown(10 * SECOND).await;
        let took = start.elapsed();
        assert!(took >= 10 * SECOND && took <= 12 * SECOND, "{took:?}");
        was_cancelled.await.unwrap();
        assert_eq!(report.completed, 1);
        let names = |tasks: &[postlude::TaskInfo]| {
            let mut names: Vec<_> = tasks.iter().map(|task| (task.name.as_str(), task.state)).collect();
            names.sort_unstable_by_key(|(name, _)| *name);
            names
        };
        assert_eq!(names(&report.aborted), [("deaf", TaskState::Running), ("head", TaskState::Running)]);
        assert_eq!(names(&report.discarded), [("behind", TaskState::Pending)]);
        assert!(report.stuck.is_empty());
        assert!(report.aborted.iter().all(|task| task.age.as_secs() >= 10 && task.location.file() == file!()));
        let text = report.to_string();
        assert!(text.contains("1 completed, 0 failed, 2 aborted, 1 discarded, 0 stuck"), "{text}");
        assert!(text.contains("`deaf`") && text.contains(file!()), "{text}");
        assert_conserved(&registry, 4);
    }

    /// The earliest deadline of all calls holds.
    #[tokio::test(start_paused = true)]
    async fn is_not_extended_by_another_call() {
        let shut_down_later = async |seconds: u32, registry: TaskRegistry| {
            let start = Instant::now();
            let report = registry.shutdown(seconds * SECOND).await;
            assert_eq!(report.aborted.len(), 1, "{report}");
            start.elapsed().as_secs()
        };
        let registry = || {
            let registry = TaskRegistry::builder().settle(Duration::ZERO).build().unwrap();
            registry.spawn(pending::<()>());
            registry
        };
        // The one before was dropped: 5 s from its begin, of which one has passed, and then all.
        for (dropped_after, left) in [(1, 4), (10, 0)] {
            let registry = registry();
            let mut before = Box::pin(registry.shutdown(5 * SECOND));
            assert!(timeout(Duration::from_millis(1), &mut before).await.is_err());
            drop(before);
            sleep(dropped_after * SECOND - Duration::from_millis(1)).await;
            assert_eq!(shut_down_later(60, registry).await, left);
        }
        // One comes while another waits: it stays, or is dropped at once.
        for waits in [60 * SECOND, Duration::ZERO] {
            let registry = registry();
            let late = tokio::spawn(shut_down_later(60, registry.clone()));
            sleep(SECOND).await;
            assert_eq!(timeout(waits, registry.shutdown(5 * SECOND)).await.is_ok(), !waits.is_zero());
            assert_eq!(late.await.unwrap(), 6);
        }
    }

    /// A deadline is on the clock of the registry's runtime, which is ahead of its caller's here.
    #[test]
    fn of_a_caller_on_another_clock_is_not_over_early() {
        let own = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let registry = TaskRegistry::builder().handle(own.handle().clone()).build().unwrap();
        own.block_on(async {
            tokio::time::advance(1000 * SECOND).await;
            registry.spawn(sleep(100 * SECOND));
        });
        let other = Builder::new_current_thread().enable_all().build().unwrap();
        other.block_on(async { timeout(Duration::ZERO, registry.shutdown(500 * SECOND)).await.unwrap_err() });
        let report = own.block_on(registry.shutdown(1000 * SECOND));
        assert_eq!(report.completed, 1, "{report}");
    }

    #[tokio::test(start_paused = true)]
    async fn may_be_endless() {
        let registry = TaskRegistry::new();
        registry.spawn(async { sleep(1000 * SECOND).await });
        let report = registry.shutdown(Duration::MAX).await;
        assert!(report.is_clean());
        assert_eq!(report.completed, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn is_not_waited_for_by_late_task() {
        for grace in [Duration::from_millis(200), 60 * SECOND, Duration::MAX] {
            let registry = TaskRegistry::new();
            registry.spawn(Task::new(async {}).delay(Duration::MAX));
            sleep(SECOND).await;
            let start = Instant::now();
            let report = registry.shutdown(grace).await;
            assert_eq!((report.discarded.len(), start.elapsed()), (1, Duration::ZERO), "{grace:?}");
        }
    }
}

mod settle {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_zero_aborts_at_once() {
        let registry = TaskRegistry::builder().settle(Duration::ZERO).build().unwrap();
        registry.spawn(pending::<()>());
        tokio::task::yield_now().await;
        let report = registry.shutdown(Duration::ZERO).await;
        assert_eq!(report.aborted.len(), 1);
    }

    #[test]
    fn reports_stuck_work() {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let report = runtime.block_on(async {
            let registry = TaskRegistry::builder().settle(Duration::from_millis(20)).build().unwrap();
            let (started, both_started) = mpsc::channel();
            let hang = || {
                let (held, started) = (held.clone(), started.clone());
                move || {
                    started.send(()).unwrap();
                    held.lock().unwrap().recv().unwrap_err();
                }
            };
            registry.spawn(Task::blocking(hang()).named("closure"));
            let never_yields = hang();
            registry.spawn(Task::new(async move { never_yields() }).named("future"));
            let registry = tokio::task::spawn_blocking(move || {
                both_started.recv().unwrap();
                both_started.recv().unwrap();
                registry
            })
            .await
            .unwrap();
            let report = registry.shutdown(Duration::from_millis(10)).await;
            assert_conserved(&registry, 2);
            until(|| registry.metrics().stuck == 2).await;
            report
        });
        let mut stuck: Vec<_> = report.stuck.iter().map(|task| (task.name.as_str(), task.state)).collect();
        stuck.sort_unstable_by_key(|(name, _)| *name);
        assert_eq!(stuck, [("closure", TaskState::Stuck), ("future", TaskState::Stuck)]);
        assert_eq!(report.aborted.len(), 2);
        drop(release);
        runtime.shutdown_timeout(10 * SECOND);
    }
}

mod on_failure {
    use super::*;

    /// A task that another thread has aborted, and whose failure hook, still at work there, will end with a spawn.
    struct AtWork {
        registry: TaskRegistry,
        journal: Journal,
        finish: mpsc::Sender<()>,
        thread: JoinHandle<()>,
    }

    impl AtWork {
        fn begin() -> Self {
            let journal = Journal::default();
            let (at_work, is_at_work) = mpsc::channel();
            let (finish, may_finish) = mpsc::channel();
            let (own, may_finish) = (Arc::new(OnceLock::<TaskRegistry>::new()), Mutex::new(may_finish));
            let (its, noted) = (Arc::clone(&own), journal.clone());
            let hook = move |report: &TaskReport| {
                if report.name == "aborted" {
                    at_work.send(()).unwrap();
                    may_finish.lock().unwrap().recv().unwrap();
                    its.get().unwrap().spawn(noted.task("spawned by the hook"));
                }
            };
            let registry = TaskRegistry::builder().on_failure(hook).build().unwrap();
            own.set(registry.clone()).unwrap();
            let handle = registry.spawn(Task::new(pending::<()>()).named("aborted"));
            let runtime = Handle::current();
            let thread = thread::spawn(move || {
                let _entered = runtime.enter();
                handle.abort();
            });
            is_at_work.recv().unwrap();
            Self { registry, journal, finish, thread }
        }

        /// The shutdown waits, and goes on when the hook has returned.
        async fn see_it_waited_for(self) -> ShutdownReport {
            let mut shutdown = Box::pin(self.registry.shutdown(60 * SECOND));
            assert!(timeout(10 * SECOND, &mut shutdown).await.is_err(), "the hook is at work");
            self.finish.send(()).unwrap();
            self.thread.join().unwrap();
            let report = shutdown.await;
            assert_eq!(self.journal.read(), ["spawned by the hook"]);
            report
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hook_is_waited_for() {
        let report = AtWork::begin().see_it_waited_for().await;
        assert_eq!((report.completed, report.discarded.len()), (1, 0), "{report}");
    }

    #[tokio::test(start_paused = true)]
    async fn hook_is_waited_for_after_late_task() {
        let at_work = AtWork::begin();
        at_work.registry.spawn(Task::new(async {}).delay(3600 * SECOND).named("delayed"));
        let report = at_work.see_it_waited_for().await;
        assert_eq!((report.completed, report.discarded.len()), (1, 1), "{report}");
    }
}

mod report {
    use super::*;

    #[tokio::test]
    async fn names_first_discarded_tasks() {
        let registry = TaskRegistry::builder().capacity(1).history(0).build().unwrap();
        let (open, opened) = oneshot::channel::<()>();
        registry.spawn(async { opened.await.unwrap() });
        let shutting = {
            let registry = registry.clone();
            tokio::spawn(async move { registry.shutdown(60 * SECOND).await })
        };
        tokio::task::yield_now().await;
        for _ in 0..10_003 {
            registry.spawn(async {});
        }
        open.send(()).unwrap();
        let report = shutting.await.unwrap();
        assert_eq!((report.completed, report.discarded.len(), report.unnamed), (1, 10_000, 3));
        assert!(report.to_string().ends_with("and 3 more"));
    }
}

mod shutdown_guard {
    use super::*;

    /// The guard holds up the return of the shutdown, and not the close of the registry.
    #[tokio::test(start_paused = true)]
    async fn is_waited_for_after_the_tasks() {
        let registry = TaskRegistry::new();
        let guard = registry.shutdown_guard();
        let mut shutdown = Box::pin(registry.shutdown(60 * SECOND));
        assert!(timeout(SECOND / 2, &mut shutdown).await.is_err());
        assert!(registry.is_closed());
        drop(guard);
        assert!(shutdown.await.is_clean());
    }

    #[tokio::test(start_paused = true)]
    async fn is_waited_for_during_the_settle_time_only() {
        let registry = TaskRegistry::builder().settle(3 * SECOND).build().unwrap();
        let _guards = [registry.shutdown_guard(), registry.shutdown_guard()];
        let start = Instant::now();
        registry.shutdown(60 * SECOND).await;
        assert_eq!(start.elapsed(), 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn knows_when_a_shutdown_begins() {
        let registry = TaskRegistry::new();
        let guard = registry.shutdown_guard();
        assert!(timeout(SECOND, guard.shutdown_started()).await.is_err());
        registry.spawn(pending::<()>());
        let begun = async {
            guard.shutdown_started().await;
            assert!(!registry.is_closed(), "a task is live");
            drop(guard);
        };
        tokio::join!(registry.shutdown(SECOND), begun);
    }
}
