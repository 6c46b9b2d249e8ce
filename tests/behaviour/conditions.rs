//! Whether tasks run, by how their request ended.

use axum::{Router, http::StatusCode, routing::get as on_get};
use postlude::{DiscardReason, Outcome, Task, TaskLayer, TaskRegistry, TaskSet};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::{
    Journal, assert_conserved,
    net::{Client, Version, serve, within},
};

/// A registry that reports why tasks were discarded.
fn reporting_registry() -> (TaskRegistry, UnboundedReceiver<(&'static str, DiscardReason)>) {
    let (report_discarded, discarded) = unbounded_channel();
    let hook = move |report: &postlude::TaskReport| {
        if let Outcome::Discarded(reason) = report.outcome {
            report_discarded.send((report.name.as_str(), reason)).unwrap();
        }
    };
    (TaskRegistry::builder().on_failure(hook).build().unwrap(), discarded)
}

/// Serves a handler that ends with `status`, behind `layer`, and fetches it once.
async fn fetch_once(layer: TaskLayer, status: u16, handler: impl Fn(TaskSet) + Clone + Send + Sync + 'static) {
    let answer = async move |tasks: TaskSet| {
        handler(tasks);
        (StatusCode::from_u16(status).unwrap(), "answer")
    };
    let address = serve(Router::new().route("/", on_get(answer)).layer(layer));
    assert_eq!(Client::connect(Version::H1, address).await.fetch("/").await, "answer");
}

mod drain_when {
    use super::*;

    #[tokio::test]
    async fn false_discards_tasks() {
        let ((registry, mut discarded), journal) = (reporting_registry(), Journal::default());
        let layer = TaskLayer::new(registry.clone()).drain_when(|ending| ending.is_success());
        let leave = journal.clone();
        let (keep, mut kept) = unbounded_channel();
        fetch_once(layer, 500, move |tasks| {
            tasks.add(Task::new(leave.task("first")).named("first"));
            tasks.add(Task::new(leave.task("second")).named("second"));
            keep.send(tasks).unwrap();
        })
        .await;
        for name in ["first", "second"] {
            assert_eq!(within(discarded.recv()).await, Some((name, DiscardReason::Ending)));
        }
        within(registry.wait_idle()).await;
        let tasks = kept.recv().await.unwrap();
        let rejected = tasks.try_add(journal.task("late")).unwrap_err();
        assert_eq!(rejected.reason(), postlude::RejectReason::Ending);
        tasks.add(Task::new(journal.task("late")).named("late"));
        assert_eq!(within(discarded.recv()).await, Some(("late", DiscardReason::Ending)));
        assert!(journal.read().is_empty());
        assert_eq!(registry.metrics().discarded, 3);
        assert_conserved(&registry, 3);
    }

    #[tokio::test]
    async fn panic_is_counted_and_means_yes() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let layer = TaskLayer::new(registry.clone()).drain_when(|_| panic!("a condition panics"));
        let leave = journal.clone();
        fetch_once(layer, 200, move |tasks| {
            tasks.add(leave.task("ran"));
            tasks.add(Task::new(leave.task("ran too")).when(|_| panic!("another condition panics")));
        })
        .await;
        within(registry.wait_idle()).await;
        assert_eq!(journal.read(), ["ran", "ran too"]);
        assert_eq!(registry.metrics().hook_panics, 2);
        assert_conserved(&registry, 2);
    }
}

mod when {
    use super::*;

    #[tokio::test]
    async fn concerns_one_task() {
        for (status, ran) in [(200, vec!["receipt", "always"]), (503, vec!["apology", "always"])] {
            let ((registry, mut discarded), journal) = (reporting_registry(), Journal::default());
            let leave = journal.clone();
            fetch_once(TaskLayer::new(registry.clone()), status, move |tasks| {
                tasks.add(Task::new(leave.task("receipt")).named("receipt").when(|ending| ending.is_success()));
                tasks.add(Task::new(leave.task("apology")).named("apology").when(|ending| !ending.is_success()));
                tasks.add(leave.task("always"));
            })
            .await;
            within(registry.wait_idle()).await;
            let not_run = if ran[0] == "receipt" { "apology" } else { "receipt" };
            assert_eq!(within(discarded.recv()).await, Some((not_run, DiscardReason::Ending)));
            assert_eq!(journal.read(), ran);
            assert_conserved(&registry, 3);
        }
    }
}

mod clear {
    use super::*;

    #[tokio::test]
    async fn in_handler_discards_earlier_tasks() {
        let ((registry, mut discarded), journal) = (reporting_registry(), Journal::default());
        let leave = journal.clone();
        fetch_once(TaskLayer::new(registry.clone()), 200, move |tasks| {
            tasks.add(Task::new(leave.task("taken back")).named("taken back"));
            assert_eq!(tasks.clear(), 1);
            tasks.add(leave.task("instead"));
        })
        .await;
        assert_eq!(within(discarded.recv()).await, Some(("taken back", DiscardReason::Cleared)));
        within(registry.wait_idle()).await;
        assert_eq!(journal.read(), ["instead"]);
        assert_conserved(&registry, 2);
    }
}
