//! The body that the layer hands to the server. It hands long chunks on in pieces, and must tell their length and end.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, Request, Response, StatusCode},
};
use bytes::{Buf, Bytes};
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Frame, SizeHint};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use postlude::{Ending, TaskBody, TaskLayer, TaskRegistry, TaskSet};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    assert_conserved,
    net::{get, reporting_layer, within},
};

const PIECE: usize = 128 << 10;

/// The body of a response that left a task.
async fn respond(layer: &TaskLayer, body: impl Fn() -> Body) -> TaskBody<Body> {
    let service = layer.layer(service_fn(|request: Request<Body>| {
        request.extensions().get::<TaskSet>().unwrap().add(async {});
        std::future::ready(Ok::<_, Infallible>(Response::new(body())))
    }));
    service.oneshot(get("/")).await.unwrap().into_body()
}

/// Different bytes, so that none can be lost or taken for another.
fn bytes(length: usize) -> Bytes {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// A body of one chunk of a length that is not known, and trailers.
fn with_trailers(length: usize) -> Body {
    let frames = [Frame::data(bytes(length)), Frame::trailers(HeaderMap::new())];
    Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>))))
}

#[tokio::test(start_paused = true)]
async fn tells_its_length_and_its_end() {
    for length in [0, 1, PIECE, PIECE + 1, 5 * PIECE, 5 * PIECE + 7] {
        let registry = TaskRegistry::new();
        let (layer, mut endings) = reporting_layer(&registry);
        let mut body = respond(&layer, || Body::from(bytes(length))).await;
        let mut read = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some((length - read.len()) as u64), "{length}");
            let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!((1..=PIECE).contains(&chunk.len()), "{length}");
            read.extend_from_slice(&chunk);
        }
        assert_eq!((body.size_hint().exact(), read), (Some(0), bytes(length).to_vec()));
        drop(body);
        assert_eq!(within(endings.recv()).await, Some(Ending::Sent(StatusCode::OK)), "{length}");
        registry.wait_idle().await;
        assert_conserved(&registry, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn pieces_come_before_trailers() {
    let registry = TaskRegistry::new();
    let (layer, mut endings) = reporting_layer(&registry);
    let collected = respond(&layer, || with_trailers(3 * PIECE)).await.collect().await.unwrap();
    assert!(collected.trailers().is_some());
    assert_eq!(collected.to_bytes(), bytes(3 * PIECE));
    assert_eq!(within(endings.recv()).await, Some(Ending::Sent(StatusCode::OK)));
}

#[tokio::test(start_paused = true)]
async fn client_that_leaves_between_pieces_is_disconnected() {
    let (layer, mut endings) = reporting_layer(&TaskRegistry::new());
    let mut body = respond(&layer, || Body::from(bytes(2 * PIECE))).await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), bytes(2 * PIECE)[..PIECE]);
    drop(body);
    assert_eq!(within(endings.recv()).await, Some(Ending::Disconnected(StatusCode::OK)));
}

#[tokio::test(start_paused = true)]
async fn pieces_add_to_a_length_that_is_between_bounds() {
    /// Says of its length only that it is at most so much.
    struct AtMost(VecDeque<Bytes>);

    impl hyper::body::Body for AtMost {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
        }

        fn size_hint(&self) -> SizeHint {
            let mut hint = SizeHint::new();
            hint.set_upper(self.0.iter().map(|chunk| chunk.remaining() as u64).sum());
            hint
        }
    }

    let registry = TaskRegistry::new();
    let body = || Body::new(AtMost([bytes(2 * PIECE), bytes(10)].into()));
    let mut body = respond(&TaskLayer::new(registry), body).await;
    drop(body.frame().await.unwrap().unwrap());
    let (piece, rest) = (PIECE as u64, PIECE as u64 + 10);
    assert_eq!((body.size_hint().lower(), body.size_hint().upper()), (piece, Some(rest)));
    assert!(!body.is_end_stream());
}

/// A socket that counts its bytes, and has no vectored writes, as most TLS streams have none.
struct Copying(TcpStream, Arc<AtomicUsize>);

impl AsyncRead for Copying {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buf)
    }
}

impl AsyncWrite for Copying {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.0).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.1.fetch_add(count, Ordering::SeqCst);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// hyper copies at most that much before it waits for the socket: its buffer of 408 KiB, which one piece may overrun.
const BUFFERED: usize = (8 << 10) + 100 * (4 << 10) + PIECE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copying_writer_is_early_by_its_buffer_at_most() {
    const LENGTH: usize = 4 << 20;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(8 << 10).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(8).unwrap();
    let address = listener.local_addr().unwrap();
    let (written, at_start) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let registry = TaskRegistry::new();
    let (count, start) = (Arc::clone(&written), Arc::clone(&at_start));
    let layer = TaskLayer::new(registry.clone()).drain_within(Duration::MAX);
    let service = layer.layer(service_fn(move |request: Request<hyper::body::Incoming>| {
        let (count, start) = (Arc::clone(&count), Arc::clone(&start));
        let task = async move { start.store(count.load(Ordering::SeqCst), Ordering::SeqCst) };
        request.extensions().get::<TaskSet>().unwrap().add(task);
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::from(bytes(LENGTH)))))
    }));
    tokio::spawn(async move {
        let io = TokioIo::new(Copying(listener.accept().await.unwrap().0, written));
        let server = hyper::server::conn::http1::Builder::new();
        server.serve_connection(io, TowerToHyperService::new(service)).await.unwrap();
    });
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer)).await.unwrap();
    within(registry.wait_idle()).await;
    let early = answer.len() - at_start.load(Ordering::SeqCst);
    assert!(early <= BUFFERED, "of {} bytes, {early} were written after the task had started", answer.len());
}
