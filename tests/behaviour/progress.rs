//! What tasks say of how far they have come.

use std::sync::{Arc, mpsc};

use postlude::{
    RetryPolicy, Task, TaskEvent, TaskId, TaskProgress, TaskRegistry, TaskStatus, after, attempt, progress,
};
use tokio::{sync::Notify, time::sleep};

use crate::support::{Journal, SECOND, assert_conserved, until};

/// The progress of a task, live or ended.
fn of(registry: &TaskRegistry, id: TaskId) -> Option<Arc<TaskProgress>> {
    match registry.get(id)? {
        TaskStatus::Live(info) => info.progress,
        TaskStatus::Ended(report) => report.progress,
        _ => None,
    }
}

fn text(registry: &TaskRegistry, id: TaskId) -> Option<String> {
    of(registry, id).map(|progress| progress.to_string())
}

#[tokio::test(start_paused = true)]
async fn is_in_infos_while_a_task_lives_and_in_reports_after() {
    let registry = TaskRegistry::new();
    let import = || async {
        progress().set(40, 90);
        sleep(10 * SECOND).await;
        progress().message("page 3");
        sleep(10 * SECOND).await;
        progress().set(90, 90).message("done");
    };
    let set = registry.set();
    let ids = [registry.spawn(import()).id(), set.add(import())];
    let silent = set.add(async {});
    let drained = set.drain();
    for (seconds, expected) in [(5, "40 of 90"), (10, "40 of 90, page 3"), (10, "90 of 90, done")] {
        sleep(SECOND * seconds).await;
        for id in ids {
            assert_eq!(text(&registry, id).as_deref(), Some(expected), "{id}");
        }
    }
    drained.await;
    let last = of(&registry, ids[0]).unwrap();
    assert_eq!((last.done, last.total, last.message.as_deref()), (90, 90, Some("done")));
    assert!(registry.history().iter().all(|report| report.progress.is_some() == (report.id != silent)));
    assert_conserved(&registry, 3);
}

#[tokio::test(start_paused = true)]
async fn is_in_lists_and_events() {
    let registry = TaskRegistry::new();
    let mut events = registry.subscribe();
    let handle = registry.spawn(async {
        progress().message("half");
        sleep(SECOND).await;
        Err::<(), _>("fails")
    });
    until(|| registry.tasks()[0].progress.is_some()).await;
    assert!(registry.live_page(None, 1, |task| task.progress.is_some()).items.len() == 1);
    handle.await;
    let finished = loop {
        if let Some(TaskEvent::Finished(report)) = events.recv().await {
            break report;
        }
    };
    assert_eq!(finished.progress.unwrap().to_string(), "half");
}

#[tokio::test]
async fn of_a_closure() {
    let registry = TaskRegistry::new();
    let (release, held) = mpsc::channel::<()>();
    let closure = move || {
        progress().set(1, 2);
        held.recv().unwrap_err();
        progress().set(2, 2);
    };
    let handle = registry.spawn_blocking(closure);
    let id = handle.id();
    until(|| text(&registry, id).as_deref() == Some("1 of 2")).await;
    drop(release);
    handle.await;
    assert_eq!(text(&registry, id).as_deref(), Some("2 of 2"));
}

/// A closure that was aborted no longer speaks for its task.
#[tokio::test]
async fn of_an_abandoned_closure_is_ignored() {
    let registry = TaskRegistry::new();
    let (release, held) = mpsc::channel::<()>();
    let (end, ended) = mpsc::channel();
    let handle = registry.spawn_blocking(move || {
        progress().set(1, 2);
        held.recv().unwrap_err();
        progress().set(2, 2);
        end.send(()).unwrap();
    });
    let id = handle.id();
    until(|| of(&registry, id).is_some()).await;
    handle.abort();
    drop(release);
    ended.recv().unwrap();
    assert_eq!(text(&registry, id).as_deref(), Some("1 of 2"));
}

#[tokio::test(start_paused = true)]
async fn begins_anew_with_each_attempt() {
    let registry = TaskRegistry::new();
    let policy = RetryPolicy::constant(10 * SECOND).attempts(3);
    let task = Task::retrying(policy, || async {
        if attempt() == 2 {
            sleep(SECOND).await;
        }
        if attempt() < 3 {
            progress().set(attempt().into(), 9);
        }
        Err::<(), _>("once more")
    });
    let id = registry.spawn(task).id();
    // The first attempt is over at once, the second begins after 10 s and takes 1 s, the third begins after 21 s.
    sleep(SECOND / 2).await;
    for (seconds, expected) in [(4, Some("1 of 9")), (6, None), (4, Some("2 of 9")), (7, None)] {
        sleep(SECOND * seconds).await;
        assert_eq!(text(&registry, id).as_deref(), expected);
    }
}

/// A progress that was moved elsewhere speaks for its task, until the task has ended.
#[tokio::test]
async fn may_be_moved_elsewhere() {
    let registry = TaskRegistry::new();
    let (reported, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (report, end) = (reported.clone(), ended.clone());
    let (send, elsewhere) = tokio::sync::oneshot::channel();
    let handle = registry.spawn(async move {
        let progress = progress();
        let elsewhere = tokio::spawn(async move {
            progress.set(1, 2);
            report.notify_one();
            end.notified().await;
            progress.set(2, 2);
            // No task runs here.
            postlude::progress().set(7, 7);
        });
        assert!(send.send(elsewhere).is_ok());
        reported.notified().await;
    });
    let id = handle.id();
    assert!(handle.await.is_completed());
    ended.notify_one();
    elsewhere.await.unwrap().await.unwrap();
    assert_eq!(text(&registry, id).as_deref(), Some("1 of 2"));
}

#[tokio::test]
async fn has_no_effect_outside_a_task() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    progress().set(1, 2).message("nowhere");
    let task = journal.task("ran");
    let request = registry.set().run_after(async {
        progress().set(1, 2);
        after(task).unwrap()
    });
    let id = request.await;
    registry.wait_idle().await;
    assert_eq!((journal.read(), of(&registry, id)), (vec!["ran".to_owned()], None));
}

#[tokio::test]
async fn message_is_short_and_escaped() {
    let registry = TaskRegistry::new();
    let handle = registry.spawn(async {
        progress().message("é".repeat(1_000));
    });
    let id = handle.id();
    handle.await;
    assert_eq!(of(&registry, id).unwrap().message.as_ref().unwrap().len(), 256);
    let handle = registry.spawn(async {
        progress().set(3, 0).message("a\nb");
    });
    let id = handle.id();
    handle.await;
    assert_eq!(text(&registry, id).as_deref(), Some("3, a\\nb"));
    assert_eq!(of(&registry, id).unwrap().message.as_deref(), Some("a\nb"));
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn serialises() {
    let registry = TaskRegistry::new();
    registry
        .spawn(async {
            progress().set(40, 90).message("page 3");
        })
        .await;
    let report = serde_json::to_value(&registry.history()[0]).unwrap();
    assert_eq!(report["progress"], serde_json::json!({"done": 40, "total": 90, "message": "page 3"}));
}
