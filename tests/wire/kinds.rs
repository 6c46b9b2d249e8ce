use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http_body_util::StreamBody;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONNECTION, HeaderValue, TRAILER, UPGRADE},
};

use crate::Protocol;

/// A kind of response and of reader: a row of the table.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) end: End,
    pub(crate) reader: Reader,
    reply: Reply,
    /// One request of this many is made, of those that take long.
    pub(crate) share: usize,
}

/// What is written last of a response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The bytes of its body.
    Bytes,
    /// A head, trailers, or the end of a stream: nothing that the body had in hand.
    Bare,
}

/// How the client reads a response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    AtOnce,
    /// Through narrow sockets, and with a pause after each piece.
    Slow,
    /// Through narrow sockets, and not at all while other requests come and go.
    Stops,
}

#[derive(Clone, Copy)]
enum Reply {
    Known(usize),
    Unknown(usize),
    /// Pauses before each chunk and before the end, which so comes in a write of its own.
    Pausing,
    Trailers(usize),
    ToHead,
    Status(StatusCode),
}

const LARGE: usize = 16 << 20;
const MIDDLE: usize = 256 << 10;

const fn kind(name: &'static str, end: End, reply: Reply) -> Kind {
    Kind { name, end, reader: Reader::AtOnce, reply, share: 1 }
}

const fn read(reader: Reader, share: usize, kind: Kind) -> Kind {
    Kind { reader, share, ..kind }
}

pub(crate) static KINDS: [Kind; 24] = [
    kind("13 B", End::Bytes, Reply::Known(13)),
    kind("4 KiB", End::Bytes, Reply::Known(4096)),
    // HTTP/2 copies a last piece as short as this one's.
    kind("16 KiB and 116 B", End::Bytes, Reply::Known(16_500)),
    kind("256 KiB", End::Bytes, Reply::Known(MIDDLE)),
    read(Reader::Slow, 4, kind("256 KiB, read slowly", End::Bytes, Reply::Known(MIDDLE))),
    read(Reader::Stops, 4, kind("256 KiB, reader stops for a while", End::Bytes, Reply::Known(MIDDLE))),
    read(Reader::AtOnce, 20, kind("16 MiB", End::Bytes, Reply::Known(LARGE))),
    read(Reader::Stops, 40, kind("16 MiB, reader stops for a while", End::Bytes, Reply::Known(LARGE))),
    kind("13 B, unknown length", End::Bare, Reply::Unknown(13)),
    kind("4 KiB, unknown length", End::Bare, Reply::Unknown(4096)),
    kind("256 KiB, unknown length", End::Bare, Reply::Unknown(MIDDLE)),
    read(Reader::Slow, 4, kind("256 KiB, unknown length, read slowly", End::Bare, Reply::Unknown(MIDDLE))),
    read(Reader::Stops, 4, kind("256 KiB, unknown length, reader stops", End::Bare, Reply::Unknown(MIDDLE))),
    read(Reader::AtOnce, 20, kind("16 MiB, unknown length", End::Bare, Reply::Unknown(LARGE))),
    kind("stream with pauses", End::Bare, Reply::Pausing),
    kind("13 B and trailers", End::Bare, Reply::Trailers(13)),
    kind("4 KiB and trailers", End::Bare, Reply::Trailers(4096)),
    kind("trailers only", End::Bare, Reply::Trailers(0)),
    kind("empty", End::Bare, Reply::Known(0)),
    kind("empty, unknown length", End::Bare, Reply::Unknown(0)),
    kind("HEAD", End::Bare, Reply::ToHead),
    kind("204", End::Bare, Reply::Status(StatusCode::NO_CONTENT)),
    kind("304", End::Bare, Reply::Status(StatusCode::NOT_MODIFIED)),
    kind("101", End::Bare, Reply::Status(StatusCode::SWITCHING_PROTOCOLS)),
];

impl Kind {
    pub(crate) fn exists_over(&self, protocol: Protocol) -> bool {
        !self.is_upgrade() || protocol != Protocol::H2
    }

    pub(crate) const fn method(&self) -> Method {
        if matches!(self.reply, Reply::ToHead) { Method::HEAD } else { Method::GET }
    }

    pub(crate) const fn is_upgrade(&self) -> bool {
        matches!(self.reply, Reply::Status(StatusCode::SWITCHING_PROTOCOLS))
    }

    /// How many bytes the client gets to see.
    pub(crate) fn len(&self) -> usize {
        match self.reply {
            Reply::Known(size) | Reply::Unknown(size) | Reply::Trailers(size) => size,
            Reply::Pausing => CHUNKS * CHUNK.len(),
            Reply::ToHead | Reply::Status(_) => 0,
        }
    }

    /// Whether it is more than what the sockets hold, so that the server may have to wait for the client.
    pub(crate) fn may_wait_for_reader(&self) -> bool {
        self.reader != Reader::AtOnce || self.len() == LARGE
    }

    pub(crate) fn has_trailers(&self) -> bool {
        matches!(self.reply, Reply::Trailers(_))
    }

    pub(crate) fn response(&self, request: &mut Request<Incoming>) -> Response<Body> {
        match self.reply {
            // Over HTTP/2, hyper leaves it to the service to send no body to HEAD.
            Reply::ToHead | Reply::Known(0) => Response::new(Body::empty()),
            Reply::Known(size) => Response::new(Body::from(vec![b'x'; size])),
            Reply::Unknown(size) => {
                Response::new(Body::from_stream(stream::iter(chunks(size).map(Ok::<_, Infallible>))))
            }
            Reply::Pausing => Response::new(pausing()),
            Reply::Trailers(size) => {
                let mut response = Response::new(with_trailers(size));
                // HTTP/1.1 sends trailers that were announced only.
                response.headers_mut().insert(TRAILER, HeaderValue::from_static("grpc-status"));
                response
            }
            Reply::Status(StatusCode::SWITCHING_PROTOCOLS) => {
                let upgrade = hyper::upgrade::on(request);
                tokio::spawn(async move { drop(upgrade.await.unwrap()) });
                let head = Response::builder().status(101).header(CONNECTION, "upgrade").header(UPGRADE, "silence");
                head.body(Body::empty()).unwrap()
            }
            Reply::Status(status) => Response::builder().status(status).body(Body::empty()).unwrap(),
        }
    }
}

fn chunks(size: usize) -> impl Iterator<Item = Bytes> + Send + 'static {
    const AT_MOST: usize = 64 << 10;
    let starts = (0..size).step_by(AT_MOST);
    starts.map(move |start| Bytes::from(vec![b'x'; AT_MOST.min(size - start)]))
}

const CHUNK: &[u8] = b"a chunk of a stream";
const CHUNKS: usize = 3;

fn pausing() -> Body {
    Body::from_stream(stream::unfold(CHUNKS, async |left| {
        tokio::time::sleep(Duration::from_millis(1)).await;
        (left > 0).then(|| (Ok::<_, Infallible>(Bytes::from_static(CHUNK)), left - 1))
    }))
}

fn with_trailers(size: usize) -> Body {
    let trailers =
        HeaderMap::from_iter([(hyper::header::HeaderName::from_static("grpc-status"), HeaderValue::from(0))]);
    let frames = chunks(size).map(Frame::data).chain([Frame::trailers(trailers)]);
    Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>))))
}
