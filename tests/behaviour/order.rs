//! In what order the tasks of a set run, and that nothing stops them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use postlude::{DiscardReason, Outcome, RejectReason, Task, TaskRegistry, TaskReport, TaskSet, TaskState, after};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::support::{Journal, assert_conserved};

#[tokio::test]
async fn an_async_task_runs() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    set.add(journal.task("ran"));
    assert_eq!(set.drain().await.completed, 1);
    assert_eq!(journal.read(), ["ran"]);
    assert_conserved(&registry, 1);
}

#[tokio::test]
async fn an_add_to_a_set_that_was_cleared_before_its_drain_began_keeps_the_registry_from_being_idle() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    set.add(async {});
    let drained = set.clone().drain();
    assert_eq!(set.clear(), 1);
    let (open, opened) = oneshot::channel::<()>();
    set.add(async { opened.await.unwrap() });
    set.add(async {});
    assert!(registry.wait_idle().now_or_never().is_none(), "two tasks are pending");
    assert_eq!(registry.metrics().pending, 2);
    open.send(()).unwrap();
    registry.wait_idle().await;
    drained.await;
    assert_conserved(&registry, 3);
}

#[tokio::test]
async fn the_end_of_a_task_is_seen_at_once_while_the_next_one_of_its_set_runs() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    let ids: Vec<_> = (0..40).map(|_| set.add(async {})).collect();
    let (open, opened) = oneshot::channel::<()>();
    set.add(async { opened.await.unwrap() });
    let drained = set.drain();
    while !registry.tasks().iter().any(|task| task.state == TaskState::Running) {
        tokio::task::yield_now().await;
    }
    assert!(ids.iter().all(|id| registry.get(*id).is_some_and(|task| task.label() == "completed")));
    assert_eq!(registry.history().len(), 40);
    let metrics = registry.metrics();
    assert_eq!((metrics.added, metrics.completed, metrics.running, metrics.pending), (41, 40, 1, 0));
    open.send(()).unwrap();
    assert_eq!(drained.await.completed, 41);
}

#[tokio::test]
async fn a_blocking_task_runs_on_another_thread() {
    let registry = TaskRegistry::new();
    let here = std::thread::current().id();
    let (sender, receiver) = oneshot::channel();
    registry.set().add_blocking(move || sender.send(std::thread::current().id()).unwrap());
    assert_ne!(receiver.await.unwrap(), here);
    registry.wait_idle().await;
    assert_eq!(registry.metrics().completed, 1);
}

