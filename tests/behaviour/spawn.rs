//! Fire and forget: a spawned task, its handle, and what the registry knows of it.

use std::{future::pending, time::Duration};

use postlude::{Outcome, RejectReason, Task, TaskId, TaskRegistry, TaskState, after, cancellation};
use tokio::sync::oneshot;

use crate::support::assert_conserved;

#[tokio::test]
async fn a_spawned_task_is_listed_while_it_lives_and_gone_when_it_is_done() {
    let registry = TaskRegistry::new();
    let (go, may_go) = oneshot::channel::<()>();
    let handle = registry.spawn(Task::new(async { may_go.await.map_err(|_| "gone") }).named("mail"));
    assert_eq!(registry.tasks()[0].state, TaskState::Pending);
    tokio::task::yield_now().await;

    let listed = registry.tasks();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].id, listed[0].name.as_str(), listed[0].state), (handle.id(), "mail", TaskState::Running));
    assert_eq!((listed[0].set, listed[0].location.file()), (None, file!()));
    assert!(!handle.is_finished());

    go.send(()).unwrap();
    assert!(matches!(handle.await, Outcome::Completed));
    assert!(registry.tasks().is_empty());
    assert_conserved(&registry, 1);
}

#[tokio::test]
async fn the_tasks_of_a_set_are_listed_with_their_set_in_their_order() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    let first = set.add(Task::new(pending::<()>()).named("first"));
    let second = set.add(Task::new(async {}).named("second"));
    assert_eq!(first.set(), second.set());
    assert_eq!(format!("{first}"), format!("{}.1", first.set().unwrap()));
    assert_eq!(format!("{second}").parse::<TaskId>().unwrap(), second);

    let _drained = set.drain();
    tokio::task::yield_now().await;
    let listed: Vec<_> = registry.tasks().iter().map(|task| (task.name.as_str(), task.state, task.set)).collect();
    let expected = [("first", TaskState::Running, first.set()), ("second", TaskState::Pending, first.set())];
    assert_eq!(listed, expected);
}

