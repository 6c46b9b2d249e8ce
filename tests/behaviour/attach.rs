//! `TaskSet::attach`, for hyper without a layer.

use std::{convert::Infallible, net::SocketAddr};

use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming};
use postlude::{Ending, Task, TaskBody, TaskLayer, TaskRegistry};
use tokio::sync::mpsc::unbounded_channel;
use tower::{Layer, ServiceExt};

use crate::support::{
    Journal, assert_conserved,
    net::{Client, VERSIONS, Version, reporting_layer, request, serve_service, within},
};

type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

const TEXT: &str = "the length of this is known";

/// A body of known length, a stream with trailers, or none.
fn body(path: &str) -> AnyBody {
    match path {
        "/full" => Full::from(TEXT).boxed_unsync(),
        "/trailers" => {
            let trailers = HeaderMap::from_iter([(header::ETAG, "at the end".parse().unwrap())]);
            let frames = [Ok(Frame::data(Bytes::from(TEXT))), Ok(Frame::trailers(trailers))];
            StreamBody::new(stream::iter(frames)).boxed_unsync()
        }
        _ => Full::default().boxed_unsync(),
    }
}

fn response(request: &Request<Incoming>) -> Response<AnyBody> {
    let path = request.uri().path();
    let mut response = Response::new(body(path));
    match path {
        "/nothing" => *response.status_mut() = StatusCode::NO_CONTENT,
        // HTTP/1.1 sends only those that were announced.
        "/trailers" => drop(response.headers_mut().insert(header::TRAILER, "etag".parse().unwrap())),
        _ => {}
    }
    response
}

/// Checks what the client gets, and that the tasks ran after an ending of `Sent`.
async fn check_everything(version: Version, address: SocketAddr, registry: &TaskRegistry, journal: &Journal) {
    let mut client = Client::connect(version, address).await;
    let cases = [("/full", 200, TEXT, Some(TEXT.len())), ("/trailers", 200, TEXT, None), ("/nothing", 204, "", None)];
    for (case, (path, status, text, length)) in cases.into_iter().enumerate() {
        let mut request = request("GET", path);
        request.headers_mut().insert(header::TE, "trailers".parse().unwrap());
        let response = client.send(request).await;
        assert_eq!(response.status(), status, "{version:?} {path}");
        let declared = response.headers().get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap().to_owned());
        assert_eq!(declared, length.map(|length| length.to_string()), "{version:?} {path}");
        let chunked = version == Version::H1 && path == "/trailers";
        assert_eq!(response.headers().contains_key(header::TRANSFER_ENCODING), chunked, "{version:?} {path}");
        let collected = within(response.into_body().collect()).await.unwrap();
        let etag = collected.trailers().and_then(|trailers| trailers.get(header::ETAG)).cloned();
        assert_eq!(etag.is_some(), path == "/trailers", "{version:?} {path}");
        assert_eq!(collected.to_bytes(), text, "{version:?} {path}");
        within(registry.wait_idle()).await;
        assert_eq!(journal.read().len(), case + 1, "{version:?} {path}");
    }
    assert_conserved(registry, 3);
    assert_eq!(registry.metrics().completed, 3);
}

fn when_sent(journal: &Journal) -> Task {
    Task::new(journal.task("ran")).when(|ending| matches!(ending, Ending::Sent(_)))
}

#[tokio::test]
async fn changes_nothing_of_response() {
    for version in VERSIONS {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (owner, leave) = (registry.clone(), journal.clone());
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let tasks = owner.set();
            tasks.add(when_sent(&leave));
            std::future::ready(Ok::<_, Infallible>(tasks.attach(response(&request))))
        });
        let address = serve_service(version, service);
        check_everything(version, address, &registry, &journal).await;
    }
}

#[tokio::test]
async fn body_forwards_length_and_end() {
    let registry = TaskRegistry::new();
    for path in ["/full", "/trailers", "/nothing"] {
        let tasks = registry.set();
        tasks.add(async {});
        let mut plain = body(path);
        let mut attached: TaskBody<AnyBody> = tasks.attach(Response::new(body(path))).into_body();
        loop {
            assert_eq!(attached.is_end_stream(), plain.is_end_stream(), "{path}");
            assert_eq!(attached.size_hint().exact(), plain.size_hint().exact(), "{path}");
            assert_eq!(attached.size_hint().lower(), plain.size_hint().lower(), "{path}");
            let (Some(attached), Some(plain)) = (attached.frame().await, plain.frame().await) else { break };
            let (attached, plain) = (attached.unwrap(), plain.unwrap());
            assert_eq!(attached.data_ref(), plain.data_ref(), "{path}");
            assert_eq!(attached.trailers_ref(), plain.trailers_ref(), "{path}");
        }
    }
    within(registry.wait_idle()).await;
    assert_conserved(&registry, 3);
}

/// Statuses, and whether a response that has one is complete without a body.
const WITHOUT_BODY: [(u16, bool); 5] = [(101, true), (204, true), (304, true), (200, false), (404, false)];

fn expected_of_unpolled((status, is_complete): (u16, bool)) -> (StatusCode, Ending) {
    let status = StatusCode::from_u16(status).unwrap();
    (status, if is_complete { Ending::Sent(status) } else { Ending::Disconnected(status) })
}

#[tokio::test]
async fn unpolled_body_is_disconnect_unless_status_has_none() {
    for (status, expected) in WITHOUT_BODY.map(expected_of_unpolled) {
        let registry = TaskRegistry::new();
        let tasks = registry.set();
        let (report, mut endings) = unbounded_channel();
        tasks.add(Task::new(async {}).when(move |ending| report.send(*ending).is_ok()));
        let mut response = Response::new(body("/full"));
        *response.status_mut() = status;
        drop(tasks.attach(response));
        assert_eq!(within(endings.recv()).await, Some(expected));
        within(registry.wait_idle()).await;
        assert_eq!(registry.metrics().completed, 1);
    }
}

mod layer {
    use super::*;

    #[tokio::test]
    async fn changes_nothing_of_response() {
        for version in VERSIONS {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let leave = journal.clone();
            let service =
                TaskLayer::new(registry.clone()).layer(tower::service_fn(move |request: Request<Incoming>| {
                    postlude::after(when_sent(&leave)).unwrap();
                    std::future::ready(Ok::<_, Infallible>(response(&request)))
                }));
            let address = serve_service(version, service);
            check_everything(version, address, &registry, &journal).await;
        }
    }

    #[tokio::test]
    async fn unpolled_body_is_disconnect_unless_status_has_none() {
        for (status, expected) in WITHOUT_BODY.map(expected_of_unpolled) {
            let registry = TaskRegistry::new();
            let (layer, mut endings) = reporting_layer(&registry);
            let service = layer.layer(tower::service_fn(|_: Request<()>| {
                postlude::after(async {}).unwrap();
                let mut response = Response::new(body("/full"));
                *response.status_mut() = status;
                std::future::ready(Ok::<_, Infallible>(response))
            }));
            drop(service.oneshot(Request::new(())).await.unwrap());
            assert_eq!(within(endings.recv()).await, Some(expected));
        }
    }
}
