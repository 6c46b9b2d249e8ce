use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
    header::{CONNECTION, HOST, TE, UPGRADE},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpSocket,
};

use crate::{
    Protocol,
    kinds::{KINDS, Kind, Reader},
    server::{NARROW, Server},
    tape::Tape,
};

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A client's connection, and the tape of the server's end of it.
pub(crate) struct Client {
    sender: Sender,
    pub(crate) tape: Arc<Tape>,
}

enum Sender {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    /// Connects, and gets over the first response, beside which h2 writes its settings.
    pub(crate) async fn connect(server: &mut Server, reader: Reader) -> Self {
        let mut client = Self::connect_fresh(server, reader).await;
        if server.protocol == Protocol::H2 {
            client.take(0).await;
        }
        client
    }

    async fn connect_fresh(server: &mut Server, reader: Reader) -> Self {
        let is_narrow = reader != Reader::AtOnce;
        let socket = TcpSocket::new_v4().unwrap();
        if is_narrow {
            socket.set_recv_buffer_size(NARROW).unwrap();
        }
        let address = if is_narrow { server.narrow } else { server.wide };
        let stream = within(socket.connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let tape = within(server.tape()).await;
        let io: Box<dyn Io> = if server.protocol == Protocol::H1Tls {
            let connect = server.connector.connect("localhost".try_into().unwrap(), stream);
            Box::new(within(connect).await.unwrap())
        } else {
            Box::new(stream)
        };
        let sender = handshake(server.protocol, TokioIo::new(io), is_narrow).await;
        // What the handshake of TLS has written is none of a response's bytes.
        tape.rewind();
        Self { sender, tape }
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> Response<Incoming> {
        match &mut self.sender {
            Sender::H1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Sender::H2(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
        }
    }

    /// Makes a request of a kind by its number, reads the response, and tells how many bytes of it were written
    /// after its task had started.
    pub(crate) async fn take(&mut self, number: usize) -> usize {
        self.take_around(number, async {}).await
    }

    /// The same, with something to be done when a part of the response has been read.
    async fn take_around(&mut self, number: usize, in_between: impl Future<Output = ()>) -> usize {
        let kind = KINDS.get(number).unwrap();
        let response = within(self.send(request(kind, number))).await;
        let mut body = response.into_body();
        let mut in_between = Some(in_between);
        let (mut read, mut had_trailers) = (0, false);
        // After a 101, what is read is not HTTP any more.
        while let Some(frame) = within(body.frame()).await {
            let frame = frame.unwrap();
            read += frame.data_ref().map_or(0, Bytes::len);
            had_trailers |= frame.is_trailers();
            if let Some(in_between) = in_between.take() {
                in_between.await;
            }
            if kind.reader == Reader::Slow {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert_eq!((read, had_trailers), (kind.len(), kind.has_trailers()), "{}", kind.name);
        within(self.tape.started()).await;
        self.tape.written_late()
    }

    /// Takes a response in two parts, and makes requests of another client's between them.
    pub(crate) async fn take_around_another(&mut self, number: usize, other: &mut Self) -> usize {
        let tape = Arc::clone(&self.tape);
        let size = KINDS.get(number).unwrap().len();
        let others_requests = async move {
            for _ in 0..4 {
                other.take(0).await;
            }
            assert!(tape.written() < size, "the client has to hold the server up for this to tell anything");
        };
        self.take_around(number, others_requests).await
    }
}

async fn handshake(protocol: Protocol, io: TokioIo<Box<dyn Io>>, is_narrow: bool) -> Sender {
    if protocol == Protocol::H2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        if is_narrow {
            builder.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        }
        let (sender, connection) = within(builder.handshake(io)).await.unwrap();
        tokio::spawn(connection);
        Sender::H2(sender)
    } else {
        let (sender, connection) = within(http1::handshake(io)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Sender::H1(sender)
    }
}

fn request(kind: &Kind, number: usize) -> Request<Empty<Bytes>> {
    let uri = format!("http://localhost/{number}");
    let mut request = Request::builder().method(kind.method()).uri(uri).header(HOST, "localhost");
    if kind.has_trailers() {
        request = request.header(TE, "trailers");
    }
    if kind.is_upgrade() {
        request = request.header(CONNECTION, "upgrade").header(UPGRADE, "silence");
    }
    request.body(Empty::new()).unwrap()
}

/// Waits for an event that must come, so that a failure is an error and not a hang.
async fn within<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), event).await.unwrap_or_else(|_| panic!("it did not happen in time"))
}