#[tokio::test(start_paused = true)]
async fn tasks_run_in_order_and_never_overlap() {
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

#[tokio::test]
async fn async_and_blocking_tasks_of_a_set_share_one_order() {
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

#[tokio::test(start_paused = true)]
async fn tasks_that_fail_panic_or_hang_do_not_stop_the_others_and_are_counted_once() {
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

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[tokio::test]
async fn a_panic_in_the_drop_of_a_task_stops_nothing() {
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

#[tokio::test]
async fn a_set_that_stops_on_failure_discards_the_rest_and_what_comes_later() {
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
async fn a_task_adds_to_its_own_set_while_it_drains() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    let inner = journal.clone();
    set.add(async move {
        inner.note("first");
        after(inner.task("added")).unwrap();
        inner.note("first ends");
    });
    set.add(journal.task("second"));
    set.drain().await;
    assert_eq!(journal.read(), ["first", "first ends", "second", "added"]);
}

#[tokio::test]
async fn a_blocking_task_adds_to_its_own_set_while_it_drains() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    let inner = journal.clone();
    set.add_blocking(move || after(inner.task("added")).map(drop));
    set.drain().await;
    assert_eq!(journal.read(), ["added"]);
    assert_conserved(&registry, 2);
}

/// Adds a task that adds a task, down to a depth.
fn descend(journal: Journal, depth: usize) {
    if depth > 0 {
        after(async move {
            journal.note(format!("level {depth}"));
            descend(journal, depth - 1);
        })
        .unwrap();
    }
}

#[tokio::test]
async fn tasks_add_tasks_five_levels_deep() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let inner = journal.clone();
    registry.set().run_after(async move { descend(inner, 5) }).await;
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["level 5", "level 4", "level 3", "level 2", "level 1"]);
    assert_conserved(&registry, 5);
}

#[tokio::test(start_paused = true)]
async fn adds_after_the_drain_run_in_order_and_do_not_overlap() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn adds_that_race_with_the_end_of_a_drain_are_never_lost_and_never_overlap() {
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

#[tokio::test]
async fn clear_takes_back_what_has_not_started() {
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
async fn a_cleared_set_that_was_never_drained_leaves_nothing_behind() {
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

#[tokio::test]
async fn a_set_drains_when_its_last_handle_is_dropped() {
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
async fn run_after_drains_when_the_answer_is_there_although_a_handle_is_left() {
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
async fn run_after_drains_when_it_is_given_up_and_when_it_panics() {
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

#[tokio::test]
async fn an_empty_set_costs_nothing_and_its_report_is_empty() {
    let registry = TaskRegistry::new();
    let report = registry.set().drain().await;
    assert_eq!(report.total(), 0);
    assert!(report.is_success());
    drop(registry.set());
    assert_conserved(&registry, 0);
}

#[tokio::test]
async fn a_set_of_very_many_tasks_drains_without_holding_up_its_thread() {
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

#[tokio::test]
async fn a_panicking_hook_is_caught_and_counted_and_the_set_goes_on() {
    let registry = TaskRegistry::builder().on_failure(|_| panic!("in the hook")).build().unwrap();
    let set = registry.set();
    set.add(async { Err::<(), _>("one") });
    set.add(async {});
    assert_eq!(set.drain().await.completed, 1);
    assert_eq!(registry.metrics().hook_panics, 1);
}

#[tokio::test]
async fn the_failure_hook_sees_every_outcome_but_completed() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let hook = move |report: &TaskReport| {
        sender.send((report.name.as_str(), report.outcome.label(), report.attempt)).unwrap();
    };
    let registry = TaskRegistry::builder().on_failure(hook).build().unwrap();
    let set = registry.set();
    let id = set.add(Task::new(async {}).named("aborted"));
    registry.abort(id);
    set.add(Task::new(async {}).named("fine"));
    set.add(Task::new(async { Err::<(), _>("x") }).named("failing"));
    set.add(Task::new(async { panic!("x") }).named("panicking"));
    set.add(Task::new(std::future::pending::<()>()).timeout(Duration::from_millis(1)).named("hanging"));
    set.drain().await;
    let set = registry.set();
    set.add(Task::new(async {}).named("cleared"));
    set.clear();
    let expected = [
        ("aborted", "aborted", 0),
        ("failing", "failed", 1),
        ("panicking", "panicked", 1),
        ("hanging", "timed_out", 1),
        ("cleared", "discarded", 0),
    ];
    for wanted in expected {
        assert_eq!(seen.recv().await.unwrap(), wanted);
    }
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn an_error_reaches_the_hook_with_its_whole_chain() {
    #[derive(Debug)]
    struct Outer(std::io::Error);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the mail was not sent")
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    let registry = TaskRegistry::new();
    let outcome = registry.spawn(async { Err::<(), _>(Outer(std::io::Error::other("refused"))) }).await;
    assert_eq!(outcome.to_string(), "failed: the mail was not sent: refused");
    let Outcome::Failed(error) = outcome else { panic!("{outcome}") };
    assert!(error.downcast_ref::<Outer>().is_some());
}

#[tokio::test]
async fn a_discarded_task_says_why() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let registry =
        TaskRegistry::builder().on_failure(move |report| sender.send(report.outcome.clone()).unwrap()).build().unwrap();
    let set = registry.set();
    set.add(async {});
    set.clear();
    assert!(matches!(seen.recv().await.unwrap(), Outcome::Discarded(DiscardReason::Cleared)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_over_when_every_end_was_told_also_one_that_another_thread_tells() {
    let (at_work, is_at_work) = std::sync::mpsc::channel();
    let (finish, may_finish) = std::sync::mpsc::channel::<()>();
    let may_finish = std::sync::Mutex::new(may_finish);
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

#[tokio::test]
async fn a_task_that_is_aborted_between_two_turns_of_its_drain_does_not_run() {
    // More than a drain ends in one poll: it yields with the next one started, and not yet polled.
    const TASKS: usize = 100;
    let (registry, runs) = (TaskRegistry::new(), Arc::new(AtomicUsize::new(0)));
    let set = registry.set();
    for _ in 0..TASKS {
        let runs = Arc::clone(&runs);
        set.add(async move {
            runs.fetch_add(1, Ordering::SeqCst);
        });
    }
    let drained = set.drain();
    // Its turn comes after the drain's first, and before its second.
    let aborter = registry.clone();
    let between = tokio::spawn(async move {
        let begun = aborter.tasks().into_iter().find(|task| task.state == TaskState::Running).unwrap();
        assert!(aborter.abort(begun.id));
    });
    between.await.unwrap();
    let report = drained.await;
    assert_eq!((report.completed, report.aborted), (TASKS as u64 - 1, 1));
    while registry.metrics().stuck > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(runs.load(Ordering::SeqCst), TASKS - 1);
    assert_conserved(&registry, TASKS as u64);
}
