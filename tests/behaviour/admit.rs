//! The admission filter.

use std::{
    error::Error,
    sync::{Arc, Mutex, OnceLock},
};

use postlude::{DiscardReason, Outcome, RejectReason, Task, TaskInfo, TaskRegistry, TaskReport, TaskState};

use crate::support::assert_conserved;

/// A registry that refuses tasks named `report`, and the reports that its failure hook has seen.
fn without_reports() -> (TaskRegistry, Arc<Mutex<Vec<TaskReport>>>) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let hook = reports.clone();
    let registry = TaskRegistry::builder()
        .admit(|task| match task.name.as_str() {
            "report" => Err(std::io::Error::other("no reports at night").into()),
            _ => Ok(()),
        })
        .on_failure(move |report| hook.lock().unwrap().push(report.clone()))
        .build()
        .unwrap();
    (registry, reports)
}

fn report() -> Task {
    Task::new(async { panic!("it was refused") }).named("report")
}

#[tokio::test]
async fn try_add_and_try_spawn_return_refused_task() {
    let (registry, reports) = without_reports();
    let set = registry.set();
    set.add(report());
    set.add(async {});
    let handle = registry.spawn(report());
    assert!(handle.is_finished());
    assert!(matches!(handle.await, Outcome::Discarded(DiscardReason::Refused)));

    let rejections = [set.try_add(report()).unwrap_err(), registry.try_spawn(report()).unwrap_err()];
    for rejected in rejections {
        assert_eq!(rejected.reason(), RejectReason::Refused);
        assert_eq!(rejected.source().unwrap().to_string(), "no reports at night");
        assert!(rejected.to_string().contains("`report`"), "{rejected}");
        assert_eq!(rejected.into_task().name(), "report");
    }
    let drained = set.drain().await;
    assert_eq!((drained.completed, drained.discarded), (1, 1));
    let refusals: Vec<_> = reports.lock().unwrap().iter().map(|report| report.refusal.clone().unwrap()).collect();
    assert_eq!(refusals.len(), 2, "those that were not handed back");
    assert!(refusals.iter().all(|refusal| refusal.to_string() == "no reports at night"));
    assert_conserved(&registry, 3);
}

#[tokio::test]
async fn filter_sees_task_info() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    let registry = TaskRegistry::builder()
        .admit(move |task: &TaskInfo| {
            notes.lock().unwrap().push(task.clone());
            Ok(())
        })
        .build()
        .unwrap();
    let set = registry.set();
    let ids = [set.add(Task::new(async {}).named("mail")), registry.spawn(async {}).id()];
    set.drain().await;
    registry.wait_idle().await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.iter().map(|task| task.id).collect::<Vec<_>>(), ids);
    assert_eq!((seen[0].name.as_str(), seen[0].set, seen[0].state), ("mail", ids[0].set(), TaskState::Pending));
    assert!(seen[1].location.file() == file!());
}

#[tokio::test]
async fn panic_of_filter_admits() {
    let registry = TaskRegistry::builder().admit(|_| panic!("a bug in the rule")).build().unwrap();
    assert!(matches!(registry.spawn(async {}).await, Outcome::Completed));
    assert_eq!(registry.metrics().hook_panics, 1);
    assert_conserved(&registry, 1);
}

/// The filter is not asked about its own spawns.
#[tokio::test]
async fn filter_may_spawn() {
    let own = Arc::new(OnceLock::<TaskRegistry>::new());
    let inside = own.clone();
    let registry = TaskRegistry::builder()
        .capacity(4)
        .admit(move |task| {
            let registry = inside.get().unwrap();
            registry.spawn(async {});
            let live = registry.metrics().pending;
            assert!(registry.tasks().len() as u64 >= live);
            if task.set.is_some() { Err("no sets".into()) } else { Ok(()) }
        })
        .build()
        .unwrap();
    assert!(own.set(registry.clone()).is_ok());
    registry.set().add(async {});
    registry.spawn(async {}).await;
    registry.wait_idle().await;
    assert_eq!(registry.metrics().hook_panics, 0);
    assert_eq!((registry.metrics().completed, registry.metrics().discarded), (3, 1));
    assert_conserved(&registry, 4);
}
