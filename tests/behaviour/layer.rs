//! The layer, with other layers around and inside it.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Response, StatusCode},
    middleware::{Next, from_fn},
    routing::{Route, get as on_get},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use postlude::{Ending, TaskLayer, TaskRegistry, TaskSet, after};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_http::{catch_panic::CatchPanicLayer, compression::CompressionLayer, timeout::TimeoutLayer};

use crate::support::{
    Journal, assert_conserved,
    net::{Client, VERSIONS, Version, get, read_all, reporting_layer, serve, serve_service, within},
};

mod others {
    use super::*;

    const TEXT: &str = "text that lends itself to compression, as texts do; ";

    /// Handlers that answer, hang and panic, each after it has added a task.
    fn handlers(journal: &Journal) -> Router {
        let (answers, hangs, panics) = (journal.clone(), journal.clone(), journal.clone());
        let answering = async move || {
            after(answers.task("ran")).unwrap();
            TEXT.repeat(5000)
        };
        let hanging = async move || {
            after(hangs.task("ran")).unwrap();
            std::future::pending::<()>().await;
        };
        let panicking = async move || -> StatusCode {
            after(panics.task("ran")).unwrap();
            panic!("a handler panics")
        };
        Router::new()
            .route("/answering", on_get(answering))
            .route("/hanging", on_get(hanging))
            .route("/panicking", on_get(panicking))
    }

    /// Requests `path` once through `other`, inside and outside our layer, and checks status and ending.
    async fn check_both_positions<L>(
        path: &str,
        other: L,
        inside: (Option<u16>, Ending),
        outside: (Option<u16>, Ending),
    ) where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request, Error = Infallible, Future: Send, Response: axum::response::IntoResponse>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        for (is_inside, (status, ending)) in [(true, inside), (false, outside)] {
            for version in VERSIONS {
                let case = format!("{path} over {version:?}, the other layer is inside: {is_inside}");
                let (registry, journal) = (TaskRegistry::new(), Journal::default());
                let (layer, mut endings) = reporting_layer(&registry);
                let app = handlers(&journal);
                let app = if is_inside {
                    app.layer(other.clone()).layer(layer)
                } else {
                    app.layer(layer).layer(other.clone())
                };
                let mut client = Client::connect(version, serve(app)).await;
                let response = within(client.try_send(get(path))).await;
                assert_eq!(response.as_ref().ok().map(|response| response.status().as_u16()), status, "{case}");
                if let Ok(response) = response {
                    read_all(response).await;
                }
                assert_eq!(within(endings.recv()).await, Some(ending), "{case}");
                within(registry.wait_idle()).await;
                assert_eq!(journal.read(), ["ran"], "{case}");
            }
        }
    }

    fn handlers_without_layer() -> Router {
        Router::new().route("/answering", on_get(|| async { TEXT.repeat(5000) }))
    }

    #[tokio::test]
    async fn timeout_answers_inside_and_cancels_outside() {
        let timeout = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(10));
        let sent = (Some(408), Ending::Sent(StatusCode::REQUEST_TIMEOUT));
        check_both_positions("/hanging", timeout, sent, (Some(408), Ending::Cancelled)).await;
    }

    #[tokio::test]
    async fn catch_panic_answers_inside_and_panics_outside() {
        let sent = (Some(500), Ending::Sent(StatusCode::INTERNAL_SERVER_ERROR));
        let panicked = (Some(500), Ending::HandlerPanicked);
        check_both_positions("/panicking", CatchPanicLayer::new(), sent, panicked).await;
    }

    #[tokio::test]
    async fn compression_changes_no_byte_and_no_ending() {
        let gzip = || {
            let mut request = get("/answering");
            request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
            request
        };
        let without = serve(handlers_without_layer().layer(CompressionLayer::new()));
        let expected = read_all(Client::connect(Version::H1, without).await.send(gzip()).await).await;
        assert!(expected.starts_with(&[0x1f, 0x8b]) && expected.len() < TEXT.len() * 5000, "it is compressed");

        for (is_inside, version) in [true, false].into_iter().flat_map(|is| VERSIONS.map(|version| (is, version))) {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let (layer, mut endings) = reporting_layer(&registry);
            let (app, other) = (handlers(&journal), CompressionLayer::new());
            let app = if is_inside { app.layer(other).layer(layer) } else { app.layer(layer).layer(other) };
            let response = Client::connect(version, serve(app)).await.send(gzip()).await;
            assert_eq!(response.headers()["content-encoding"], "gzip");
            assert_eq!(read_all(response).await, expected, "{version:?}, inside: {is_inside}");
            assert_eq!(within(endings.recv()).await, Some(Ending::Sent(StatusCode::OK)));
            within(registry.wait_idle()).await;
            assert_eq!(journal.read(), ["ran"]);
        }
    }

    #[tokio::test]
    async fn stack_takes_our_body() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let leave = journal.clone();
        let stack = ServiceBuilder::new()
            .layer(CompressionLayer::new())
            .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(3600)))
            .layer(TaskLayer::new(registry.clone()))
            .layer(TaskLayer::new(registry.clone()))
            .layer(CatchPanicLayer::new())
            .service(tower::service_fn(move |_: Request<Body>| {
                after(leave.task("ran")).unwrap();
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"stacked")))))
            }));
        let response = stack.oneshot(get("/")).await.unwrap();
        let text = response.into_body().collect().await.unwrap_or_else(|_| panic!("a body")).to_bytes();
        assert_eq!(Bytes::copy_from_slice(&text), "stacked");
        drop(text);
        within(registry.wait_idle()).await;
        assert_eq!(journal.read(), ["ran"]);
    }
}

