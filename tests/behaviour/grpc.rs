//! gRPC: its responses end in trailers, and its errors are trailers of a response with status 200.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
    middleware::map_response,
};
use bytes::{Buf, BufMut, Bytes};
use futures::{Stream, StreamExt, channel::mpsc, stream::BoxStream};
use http_body_util::BodyExt;
use hyper::{Response, body::Incoming};
use postlude::{Ending, TaskRegistry, TaskSet};
use tokio::sync::mpsc::UnboundedReceiver;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::Grpc,
};

use crate::support::{
    Journal, assert_conserved,
    net::{Client, Version, read_all, reporting_layer, serve, within},
    until,
};

/// Messages that are just bytes.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

type Messages = BoxStream<'static, Result<Bytes, Status>>;

/// A server whose calls leave a task each.
struct Site {
    address: SocketAddr,
    registry: TaskRegistry,
    journal: Journal,
    endings: UnboundedReceiver<Ending>,
    /// What `/stream` answers: a message or an error each.
    messages: mpsc::UnboundedSender<Result<Bytes, Status>>,
}

impl Site {
    async fn open() -> Self {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (layer, endings) = reporting_layer(&registry);
        let (messages, to_come) = mpsc::unbounded();
        let to_come = std::sync::Arc::new(std::sync::Mutex::new(Some(to_come)));
        let (leave, note) = (journal.clone(), journal.clone());
        let unary = tower::service_fn(move |request| call_unary(request, leave.clone()));
        let leave = journal.clone();
        let streaming = tower::service_fn(move |request| {
            let to_come = to_come.lock().unwrap().take().unwrap();
            call_streaming(request, leave.clone(), to_come)
        });
        let app = Router::new()
            .route_service("/unary", unary)
            .route_service("/stream", streaming)
            // Inside the layer: what passes here has not left yet.
            .layer(map_response(move |response| std::future::ready(note_trailers(response, note.clone()))))
            .layer(layer);
        Self { address: serve(app), registry, journal, endings, messages }
    }

    /// The call has ended like this, and this is what has happened in all.
    async fn ended(&mut self, ending: Ending, journal: &[&str]) {
        assert_eq!(within(self.endings.recv()).await, Some(ending));
        within(self.registry.wait_idle()).await;
        assert_eq!(self.journal.read(), journal);
        let tasks = journal.iter().filter(|entry| **entry != "trailers").count() as u64;
        assert_eq!(self.registry.metrics().completed, tasks);
        assert_conserved(&self.registry, tasks);
    }

    /// Makes a unary call, and waits for its task: what was to start by itself would have, too.
    async fn let_another_pass(&mut self, client: &mut Client) {
        let before = self.journal.read().len();
        assert_eq!(read_all(call(client, "/unary", "").await).await, framed(""));
        assert_eq!(within(self.endings.recv()).await, Some(SENT));
        until(|| self.journal.read().len() >= before + 2).await;
    }
}

fn note_trailers(response: axum::response::Response, journal: Journal) -> axum::response::Response {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            if frame.is_trailers() {
                journal.note("trailers");
            }
            frame
        }))
    })
}

/// Answers with what it was asked; it refuses to be asked for `nothing`.
async fn call_unary(request: Request<Body>, journal: Journal) -> Result<Response<tonic::body::Body>, Infallible> {
    let echo = tower::service_fn(async |request: tonic::Request<Bytes>| {
        request.extensions().get::<TaskSet>().unwrap().add(journal.task("unary"));
        match request.into_inner() {
            message if message == "nothing" => Err(Status::invalid_argument("nothing was asked")),
            message => Ok(tonic::Response::new(message)),
        }
    });
    Ok(Grpc::new(Plain).unary(echo, request).await)
}

async fn call_streaming(
    request: Request<Body>,
    journal: Journal,
    messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> Result<Response<tonic::body::Body>, Infallible> {
    let mut messages = Some(messages.boxed());
    let subscribe = tower::service_fn(|request: tonic::Request<Bytes>| {
        request.extensions().get::<TaskSet>().unwrap().add(journal.task("stream"));
        std::future::ready(Ok::<tonic::Response<Messages>, Status>(tonic::Response::new(messages.take().unwrap())))
    });
    Ok(Grpc::new(Plain).server_streaming(subscribe, request).await)
}

/// A message as it is on the wire.
fn framed(message: &str) -> Bytes {
    let mut frame = vec![0];
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put(message.as_bytes());
    frame.into()
}

async fn call(client: &mut Client, path: &str, message: &str) -> Response<Incoming> {
    let request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::from(framed(message)))
        .unwrap();
    let response = client.send(request).await;
    assert_eq!(response.status(), StatusCode::OK);
    response
}

fn grpc_status(headers: &HeaderMap) -> &str {
    headers["grpc-status"].to_str().unwrap()
}

const SENT: Ending = Ending::Sent(StatusCode::OK);

#[tokio::test]
async fn unary_call_runs_tasks_after_trailers() {
    let mut site = Site::open().await;
    let mut client = Client::connect(Version::H2, site.address).await;
    let response = call(&mut client, "/unary", "an echo").await;
    let response = within(response.into_body().collect()).await.unwrap();
    assert_eq!(grpc_status(response.trailers().unwrap()), "0");
    assert_eq!(response.to_bytes(), framed("an echo"));
    site.ended(SENT, &["trailers", "unary"]).await;
}

#[tokio::test]
async fn failed_call_has_http_status_200() {
    let mut site = Site::open().await;
    let mut client = Client::connect(Version::H2, site.address).await;
    let response = call(&mut client, "/unary", "nothing").await;
    assert_eq!(grpc_status(response.headers()), "3", "the head is the trailers");
    assert!(read_all(response).await.is_empty());
    site.ended(SENT, &["unary"]).await;
}

#[tokio::test]
async fn streaming_call_runs_tasks_after_trailers() {
    let mut site = Site::open().await;
    let mut client = Client::connect(Version::H2, site.address).await;
    let mut body = call(&mut client, "/stream", "").await.into_body();
    for message in ["first", "last"] {
        site.messages.unbounded_send(Ok(message.into())).unwrap();
        let frame = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), framed(message));
        site.let_another_pass(&mut client).await;
    }
    assert_eq!(site.journal.read(), ["trailers", "unary", "trailers", "unary"]);
    site.messages.close_channel();
    let end = within(body.collect()).await.unwrap();
    assert_eq!(grpc_status(end.trailers().unwrap()), "0");
    site.ended(SENT, &["trailers", "unary", "trailers", "unary", "trailers", "stream"]).await;
}

#[tokio::test]
async fn stream_with_grpc_error_is_sent() {
    let mut site = Site::open().await;
    let mut client = Client::connect(Version::H2, site.address).await;
    let body = call(&mut client, "/stream", "").await.into_body();
    site.messages.unbounded_send(Ok("first".into())).unwrap();
    site.messages.unbounded_send(Err(Status::data_loss("the rest is lost"))).unwrap();
    let end = within(body.collect()).await.unwrap();
    assert_eq!(grpc_status(end.trailers().unwrap()), "15");
    site.ended(SENT, &["trailers", "stream"]).await;
}

#[tokio::test]
async fn cancelled_call_is_disconnected() {
    let mut site = Site::open().await;
    let mut client = Client::connect(Version::H2, site.address).await;
    let mut body = call(&mut client, "/stream", "").await.into_body();
    site.messages.unbounded_send(Ok("first".into())).unwrap();
    within(body.frame()).await.unwrap().unwrap();
    drop(body);
    site.ended(Ending::Disconnected(StatusCode::OK), &["stream"]).await;
}
