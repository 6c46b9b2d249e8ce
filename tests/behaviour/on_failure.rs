//! The failure hook.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postlude::{Outcome, Task, TaskId, TaskRegistry, TaskReport};
use tokio::sync::mpsc;

use crate::support::{Journal, assert_conserved};

#[tokio::test]
async fn sees_all_but_completed() {
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
async fn panic_is_counted() {
    let registry = TaskRegistry::builder().on_failure(|_| panic!("in the hook")).build().unwrap();
    let set = registry.set();
    set.add(async { Err::<(), _>("one") });
    set.add(async {});
    assert_eq!(set.drain().await.completed, 1);
    assert_eq!(registry.metrics().hook_panics, 1);
}

#[tokio::test]
async fn may_spawn_at_full_registry() {
    let slot: Arc<OnceLock<TaskRegistry>> = Arc::default();
    let (inner, calls) = (slot.clone(), Arc::new(AtomicUsize::new(0)));
    let counter = calls.clone();
    let registry = TaskRegistry::builder()
        .capacity(1)
        .on_failure(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            if let Some(registry) = inner.get() {
                registry.spawn(async {});
            }
        })
        .build()
        .unwrap();
    slot.set(registry.clone()).unwrap();
    registry.spawn(std::future::pending::<()>());
    registry.spawn(async {});
    assert_eq!(calls.load(Ordering::SeqCst), 1, "of the task, not of the alert that was refused in turn");
    assert_eq!(registry.metrics().discarded, 2);
    assert_conserved(&registry, 3);
}

#[tokio::test]
async fn may_abort_next_task() {
    let slot: Arc<Mutex<Option<(TaskRegistry, TaskId)>>> = Arc::default();
    let inner = slot.clone();
    let registry = TaskRegistry::builder()
        .on_failure(move |report| {
            if let (Outcome::Failed(_), Some((registry, next))) = (&report.outcome, inner.lock().unwrap().take()) {
                assert!(registry.abort(next));
            }
        })
        .build()
        .unwrap();
    let journal = Journal::default();
    let set = registry.set();
    set.add(async { Err::<(), _>("stop the next") });
    let next = set.add(journal.task("never"));
    set.add(journal.task("last"));
    *slot.lock().unwrap() = Some((registry.clone(), next));
    let report = set.drain().await;
    assert_eq!((report.failed, report.aborted, report.completed), (1, 1, 1));
    assert_eq!(journal.read(), ["last"]);
}