mod several {
    use super::*;

    /// A layer that would discard everything, if it were asked.
    fn refusing_layer(registry: &TaskRegistry) -> TaskLayer {
        TaskLayer::new(registry.clone()).drain_when(|_| false)
    }

    #[tokio::test]
    async fn nested_outermost_counts() {
        for version in VERSIONS {
            let (outer, inner, innermost) = (TaskRegistry::new(), TaskRegistry::new(), TaskRegistry::new());
            let journal = Journal::default();
            let leave = journal.clone();
            let handler = async move |tasks: TaskSet| {
                tasks.add(leave.task("by the extractor"));
                after(leave.task("by after")).unwrap();
                assert_eq!(tasks.len(), 3, "there is one set");
                "one set"
            };
            let leave = journal.clone();
            let between = from_fn(move |tasks: TaskSet, request: Request, next: Next| {
                tasks.add(leave.task("by a layer between"));
                next.run(request)
            });
            let (layer, mut endings) = reporting_layer(&outer);
            let nested = Router::new().route("/", on_get(handler)).layer(refusing_layer(&innermost));
            let app = Router::new().nest("/nested", nested).layer(between).layer(refusing_layer(&inner)).layer(layer);
            let mut client = Client::connect(version, serve(app)).await;
            assert_eq!(client.fetch("/nested").await, "one set");
            assert_eq!(within(endings.recv()).await, Some(Ending::Sent(StatusCode::OK)));
            within(outer.wait_idle()).await;
            assert_eq!(journal.read(), ["by a layer between", "by the extractor", "by after"], "{version:?}");
            for (registry, added) in [(outer, 3), (inner, 0), (innermost, 0)] {
                assert_conserved(&registry, added);
            }
        }
    }

    #[tokio::test]
    async fn side_by_side_are_independent() {
        let registries = [TaskRegistry::new(), TaskRegistry::new()];
        let journal = Journal::default();
        let side = |name: &'static str, registry: &TaskRegistry| {
            let leave = journal.clone();
            let handler = async move |tasks: TaskSet| {
                tasks.add(leave.task(name));
            };
            Router::new().route("/", on_get(handler)).layer(TaskLayer::new(registry.clone()))
        };
        let app =
            Router::new().nest("/left", side("left", &registries[0])).nest("/right", side("right", &registries[1]));
        let mut client = Client::connect(Version::H1, serve(app)).await;
        client.fetch("/right").await;
        within(registries[1].wait_idle()).await;
        client.fetch("/left").await;
        within(registries[0].wait_idle()).await;
        assert_eq!(journal.read(), ["right", "left"]);
        for registry in registries {
            assert_conserved(&registry, 1);
        }
    }
}

mod extensions {
    use super::*;

    #[tokio::test]
    async fn hold_set_without_axum() {
        for version in VERSIONS {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let leave = journal.clone();
            let handler = move |request: Request<Incoming>| {
                request.extensions().get::<TaskSet>().unwrap().add(leave.task("ran"));
                std::future::ready(Ok::<_, Infallible>(Response::new(Body::from("hyper"))))
            };
            let service = TaskLayer::new(registry.clone()).layer(tower::service_fn(handler));
            let address = serve_service(version, service);
            let mut client = Client::connect(version, address).await;
            assert_eq!(client.fetch("/").await, "hyper");
            within(registry.wait_idle()).await;
            assert_eq!(journal.read(), ["ran"]);
        }
    }
}
