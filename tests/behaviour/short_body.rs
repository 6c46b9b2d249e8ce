//! A body that ends before its declared length was not sent: the client sees a broken response.

use std::convert::Infallible;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, StatusCode, header::CONTENT_LENGTH},
    response::IntoResponse,
    routing::get as on_get,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use postlude::{Ending, TaskRegistry, TaskSet};

use crate::support::net::{Client, VERSIONS, reporting_layer, request, serve, within};

/// As a file that was truncated while it is served: the head says `declared`, and 9 bytes follow.
fn file(declared: Option<u64>, trailers: bool) -> impl IntoResponse {
    let chunk = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"only this")))]);
    let trailers = trailers.then(|| Ok(Frame::trailers(HeaderMap::new())));
    let head: HeaderMap = declared.map(|length| (CONTENT_LENGTH, length.into())).into_iter().collect();
    (head, Body::new(StreamBody::new(chunk.chain(stream::iter(trailers)))))
}

#[tokio::test]
async fn short_bodies_are_disconnected_and_complete_ones_are_sent() {
    let (sent, disconnected) = (Ending::Sent(StatusCode::OK), Ending::Disconnected(StatusCode::OK));
    let cases = [
        ("GET", Some(1000), false, disconnected),
        ("GET", Some(1000), true, disconnected),
        ("GET", Some(9), false, sent),
        ("GET", None, false, sent),
        ("HEAD", Some(1000), false, sent),
    ];
    for version in VERSIONS {
        for (method, declared, trailers, ending) in cases {
            let registry = TaskRegistry::new();
            let (layer, mut endings) = reporting_layer(&registry);
            let handler = async move |tasks: TaskSet| {
                tasks.add(async {});
                file(declared, trailers)
            };
            let address = serve(Router::new().route("/", on_get(handler)).layer(layer));
            let mut client = Client::connect(version, address).await;
            // HTTP/2 may reset the stream before the client has its head.
            let response = within(client.try_send(request(method, "/"))).await;
            let read = async { response?.into_body().collect().await };
            let is_whole = within(read).await.is_ok();
            assert_eq!(is_whole, ending == sent, "{version:?}: {method} {declared:?} {trailers}");
            assert_eq!(within(endings.recv()).await, Some(ending), "{version:?}: {method} {declared:?} {trailers}");
        }
    }
}
