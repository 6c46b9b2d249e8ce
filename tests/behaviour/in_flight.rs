//! A shutdown waits for requests that are in flight, and for nothing else of a connection.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    response::Response,
    routing::get as on_get,
};
use futures::{StreamExt, stream};
use postlude::{ShutdownReport, TaskLayer, TaskRegistry, TaskSet};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::{JoinHandle, yield_now},
};

use crate::support::net::{Client, VERSIONS, read_all, serve, within};

const HOUR: Duration = Duration::from_secs(3600);

/// Begins a shutdown, and goes on until it would have closed an idle registry.
async fn shut_down(registry: &TaskRegistry) -> JoinHandle<ShutdownReport> {
    let clone = registry.clone();
    let report = tokio::spawn(async move { clone.shutdown(HOUR).await });
    while !registry.is_shutting_down() {
        yield_now().await;
    }
    for _ in 0..100 {
        yield_now().await;
    }
    report
}

#[tokio::test]
async fn a_request_may_add_until_its_response_begins() {
    for version in VERSIONS {
        let registry = TaskRegistry::new();
        let (called, mut calls) = mpsc::unbounded_channel();
        let answer = Arc::new(Notify::new());
        let go_on = answer.clone();
        let handler = on_get(move |tasks: TaskSet| async move {
            called.send(()).unwrap();
            go_on.notified().await;
            tasks.add(async {});
            "answered"
        });
        // The outer set is used inside, and the request counts once.
        let app = Router::new().route("/", handler).layer(TaskLayer::new(registry.clone()));
        let address = serve(app.layer(TaskLayer::new(registry.clone())));
        let mut client = Client::connect(version, address).await;
        let request = tokio::spawn(async move { read_all(client.get("/").await).await });
        within(calls.recv()).await.unwrap();
        let report = shut_down(&registry).await;
        assert!(!registry.is_closed(), "a request is in flight");
        answer.notify_one();
        assert_eq!(within(request).await.unwrap(), "answered");
        let report = within(report).await.unwrap();
        assert_eq!((report.completed, report.is_clean()), (1, true), "{report}");
    }
}

#[tokio::test]
async fn a_body_is_not_waited_for() {
    for version in VERSIONS {
        let registry = TaskRegistry::new();
        let handler = on_get(|| async {
            let first = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"first")) });
            Response::new(Body::from_stream(first.chain(stream::pending())))
        });
        let app = Router::new().route("/", handler).layer(TaskLayer::new(registry.clone()));
        let mut client = Client::connect(version, serve(app)).await;
        let _body = client.get("/").await;
        let report = within(registry.shutdown(HOUR)).await;
        assert!(report.is_clean(), "{report}");
    }
}

#[tokio::test]
async fn a_request_whose_client_leaves_or_whose_handler_panics_is_over() {
    for version in VERSIONS {
        let registry = TaskRegistry::new();
        let (called, mut calls) = mpsc::unbounded_channel();
        let (hangs, panics) = (called.clone(), called);
        let app = Router::new()
            .route(
                "/hangs",
                on_get(move || async move {
                    hangs.send(()).unwrap();
                    pending::<()>().await;
                }),
            )
            .route(
                "/panics",
                on_get(move || async move {
                    panics.send(()).unwrap();
                    if true {
                        panic!("a bug in a handler");
                    }
                }),
            )
            .layer(TaskLayer::new(registry.clone()));
        let address = serve(app);
        let mut client = Client::connect(version, address).await;
        let _closed = within(client.try_send(crate::support::net::get("/panics"))).await;
        within(calls.recv()).await.unwrap();
        let mut client = Client::connect(version, address).await;
        let request = tokio::spawn(async move { client.get("/hangs").await });
        within(calls.recv()).await.unwrap();
        let report = shut_down(&registry).await;
        assert!(!registry.is_closed());
        request.abort();
        assert!(within(report).await.unwrap().is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn run_after_is_a_request_until_its_future_ends() {
    let registry = TaskRegistry::new();
    let (answer, answered) = oneshot::channel::<()>();
    let set = registry.set();
    let late = set.clone();
    let response = tokio::spawn(set.run_after(async move {
        answered.await.unwrap();
        late.add(async {});
    }));
    yield_now().await;
    let report = shut_down(&registry).await;
    assert!(!registry.is_closed());
    answer.send(()).unwrap();
    response.await.unwrap();
    assert_eq!(report.await.unwrap().completed, 1);

    let registry = TaskRegistry::new();
    let response = tokio::spawn(registry.set().run_after(pending::<()>()));
    yield_now().await;
    let report = shut_down(&registry).await;
    assert!(!registry.is_closed());
    response.abort();
    assert!(report.await.unwrap().is_clean());
}

/// A task that is due after the deadline is not waited for, but a request may still bring others.
#[tokio::test(start_paused = true)]
async fn what_is_due_after_the_deadline_is_kept_while_a_request_is_in_flight() {
    let registry = TaskRegistry::new();
    registry.spawn(postlude::Task::new(async {}).delay(2 * HOUR));
    let (answer, answered) = oneshot::channel::<()>();
    let response = tokio::spawn(registry.set().run_after(async move { answered.await.unwrap() }));
    yield_now().await;
    let report = shut_down(&registry).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(registry.metrics().pending, 1);
    answer.send(()).unwrap();
    response.await.unwrap();
    assert_eq!(report.await.unwrap().discarded.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_answers_is_waited_for_until_the_deadline() {
    let registry = TaskRegistry::new();
    let response = tokio::spawn(registry.set().run_after(pending::<()>()));
    yield_now().await;
    let start = tokio::time::Instant::now();
    assert!(registry.shutdown(HOUR).await.is_clean());
    assert!(start.elapsed() >= HOUR && registry.is_closed());
    response.abort();
}
