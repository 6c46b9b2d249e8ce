//! Layers and servers around the layer, as `docs/layers.md` describes them.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Response, StatusCode},
    middleware::{Next, from_fn, map_response},
    response::IntoResponse,
    routing::{get as on_get, post},
};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use postlude::{Ending, TaskLayer, TaskRegistry, TaskSet};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, retry::Policy, service_fn};

use crate::support::{
    Journal, SECOND, assert_conserved,
    net::{Client, VERSIONS, get, read_all, reporting_layer, request, serve, within},
};

async fn leave(State(journal): State<Journal>, tasks: TaskSet) -> &'static str {
    tasks.add(journal.task("ran"));
    "an answer"
}

/// Collects the body, and answers with a copy of its bytes.
async fn collected(response: Response<Body>) -> Response<Body> {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Response::from_parts(head, Body::from(Bytes::copy_from_slice(&bytes)))
}

mod outer_middleware {
    use super::*;

    // A cache that keeps the bytes holds the set up to the limit; one that keeps a copy takes them to their end at once, before
    // a byte was written.
    #[tokio::test(start_paused = true)]
    async fn that_keeps_the_bytes_delays_the_tasks() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (layer, mut endings) = reporting_layer(&registry);
        let app = Router::new().route("/", on_get(leave)).layer(layer).with_state(journal.clone());
        let kept = app.clone().oneshot(get("/")).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        sleep(4 * SECOND).await;
        assert!(journal.read().is_empty());
        sleep(2 * SECOND).await;
        assert_eq!((journal.read().len(), endings.try_recv().unwrap()), (1, Ending::Sent(StatusCode::OK)));
        drop(kept);

        let copying = app.layer(map_response(collected));
        let unread = copying.oneshot(get("/")).await.unwrap();
        sleep(SECOND).await;
        assert_eq!((journal.read().len(), endings.try_recv().unwrap()), (2, Ending::Sent(StatusCode::OK)));
        drop(unread);
        assert_conserved(&registry, 2);
    }

    // The layer saw the response before that: a 200 whose body was dropped.
    #[tokio::test(start_paused = true)]
    async fn that_answers_304_disconnects() {
        let unchanged = async |_: Response<Body>| (StatusCode::NOT_MODIFIED, "a body that no server sends");
        for (is_outside, ending) in
            [(true, Ending::Disconnected(StatusCode::OK)), (false, Ending::Sent(StatusCode::NOT_MODIFIED))]
        {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let (layer, mut endings) = reporting_layer(&registry);
            let app = Router::new().route("/", on_get(leave));
            let app = if is_outside {
                app.layer(layer).layer(map_response(unchanged))
            } else {
                app.layer(map_response(unchanged)).layer(layer)
            };
            let response = app.with_state(journal.clone()).oneshot(get("/")).await.unwrap();
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
            drop(response);
            assert_eq!(endings.recv().await, Some(ending));
            registry.wait_idle().await;
            assert_eq!(journal.read(), ["ran"]);
        }
    }
}

mod retry {
    use super::*;

    /// Tries again after a 503, with a clone of the request.
    #[derive(Clone)]
    struct Again {
        clears: bool,
    }

    impl Policy<Request<()>, Response<Body>, Infallible> for Again {
        type Future = std::future::Ready<()>;

        fn retry(
            &mut self,
            request: &mut Request<()>,
            result: &mut Result<Response<Body>, Infallible>,
        ) -> Option<Self::Future> {
            let failed = result.as_ref().unwrap().status() == StatusCode::SERVICE_UNAVAILABLE;
            if failed && self.clears {
                request.extensions().get::<TaskSet>().unwrap().clear();
            }
            failed.then(|| std::future::ready(()))
        }

        fn clone_request(&mut self, request: &Request<()>) -> Option<Request<()>> {
            Some(request.clone())
        }
    }

    // The set is the request's: it has the tasks of all tries, unless the policy clears it.
    #[tokio::test(start_paused = true)]
    async fn inside_collects_the_tasks_of_all_tries() {
        for (clears, ran) in [(false, vec!["1", "2", "3"]), (true, vec!["3"])] {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let tries = Arc::new(AtomicU32::new(0));
            let leave = journal.clone();
            let handler = service_fn(move |request: Request<()>| {
                let number = tries.fetch_add(1, Ordering::Relaxed);
                request.extensions().get::<TaskSet>().unwrap().add(leave.task(["1", "2", "3"][number as usize]));
                let status = if number < 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
                std::future::ready(Ok::<_, Infallible>(status.into_response()))
            });
            let retrying = tower::retry::RetryLayer::new(Again { clears }).layer(handler);
            let service = TaskLayer::new(registry.clone()).layer(retrying);
            let response = service.oneshot(Request::new(())).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            drop(response);
            registry.wait_idle().await;
            assert_eq!(journal.read(), ran);
            assert_conserved(&registry, 3);
        }
    }
}

// A task may read on what the client has not sent: over HTTP/1.1 the server waits with the response's connection, and not the
// client for its response.
#[tokio::test]
async fn request_body_kept_by_a_task() {
    for version in VERSIONS {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let note = journal.clone();
        let keep = async move |tasks: TaskSet, request: Request| {
            tasks.add(async move {
                let body = request.into_body().collect().await;
                note.note(body.map_or_else(|_| "cut off".to_owned(), |body| body.to_bytes().len().to_string()));
            });
            "at once"
        };
        let address = serve(Router::new().route("/", post(keep)).layer(TaskLayer::new(registry.clone())));
        let (sender, chunks) = futures::channel::mpsc::unbounded::<Bytes>();
        let mut upload = request("POST", "/");
        *upload.body_mut() = Body::from_stream(chunks.map(Ok::<_, Infallible>));
        sender.unbounded_send(Bytes::from_static(b"the first half")).unwrap();
        let mut client = Client::connect(version, address).await;
        let response = client.send(upload).await;
        assert_eq!(read_all(response).await, "at once");
        drop(sender);
        within(registry.wait_idle()).await;
        assert_eq!(journal.read(), ["14"], "{version:?}");
        assert_conserved(&registry, 1);
    }
}

// A platform that freezes the process once the answer is complete: the tasks run before it.
#[tokio::test(start_paused = true)]
async fn drained_before_the_answer() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let drain_first = from_fn(async |request: Request, next: Next| {
        let tasks = request.extensions().get::<TaskSet>().cloned();
        let response = next.run(request).await;
        if let Some(tasks) = tasks {
            tasks.drain().await;
        }
        response
    });
    let app = Router::new().route("/", on_get(leave)).layer(drain_first).layer(TaskLayer::new(registry.clone()));
    let response = app.with_state(journal.clone()).oneshot(get("/")).await.unwrap();
    assert_eq!(journal.read(), ["ran"], "before the answer");
    assert!(!response.into_body().is_end_stream());
    assert_conserved(&registry, 1);
}

// `axum::serve` takes a service with axum's own body only: a router around it makes it one.
#[tokio::test]
async fn layer_around_a_whole_service() {
    for version in VERSIONS {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let app = Router::new().route("/", on_get(leave)).with_state(journal.clone());
        let address = serve(Router::new().fallback_service(TaskLayer::new(registry.clone()).layer(app)));
        assert_eq!(Client::connect(version, address).await.fetch("/").await, "an answer");
        within(registry.wait_idle()).await;
        assert_eq!(journal.read(), ["ran"]);
    }
}
