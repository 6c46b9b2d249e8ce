//! A set is not left to its client for ever. That it waits until its response was written: `tests/wire`.

use std::{convert::Infallible, sync::Mutex, time::Duration};

use axum::{Router, body::Body, http::Request, routing::get};
use http_body_util::BodyExt;
use hyper::Response;
use postlude::{TaskLayer, TaskRegistry, after};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tower::{Layer, ServiceExt};

use crate::net::{Client, VERSIONS, narrow_stream, request, serve, within};

#[tokio::test]
async fn a_task_does_not_wait_for_ever_for_a_client_that_has_stopped_reading() {
    for version in VERSIONS {
        let (start, mut started) = mpsc::unbounded_channel();
        let handler = async move || {
            after(async move { start.send(()).unwrap() }).unwrap();
            // More than the sockets hold: most of it stays with the server.
            vec![b'x'; 16 << 20]
        };
        let layer = TaskLayer::new(TaskRegistry::new()).drain_within(Duration::from_millis(20));
        let address = serve(Router::new().route("/", get(handler)).layer(layer)).await;
        let mut stalled = Client::over(version, narrow_stream(address).await).await;
        let _unread = stalled.get("/").await;
        within(started.recv()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_kept_hold_the_tasks_up_to_the_limit() {
    let default = TaskLayer::new(TaskRegistry::new());
    let cases = [
        (default.clone(), 5000),
        (default.clone().drain_within(Duration::from_secs(90)), 90_000),
        (default.drain_within(Duration::ZERO), 0),
    ];
    for (layer, limit) in cases {
        let (start, started) = oneshot::channel();
        let start = Mutex::new(Some(start));
        let service = layer.layer(tower::service_fn(move |_: Request<Body>| {
            let start = start.lock().unwrap().take().unwrap();
            after(async move { start.send(Instant::now()).unwrap() }).unwrap();
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::from("kept"))))
        }));
        let mut body = service.oneshot(request("GET", "/")).await.unwrap().into_body();
        // The limit counts from the body's end, however long the body took to get there.
        tokio::time::sleep(Duration::from_secs(1000)).await;
        let kept = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        let ended = Instant::now();
        let started = tokio::time::timeout(Duration::from_secs(1000), started).await.unwrap().unwrap();
        let waited = (started - ended).as_millis();
        assert!((limit..limit + 10).contains(&waited), "{waited} ms, not {limit} ms");
        assert_eq!(kept, "kept");
    }
}
