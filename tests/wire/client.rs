use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{
        Request,
        header::{CONNECTION, HOST, TE, UPGRADE},
    },
};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    Protocol,
    kinds::{KINDS, Kind, Reader},
    server::Server,
    sockets::{Sender, Width, connect, within},
    tape::Tape,
};

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A client's connection, and the tape of the server's end of it.
pub(crate) struct Client {
    sender: Sender,
    pub(crate) tape: Arc<Tape>,
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
        let (address, width) = match reader {
            Reader::AtOnce => (server.wide, Width::Usual),
            Reader::Slow | Reader::Stops => (server.narrow, Width::Narrow),
        };
        let stream = within(connect(address, width)).await;
        stream.set_nodelay(true).unwrap();
        let tape = within(server.tape()).await;
        let io: Box<dyn Io> = if server.protocol == Protocol::H1Tls {
            let connect = server.connector.connect("localhost".try_into().unwrap(), stream);
            Box::new(within(connect).await.unwrap())
        } else {
            Box::new(stream)
        };
        let sender = within(Sender::handshake(server.protocol.version(), io, width)).await;
        // The bytes of the TLS handshake belong to no response.
        tape.rewind();
        Self { sender, tape }
    }

    /// Makes a request of a kind by its number, reads the response, and returns how many bytes of it were written
    /// after its task had started.
    pub(crate) async fn take(&mut self, number: usize) -> usize {
        self.take_around(number, async {}).await
    }

    /// The same, with something to be done when a part of the response has been read.
    async fn take_around(&mut self, number: usize, in_between: impl Future<Output = ()>) -> usize {
        let kind = KINDS.get(number).unwrap();
        let response = within(self.sender.send(request(kind, number))).await.unwrap();
        let mut body = response.into_body();
        let mut in_between = Some(in_between);
        let (mut read, mut had_trailers) = (0, false);
        // After a 101, the connection does not speak HTTP any more.
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
            assert!(tape.written() < size, "the client has to hold the server up or this shows nothing");
        };
        self.take_around(number, others_requests).await
    }
}

fn request(kind: &Kind, number: usize) -> Request<Body> {
    let uri = format!("http://localhost/{number}");
    let mut request = Request::builder().method(kind.method()).uri(uri).header(HOST, "localhost");
    if kind.has_trailers() {
        request = request.header(TE, "trailers");
    }
    if kind.is_upgrade() {
        request = request.header(CONNECTION, "upgrade").header(UPGRADE, "silence");
    }
    request.body(Body::empty()).unwrap()
}