#[test]
fn the_text_of_an_id_is_parsed_strictly() {
    for wrong in ["", "x", "1.", ".1", "1.0", "1.2.3", "-1"] {
        assert!(wrong.parse::<TaskId>().is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_task_without_a_name_is_called_unnamed() {
    let registry = TaskRegistry::new();
    assert_eq!(registry.spawn(async {}).name(), "unnamed");
    assert_eq!(registry.spawn(Task::new(async {}).named("")).name(), "unnamed");
    assert_eq!(registry.spawn(Task::new(async {}).named("mail")).name(), "mail");
    registry.wait_idle().await;
    let metrics = registry.metrics();
    let names: Vec<_> = metrics.by_name().iter().map(|(name, figures)| (name.as_str(), figures.completed)).collect();
    assert_eq!(names, [("mail", 1), ("unnamed", 2)]);
}

#[tokio::test]
async fn dropping_the_handle_and_the_registry_changes_nothing() {
    let (sender, receiver) = oneshot::channel();
    {
        let registry = TaskRegistry::new();
        drop(registry.spawn(async move {
            tokio::task::yield_now().await;
            sender.send(()).map_err(|()| "nobody waits")
        }));
    }
    receiver.await.unwrap();
}

#[tokio::test]
async fn an_awaited_handle_gives_the_outcome_and_gives_it_again() {
    let registry = TaskRegistry::new();
    let mut handle = registry.spawn(async { panic!("a {}", "bug") });
    let Outcome::Panicked(panic) = (&mut handle).await else { panic!("not a panic") };
    assert_eq!(panic.message(), "a bug");
    assert!(handle.is_finished());
    assert!(matches!((&mut handle).await, Outcome::Panicked(_)));
    assert!(matches!(registry.spawn_blocking(|| {}).await, Outcome::Completed));
}

#[tokio::test]
async fn a_waiter_that_gives_up_does_not_stop_the_task() {
    let registry = TaskRegistry::new();
    let (go, may_go) = oneshot::channel::<()>();
    let mut handle = registry.spawn(async { may_go.await.map_err(|_| "gone") });
    assert!(futures::poll!(&mut handle).is_pending());
    go.send(()).unwrap();
    assert!(matches!(handle.await, Outcome::Completed));
}

#[tokio::test]
async fn a_pending_and_a_running_task_can_be_aborted() {
    let registry = TaskRegistry::new();
    let pending_task = registry.spawn(pending::<()>());
    assert!(pending_task.abort());
    assert!(!pending_task.abort(), "it has its outcome");
    assert!(matches!(pending_task.await, Outcome::Aborted));

    let (sender, dropped) = oneshot::channel::<()>();
    let running = registry.spawn(async move {
        let _sender = sender;
        pending::<()>().await;
    });
    tokio::task::yield_now().await;
    assert!(registry.abort(running.id()));
    assert_eq!(registry.metrics().aborted, 2, "counted at once");
    assert!(running.is_finished());
    assert!(dropped.await.is_err(), "its future is dropped");
    assert!(matches!(running.await, Outcome::Aborted));
    tokio::task::yield_now().await;
    assert_eq!(registry.metrics().stuck, 0);
    assert_conserved(&registry, 2);
}

#[tokio::test]
async fn a_pending_and_a_running_task_of_a_set_can_be_aborted_and_the_rest_run() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    let (sender, dropped) = oneshot::channel::<()>();
    let running = set.add(async move {
        let _sender = sender;
        pending::<()>().await;
    });
    let waiting = set.add(async {});
    set.add(async {});
    let drained = set.drain();
    tokio::task::yield_now().await;
    assert!(registry.abort(waiting));
    assert!(registry.abort(running));
    assert!(!registry.abort(running));
    let report = drained.await;
    assert_eq!((report.aborted, report.completed), (2, 1));
    assert!(dropped.await.is_err(), "its future is dropped");
    assert_conserved(&registry, 3);
}

#[tokio::test]
async fn a_task_may_abort_itself() {
    let registry = TaskRegistry::new();
    let (id_sender, id) = oneshot::channel();
    let (sender, after_abort) = oneshot::channel();
    let inner = registry.clone();
    let set = registry.set();
    let own = set.add(async move {
        let id = id.await.unwrap();
        assert!(inner.abort(id));
        sender.send(inner.metrics().aborted).unwrap();
        pending::<()>().await;
    });
    set.add(async {});
    id_sender.send(own).unwrap();
    let report = set.drain().await;
    assert_eq!((report.aborted, report.completed), (1, 1));
    assert_eq!(after_abort.await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_future_that_never_yields_holds_up_neither_its_set_nor_its_handle() {
    let registry = TaskRegistry::new();
    let (started, has_started) = oneshot::channel();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let set = registry.set();
    let id = set.add(async move {
        started.send(()).unwrap();
        // Blocks its worker, as no async task should.
        held.recv().map_err(|_| "released")
    });
    set.add(async {});
    let drained = set.drain();
    has_started.await.unwrap();
    assert!(registry.abort(id));
    let report = drained.await;
    assert_eq!((report.aborted, report.completed), (1, 1));
    assert_eq!(registry.metrics().stuck, 1);
    release.send(()).unwrap();
    while registry.metrics().stuck > 0 {
        tokio::task::yield_now().await;
    }
    assert_conserved(&registry, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handle_of_an_aborted_task_that_never_yields_resolves_at_once() {
    let registry = TaskRegistry::new();
    let (started, has_started) = oneshot::channel();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let handle = registry.spawn(async move {
        started.send(()).unwrap();
        held.recv().map_err(|_| "released")
    });
    has_started.await.unwrap();
    let id = handle.id();
    let waiter = tokio::spawn(handle);
    assert!(registry.abort(id));
    assert!(matches!(waiter.await.unwrap(), Outcome::Aborted));
    while registry.metrics().stuck == 0 {
        tokio::task::yield_now().await;
    }
    drop(release);
}

#[tokio::test]
async fn an_aborted_or_timed_out_closure_learns_it_from_its_token_and_its_set_goes_on() {
    let registry = TaskRegistry::new();
    for by_timeout in [true, false] {
        let (started, has_started) = oneshot::channel();
        let (ended, has_ended) = oneshot::channel();
        let closure = Task::blocking(move || {
            let token = cancellation();
            started.send(()).unwrap();
            while !token.is_cancelled() {
                std::thread::yield_now();
            }
            ended.send(()).unwrap();
        });
        let set = registry.set();
        let id = set.add(if by_timeout { closure.timeout(Duration::from_millis(5)) } else { closure });
        set.add(async {});
        let drained = set.drain();
        has_started.await.unwrap();
        if !by_timeout {
            assert!(registry.abort(id));
        }
        let report = drained.await;
        assert_eq!((report.timed_out + report.aborted, report.completed), (1, 1));
        has_ended.await.unwrap();
    }
    while registry.metrics().stuck > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_async_task_that_times_out_is_dropped_and_its_token_is_cancelled() {
    let registry = TaskRegistry::new();
    let (sender, token) = oneshot::channel();
    let handle = registry.spawn(
        Task::new(async move {
            sender.send(cancellation()).unwrap();
            pending::<()>().await;
        })
        .timeout(Duration::from_secs(30)),
    );
    let token = token.await.unwrap();
    assert!(!token.is_cancelled());
    assert!(matches!(handle.await, Outcome::TimedOut(limit) if limit == Duration::from_secs(30)));
    assert!(token.is_cancelled());
}

#[tokio::test]
async fn outside_a_task_the_cancellation_token_is_nobodys() {
    let registry = TaskRegistry::new();
    let token = cancellation();
    registry.shutdown(Duration::ZERO).await;
    assert!(!token.is_cancelled());
    assert!(registry.cancellation_token().is_cancelled());
}

#[tokio::test]
async fn cancelling_the_token_that_a_registry_gives_out_cancels_no_task() {
    let registry = TaskRegistry::new();
    let (sender, token) = oneshot::channel();
    registry.spawn(async move {
        sender.send(cancellation()).unwrap();
        pending::<()>().await;
    });
    registry.cancellation_token().cancel();
    assert!(!token.await.unwrap().is_cancelled());
}

#[tokio::test]
async fn after_gives_the_task_back_where_no_set_is_current() {
    let registry = TaskRegistry::new();
    assert_eq!(after(async {}).unwrap_err().reason(), RejectReason::NoSet);
    let (sender, reason) = oneshot::channel();
    registry.spawn(async move { sender.send(after(Task::new(async {}).named("kept"))).unwrap() });
    let rejected = reason.await.unwrap().unwrap_err();
    assert_eq!(rejected.reason(), RejectReason::NoSet);
    assert!(rejected.to_string().contains("`kept`"), "{rejected}");
    assert!(rejected.to_string().contains("TaskLayer"), "{rejected}");

    let handle = registry.spawn(rejected.into_task());
    assert!(matches!(handle.await, Outcome::Completed));
}

#[tokio::test(start_paused = true)]
async fn figures_count_the_time_of_attempts_and_not_the_wait() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    for seconds in [1, 3] {
        let nap = async move { tokio::time::sleep(Duration::from_secs(seconds)).await };
        registry.spawn(Task::new(nap).named("nap"));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let metrics = registry.metrics();
    assert_eq!((metrics.running, metrics.pending), (1, 1));
    assert_eq!(metrics.oldest_pending, Duration::from_millis(500));
    registry.wait_idle().await;
    let metrics = registry.metrics();
    // The timer's granularity is a millisecond.
    let near = |duration: Duration, seconds: u64| duration.abs_diff(Duration::from_secs(seconds)).as_millis() < 5;
    assert!(near(metrics.total_time, 4), "{:?}", metrics.total_time);
    assert!(near(metrics.average_duration(), 2));
    assert_eq!(metrics.oldest_pending, Duration::ZERO);
    for (q, seconds) in [(0.0, 1.0), (0.5, 1.0), (1.0, 3.0), (7.0, 3.0)] {
        let quantile = metrics.quantile(q).as_secs_f64();
        assert!((seconds..seconds * 1.07).contains(&quantile), "{q}: {quantile}");
        assert_eq!(metrics.by_name()["nap"].quantile(q), metrics.quantile(q));
    }
    assert_eq!(metrics.failure_rate(), 0.0);
}
