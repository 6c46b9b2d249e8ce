//! Every wait of a registry is on the clock of its own runtime, and `Duration::MAX` never ends.

use std::time::Duration;

use axum::{Router, body::Body, http::Request, routing::post};
use http_body_util::BodyExt;
use postlude::{BatchPolicy, Outcome, Task, TaskLayer, TaskRegistry, TaskSet, TaskState};
use tokio::{runtime::Builder, task::yield_now};
use tower::ServiceExt;

use crate::support::net::within;

const DECADE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

#[test]
fn a_response_on_a_clock_that_ran_ahead_holds_up_no_other() {
    let own = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registry = TaskRegistry::builder().handle(own.handle().clone()).build().unwrap();
    let handler = |tasks: TaskSet| async move {
        tasks.add(async {});
        "ok"
    };
    let app = Router::new().route("/", post(handler)).layer(TaskLayer::new(registry.clone()));
    let request = || async {
        let response = app.clone().oneshot(Request::post("/").body(Body::empty()).unwrap()).await.unwrap();
        drop(response.into_body().collect().await.unwrap());
    };
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
        tokio::time::advance(DECADE).await;
        request().await;
    });
    Builder::new_current_thread().enable_all().build().unwrap().block_on(request());
    own.block_on(within(registry.wait_idle()));
    assert_eq!(registry.metrics().completed, 2);
}

#[tokio::test(start_paused = true)]
async fn a_delay_a_timeout_and_a_batch_of_duration_max_never_end() {
    let registry = TaskRegistry::new();
    registry.spawn(Task::new(async {}).delay(Duration::MAX).named("delayed"));
    let (release, held) = tokio::sync::oneshot::channel::<()>();
    let limited = registry.spawn(Task::new(async { drop(held.await) }).timeout(Duration::MAX));
    let batcher = registry.batcher("batch", BatchPolicy::default().max_delay(Duration::MAX), |_: Vec<u8>| async {});
    batcher.push(1).await.unwrap();
    tokio::time::sleep(10 * DECADE).await;
    let metrics = registry.metrics();
    assert_eq!((metrics.pending, metrics.running, metrics.completed), (2, 1, 0));
    release.send(()).unwrap();
    assert!(matches!(limited.await, Outcome::Completed));
    // A shutdown neither waits for the delay nor forgets it, and has the batch handled.
    let report = within(registry.shutdown(Duration::MAX)).await;
    assert_eq!((report.discarded.len(), report.discarded[0].name.as_str()), (1, "delayed"));
    assert_eq!(registry.metrics().completed, 2);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_without_end_waits_without_end() {
    let registry = TaskRegistry::new();
    let (release, held) = tokio::sync::oneshot::channel::<()>();
    registry.spawn(async { drop(held.await) });
    yield_now().await;
    let clone = registry.clone();
    let report = tokio::spawn(async move { clone.shutdown(Duration::MAX).await });
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(registry.is_shutting_down() && !registry.is_closed());
    assert_eq!(registry.tasks()[0].state, TaskState::Running);
    release.send(()).unwrap();
    assert!(report.await.unwrap().is_clean());
}
