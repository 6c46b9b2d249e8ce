//! Sets of more tasks than one step ends: nothing holds up an add for long, and nothing is left out.

use std::{
    future::pending,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use postlude::{DiscardReason, Outcome, TaskRegistry, TaskReport, TaskSet};
use tokio::{sync::Notify, task::yield_now};

use crate::support::assert_conserved;

/// Far more than one step ends.
const MANY: usize = 3_000;

fn fill(set: &TaskSet) {
    (0..MANY).for_each(|_| _ = set.add(async {}));
}

/// A registry, and what its observer counts: the tasks that were discarded for this reason.
fn counting(reason: DiscardReason) -> (TaskRegistry, Arc<AtomicUsize>) {
    let discarded = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&discarded);
    let observer = move |report: &TaskReport| {
        if matches!(report.outcome, Outcome::Discarded(of_task) if of_task == reason) {
            count.fetch_add(1, Ordering::SeqCst);
        }
    };
    (TaskRegistry::builder().observe(observer).build().unwrap(), discarded)
}

mod clear {
    use super::*;

    #[tokio::test]
    async fn discards_every_task() {
        let (registry, discarded) = counting(DiscardReason::Cleared);
        let set = registry.set();
        fill(&set);
        assert_eq!((set.clear(), set.len()), (MANY, 0));
        assert_eq!(discarded.load(Ordering::SeqCst), MANY);
        set.add(async {});
        assert_eq!(set.drain().await.completed, 1);
        assert_conserved(&registry, MANY as u64 + 1);
    }

    #[tokio::test]
    async fn leaves_tasks_that_are_added_meanwhile() {
        let added = Arc::new(OnceLock::<TaskSet>::new());
        let (target, adds) = (Arc::clone(&added), AtomicUsize::new(0));
        let adds_for_each = move |_: &TaskReport| {
            // Bounded, so that it also comes to an end if they are discarded, too.
            if let Some(set) = target.get().filter(|_| adds.fetch_add(1, Ordering::SeqCst) < MANY) {
                set.add(async {});
            }
        };
        let registry = TaskRegistry::builder().on_failure(adds_for_each).build().unwrap();
        let set = registry.set();
        fill(&set);
        assert!(added.set(set.clone()).is_ok());
        assert_eq!((set.clear(), set.len()), (MANY, MANY));
    }

    #[tokio::test]
    async fn takes_back_what_has_not_started_of_a_set_that_drains() {
        let (registry, _) = counting(DiscardReason::Cleared);
        let set = registry.set();
        set.add(pending::<()>());
        fill(&set);
        drop(set.clone().drain());
        yield_now().await;
        assert_eq!(set.clear(), MANY);
        assert_eq!(registry.metrics().running, 1);
        assert_conserved(&registry, MANY as u64 + 1);
    }
}

mod abort_set {
    use super::*;

    #[tokio::test]
    async fn aborts_every_task() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let id = set.add(pending::<()>());
        fill(&set);
        let drained = set.drain();
        yield_now().await;
        assert_eq!(registry.abort_set(id.set().unwrap()), MANY + 1);
        assert_eq!(drained.await.aborted, MANY as u64 + 1);
        assert_conserved(&registry, MANY as u64 + 1);
    }
}

mod stop_on_failure {
    use super::*;

    #[tokio::test]
    async fn discards_every_later_task() {
        let (registry, discarded) = counting(DiscardReason::PreviousFailed);
        let set = registry.set();
        set.stop_on_failure();
        set.add(async { Err::<(), _>("refused") });
        fill(&set);
        let report = set.drain().await;
        assert_eq!((report.failed, report.discarded, report.completed), (1, MANY as u64, 0));
        assert_eq!(discarded.load(Ordering::SeqCst), MANY);
        assert_conserved(&registry, MANY as u64 + 1);
    }

    #[tokio::test]
    async fn discards_every_task_behind_one_that_is_aborted() {
        let (registry, discarded) = counting(DiscardReason::PreviousFailed);
        let (set, started) = (registry.set(), Arc::new(Notify::new()));
        set.stop_on_failure();
        let start = Arc::clone(&started);
        let first = set.add(async move {
            start.notify_one();
            pending::<()>().await;
        });
        fill(&set);
        let drained = set.drain();
        started.notified().await;
        assert!(registry.abort(first));
        let report = drained.await;
        assert_eq!((report.aborted, report.discarded), (1, MANY as u64));
        assert_eq!(discarded.load(Ordering::SeqCst), MANY);
    }
}

#[cfg(feature = "axum")]
mod drain_when {
    use axum::{Router, body::Body, http::Request, routing::get};
    use http_body_util::BodyExt;
    use postlude::TaskLayer;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn discards_every_task_if_it_says_no() {
        let (registry, discarded) = counting(DiscardReason::Ending);
        let handler = async |tasks: TaskSet| {
            fill(&tasks);
            "ok"
        };
        let layer = TaskLayer::new(registry.clone()).drain_when(|_| false);
        let app = Router::new().route("/", get(handler)).layer(layer);
        let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
        response.into_body().collect().await.unwrap();
        registry.wait_idle().await;
        assert_eq!(discarded.load(Ordering::SeqCst), MANY);
        assert_conserved(&registry, MANY as u64);
    }
}
