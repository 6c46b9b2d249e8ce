//! Sockets on loopback, and HTTP connections of a client over them.

use std::{net::SocketAddr, panic::Location, time::Duration};

use axum::{body::Body, http::Request};
use hyper::{
    Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// Waits for an event that must come, so that a failure is an error and not a hang.
#[track_caller]
pub(crate) fn within<T>(event: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let waited = tokio::time::timeout(Duration::from_secs(30), event).await;
        waited.unwrap_or_else(|_| panic!("{caller}: it did not happen in time"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    H1,
    H2,
}

/// How much the buffers of a socket hold. A peer that does not read soon holds up the other end of narrow sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Usual,
    Narrow,
}

/// The buffer of a narrow socket, in bytes, at either end.
const NARROW: u32 = 16 << 10;

/// A listener whose connections have send buffers of that width.
pub(crate) fn listen(width: Width) -> (TcpListener, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    if width == Width::Narrow {
        socket.set_send_buffer_size(NARROW).unwrap();
    }
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(1024).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A stream with a receive buffer of that width.
pub(crate) async fn connect(address: SocketAddr, width: Width) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if width == Width::Narrow {
        socket.set_recv_buffer_size(NARROW).unwrap();
    }
    socket.connect(address).await.unwrap()
}

/// The sending end of a client's connection, which a tokio task of its own drives.
pub(crate) enum Sender {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

impl Sender {
    /// Over HTTP/2, a narrow connection lets the server send no more than 64 KiB before they are read.
    pub(crate) async fn handshake<I>(version: Version, io: I, width: Width) -> Self
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(io);
        match version {
            Version::H1 => {
                let (sender, connection) = http1::handshake(io).await.unwrap();
                tokio::spawn(connection.with_upgrades());
                Self::H1(sender)
            }
            Version::H2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                if width == Width::Narrow {
                    builder.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
                }
                let (sender, connection) = builder.handshake(io).await.unwrap();
                tokio::spawn(connection);
                Self::H2(sender)
            }
        }
    }

    /// Sends a request when the one before allows it.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::H2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}
