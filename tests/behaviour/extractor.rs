//! The extractor, and how a user tests a handler with it.

use std::time::Duration;

use axum::{Router, body::to_bytes, http::StatusCode, routing::get as on_get};
use bytes::Bytes;
use http_body_util::BodyExt;
use postlude::{TaskLayer, TaskRegistry, TaskSet};
use tower::ServiceExt;

use crate::support::{
    Journal, assert_conserved,
    net::{Client, Version, get, read_all, serve, within},
};

async fn by_http_body_util(body: axum::body::Body) -> Bytes {
    body.collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn without_layer_is_an_error_without_a_text() {
    let app = Router::new().route("/", on_get(|_: TaskSet| async { "never called" }));
    let response = Client::connect(Version::H1, serve(app)).await.get("/").await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(read_all(response).await.is_empty(), "a client can't add a layer");
}

#[tokio::test]
async fn optional_is_none_without_layer() {
    let handler = async |tasks: Option<TaskSet>| tasks.is_some().to_string();
    let app = Router::new().route("/", on_get(handler));
    let layered = app.clone().layer(TaskLayer::new(TaskRegistry::new()));
    for (app, answer) in [(app, "false"), (layered, "true")] {
        assert_eq!(Client::connect(Version::H1, serve(app)).await.fetch("/").await, answer);
    }
}

#[tokio::test]
async fn twice_gives_the_same_set() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let leave = journal.clone();
    let handler = async move |first: TaskSet, second: TaskSet, third: Option<TaskSet>| {
        first.add(leave.task("first"));
        third.unwrap().add(leave.task("second"));
        assert_eq!(second.len(), 2);
    };
    let app = Router::new().route("/", on_get(handler)).layer(TaskLayer::new(registry.clone()));
    let response = Client::connect(Version::H2, serve(app)).await.get("/").await;
    assert_eq!(response.status(), StatusCode::OK);
    within(registry.wait_idle()).await;
    assert_eq!(journal.read(), ["first", "second"]);
}

mod testing {
    use super::*;

    /// Calls a handler as its author would in a test, keeps the body, and waits for the task.
    async fn test_a_handler(
        layer: impl FnOnce(TaskLayer) -> TaskLayer,
        collect: impl AsyncFnOnce(axum::body::Body) -> Bytes,
    ) {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let leave = journal.clone();
        let signup = async move |tasks: TaskSet| {
            tasks.add(leave.task("mail"));
            "welcome"
        };
        let app = Router::new().route("/", on_get(signup)).layer(layer(TaskLayer::new(registry.clone())));
        let response = app.oneshot(get("/")).await.unwrap();
        let body = collect(response.into_body()).await;
        assert!(journal.read().is_empty(), "the task waits for the body's end");
        within(registry.wait_idle()).await;
        assert_eq!(journal.read(), ["mail"]);
        assert_eq!(body, "welcome");
        assert_conserved(&registry, 1);
    }

    async fn by_axum(body: axum::body::Body) -> Bytes {
        to_bytes(body, usize::MAX).await.unwrap()
    }

    #[tokio::test]
    async fn kept_body_delays_up_to_limit() {
        let soon = |layer: TaskLayer| layer.drain_within(Duration::from_millis(20));
        test_a_handler(soon, by_http_body_util).await;
        test_a_handler(soon, by_axum).await;
    }

    #[tokio::test(start_paused = true)]
    async fn kept_body_on_paused_clock_does_not_wait() {
        test_a_handler(|layer| layer, by_http_body_util).await;
        test_a_handler(|layer| layer, by_axum).await;
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_body_does_not_wait() {
        let registry = TaskRegistry::new();
        let handler = async |tasks: TaskSet| {
            tasks.add(async {});
            "welcome"
        };
        let layer = TaskLayer::new(registry.clone()).drain_within(Duration::MAX);
        let app = Router::new().route("/", on_get(handler)).layer(layer);
        let response = app.oneshot(get("/")).await.unwrap();
        assert_eq!(by_http_body_util(response.into_body()).await, "welcome");
        within(registry.wait_idle()).await;
        assert_eq!(registry.metrics().completed, 1);
    }
}

mod body {
    use super::*;

    #[test]
    fn may_be_dropped_outside_runtime() {
        for runtime_ends_first in [false, true] {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
            let handler = on_get(|tasks: TaskSet| async move {
                tasks.add(async {});
                "never read"
            });
            let app = Router::new().route("/", handler).layer(TaskLayer::new(registry.clone()));
            let response = runtime.block_on(app.oneshot(get("/"))).unwrap();
            assert_eq!(registry.metrics().open_sets, 1);
            if runtime_ends_first {
                drop(runtime);
                drop(response);
                assert_eq!(registry.metrics().discarded, 1);
            } else {
                drop(response);
                runtime.block_on(registry.wait_idle());
                assert_eq!(registry.metrics().completed, 1);
            }
            assert_conserved(&registry, 1);
        }
    }
}
