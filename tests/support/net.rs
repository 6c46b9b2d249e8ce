//! Servers and clients on real sockets.

use std::{convert::Infallible, net::SocketAddr};

use axum::{Router, body::Body, http::Request};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Response, body::Incoming, service::HttpService};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postlude::{Ending, TaskLayer, TaskRegistry};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinHandle,
};
use tower::{Service, ServiceExt};

use super::sockets::{Sender, Width, connect, listen};
pub(crate) use super::sockets::{Version, within};

pub(crate) const VERSIONS: [Version; 2] = [Version::H1, Version::H2];

/// A layer that reports the ending of each request with tasks, and drains them all.
pub(crate) fn reporting_layer(registry: &TaskRegistry) -> (TaskLayer, UnboundedReceiver<Ending>) {
    let (report, endings) = unbounded_channel();
    (TaskLayer::new(registry.clone()).drain_when(move |ending| report.send(*ending).is_ok()), endings)
}

/// Serves a router over HTTP/1.1 and HTTP/2 until the runtime ends.
pub(crate) fn serve(app: Router) -> SocketAddr {
    let (address, _server) = start(app);
    address
}

/// Serves a router like that, by a tokio task that can be aborted.
pub(crate) fn start(app: Router) -> (SocketAddr, JoinHandle<()>) {
    let (listener, address) = listen(Width::Usual);
    (address, tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
}

/// Serves every connection by a clone of a tower service, without axum.
pub(crate) fn serve_service<S, B>(version: Version, service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let (listener, address) = listen(Width::Usual);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            let service = hyper::service::service_fn(move |request| service.clone().oneshot(request));
            tokio::spawn(serve_connection(version, stream, service));
        }
    });
    address
}

/// How the connection ends is the client's business.
async fn serve_connection<S, B>(version: Version, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, service: S)
where
    S: HttpService<Incoming, ResBody = B, Error = Infallible, Future: Send + 'static>,
    B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let io = TokioIo::new(io);
    let _how_it_ended = match version {
        Version::H1 => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
        Version::H2 => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
        }
    };
}

/// A client connection. Dropped, it closes the socket, whatever is in flight.
pub(crate) struct Client {
    sender: Sender,
    /// `None`: the connection is another client's.
    socket: Option<std::net::TcpStream>,
}

impl Client {
    pub(crate) async fn connect(version: Version, address: SocketAddr) -> Self {
        Self::over(version, connect(address, Width::Usual).await).await
    }

    /// Connects with a socket that holds little: most of a long response stays with the server until it is read.
    pub(crate) async fn connect_narrow(version: Version, address: SocketAddr) -> Self {
        Self::over(version, connect(address, Width::Narrow).await).await
    }

    async fn over(version: Version, stream: TcpStream) -> Self {
        let stream = stream.into_std().unwrap();
        let socket = stream.try_clone().unwrap();
        let sender = Sender::handshake(version, TcpStream::from_std(stream).unwrap(), Width::Usual).await;
        Self { sender, socket: Some(socket) }
    }

    /// The same HTTP/2 connection, for a request beside those of `self`.
    pub(crate) fn another_stream(&self) -> Self {
        let Sender::H2(sender) = &self.sender else { panic!("HTTP/1.1 has one request at a time") };
        Self { sender: Sender::H2(sender.clone()), socket: None }
    }

    /// Another handle of the socket, to close it in part, or while a request is under way.
    pub(crate) fn socket(&self) -> std::net::TcpStream {
        self.socket.as_ref().unwrap().try_clone().unwrap()
    }

    /// Sends a request on this connection, when the one before allows it.
    pub(crate) async fn try_send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        self.sender.send(request).await
    }

    pub(crate) async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        within(self.try_send(request)).await.unwrap()
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response<Incoming> {
        self.send(get(path)).await
    }

    /// Gets a response to its end.
    pub(crate) async fn fetch(&mut self, path: &str) -> Bytes {
        read_all(self.get(path).await).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // hyper's own tasks hold the socket too. The server may have closed it before.
        let _closed = self.socket.as_ref().map(|socket| socket.shutdown(std::net::Shutdown::Both));
    }
}

pub(crate) fn get(path: &str) -> Request<Body> {
    request("GET", path)
}

pub(crate) fn request(method: &str, path: &str) -> Request<Body> {
    let uri = format!("http://localhost{path}");
    Request::builder().method(method).uri(uri).header("host", "localhost").body(Body::empty()).unwrap()
}

pub(crate) async fn read_all(response: Response<Incoming>) -> Bytes {
    within(response.into_body().collect()).await.unwrap().to_bytes()
}

/// A client that sends what it is given and then does as it likes.
pub(crate) async fn raw(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = connect(address, Width::Usual).await;
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Reads until what was read ends in `end`.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(text).unwrap()
}
