//! A task starts when its response has been written: not before, and not after any amount of patience.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    thread,
    time::Duration,
};

use axum::{body::Body, http::Request};
use bytes::Bytes;
use futures::stream;
use http_body_util::BodyExt;
use hyper::{Response, body::Incoming, service::HttpService};
use postlude::{TaskBody, TaskLayer, TaskRegistry, after};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};
use tower::{Layer, ServiceExt};

use crate::net::{Client, VERSIONS, Version, narrow_stream, read_all, request, serve_connection, within};

/// What a server's end of a connection did, in order.
#[derive(Default)]
struct Tape {
    events: Mutex<Vec<Event>>,
    started: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Written(usize),
    TaskStarted,
}

impl Tape {
    fn task_starts(&self) {
        self.events.lock().unwrap().push(Event::TaskStarted);
        self.started.notify_one();
    }

    fn written(&self) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().map(|event| if let Event::Written(bytes) = event { *bytes } else { 0 }).sum()
    }

    fn has_started(&self) -> bool {
        self.events.lock().unwrap().contains(&Event::TaskStarted)
    }

    /// Whether the task of the response that has come in started before it was all written. Rewinds.
    fn was_early(&self) -> bool {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        assert!(events.len() > 1, "something was written, and a task has started: {events:?}");
        events.last() != Some(&Event::TaskStarted)
    }
}

/// A socket that records its writes. Each is made under the tape's lock: whoever has read the bytes finds
/// them on the tape.
struct Recorder {
    stream: TcpStream,
    tape: Arc<Tape>,
}

impl Recorder {
    fn record(
        &mut self,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        // On a machine with few cores an early task rarely finds the moment before a write: it is drawn out.
        thread::sleep(Duration::from_micros(100));
        let mut events = self.tape.events.lock().unwrap();
        let written = ready!(write(Pin::new(&mut self.stream)))?;
        events.push(Event::Written(written));
        Poll::Ready(Ok(written))
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.record(|stream| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.record(|stream| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncRead for Recorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// A server on a runtime of its own, so that the client does not take part in its scheduling.
struct Server {
    address: SocketAddr,
    version: Version,
    tapes: mpsc::UnboundedReceiver<Arc<Tape>>,
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// `workers`: none for a `current_thread` runtime.
    fn start(version: Version, workers: usize, launch_within: Duration) -> Self {
        let (tell_address, address) = std::sync::mpsc::channel();
        let (tell_tape, tapes) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            runtime(workers).block_on(async move {
                let layer = TaskLayer::new(TaskRegistry::new()).launch_within(launch_within);
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell_address.send(listener.local_addr().unwrap()).unwrap();
                let accept = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        stream.set_nodelay(true).unwrap();
                        let tape = Arc::new(Tape::default());
                        tell_tape.send(Arc::clone(&tape)).unwrap();
                        let service = service(&layer, Arc::clone(&tape));
                        tokio::spawn(serve_connection(version, Recorder { stream, tape }, service));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address: address.recv().unwrap(), version, tapes, _stop: stop }
    }

    /// Connects, and gets over the first response, beside which h2 writes its settings.
    async fn connect(&mut self, stream: TcpStream) -> (Client, Arc<Tape>) {
        let mut client = Client::over(self.version, stream).await;
        let tape = within(self.tapes.recv()).await.unwrap();
        is_early(&mut client, &tape, request("GET", "/13")).await;
        (client, tape)
    }
}

fn runtime(workers: usize) -> Runtime {
    let mut builder = if workers == 0 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(workers.max(1)).enable_all().build().unwrap()
}

/// Answers with as many bytes as the path says; each response leaves one task.
fn service(
    layer: &TaskLayer,
    tape: Arc<Tape>,
) -> impl HttpService<Incoming, ResBody = TaskBody<Body>, Error = Infallible, Future: Send> + use<> {
    let service = layer.layer(tower::service_fn(move |request: Request<Incoming>| {
        let tape = Arc::clone(&tape);
        after(async move { tape.task_starts() }).unwrap();
        let response = match request.uri().path() {
            // Over h2, hyper leaves it to the service to send no body.
            _ if request.method() == "HEAD" => Response::new(Body::empty()),
            "/nothing" => Response::builder().status(204).body(Body::empty()).unwrap(),
            "/stream" => Response::new(halting_stream()),
            path => {
                let size = path.trim_start_matches('/').parse().unwrap();
                Response::new(if size == 0 { Body::empty() } else { Body::from(vec![b'x'; size]) })
            }
        };
        std::future::ready(Ok(response))
    }));
    hyper::service::service_fn(move |request| service.clone().oneshot(request))
}

/// A stream that halts before each chunk and before its end, so that the end comes in a write of its own.
fn halting_stream() -> Body {
    Body::from_stream(stream::unfold(3, async |left: u8| {
        tokio::task::yield_now().await;
        (left > 0).then(|| (Ok::<_, Infallible>(Bytes::from_static(b"a chunk of a stream")), left - 1))
    }))
}

/// Makes a request, and tells whether its task was early.
async fn is_early(client: &mut Client, tape: &Tape, request: Request<Body>) -> bool {
    read_all(client.send(request).await).await;
    within(tape.started.notified()).await;
    tape.was_early()
}

/// How many of the tasks left by `rounds` of each of these requests were early, on every runtime.
fn count_early(requests: &[(&str, &str)], rounds: usize) -> Vec<(String, usize)> {
    let mut counts = Vec::new();
    for (version, workers) in VERSIONS.into_iter().flat_map(|version| [0, 1, 2, 4].map(|workers| (version, workers))) {
        let mut server = Server::start(version, workers, Duration::from_secs(3600));
        runtime(0).block_on(async {
            let stream = TcpStream::connect(server.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut client, tape) = server.connect(stream).await;
            for (method, path) in requests {
                let mut early = 0;
                for _ in 0..rounds {
                    early += usize::from(is_early(&mut client, &tape, request(method, path)).await);
                }
                counts.push((format!("{version:?}, {workers} workers, {method} {path}"), early));
            }
        });
    }
    counts
}

#[test]
fn a_task_never_starts_before_the_last_byte_of_its_response_is_written() {
    // h2 copies a last frame of less than 256 bytes, which 16,500 bytes have too.
    let requests = ["/13", "/255", "/4096", "/16500", "/262144"].map(|path| ("GET", path));
    let counts = count_early(&requests, 50);
    let early: Vec<_> = counts.into_iter().filter(|(_, early)| *early > 0).collect();
    assert!(early.is_empty(), "early of 50: {early:#?}");
}

#[test]
fn a_task_hardly_ever_starts_before_an_end_without_bytes_is_written() {
    let rounds = 25;
    let requests = [("GET", "/0"), ("HEAD", "/4096"), ("GET", "/nothing"), ("GET", "/stream")];
    let counts = count_early(&requests, rounds);
    let made = counts.len() * rounds;
    let early: usize = counts.iter().map(|(_, early)| early).sum();
    assert!(early * 100 <= made, "{early} of {made}: {counts:#?}");
}

const LARGE: usize = 16 << 20;

#[tokio::test]
async fn a_task_waits_for_a_client_that_reads_slowly() {
    for version in VERSIONS {
        let mut server = Server::start(version, 2, Duration::from_secs(3600));
        let (mut slow, tape) = server.connect(narrow_stream(server.address).await).await;
        let response = slow.send(request("GET", &format!("/{LARGE}"))).await;

        // Others come and go meanwhile.
        let (mut other, others_tape) = server.connect(TcpStream::connect(server.address).await.unwrap()).await;
        for _ in 0..20 {
            assert!(!is_early(&mut other, &others_tape, request("GET", "/4096")).await);
        }
        assert!(!tape.has_started(), "{version:?}: {} bytes are written", tape.written());
        assert!(tape.written() < LARGE, "the client had to hold the server up for this test to tell anything");

        assert_eq!(read_all(response).await.len(), LARGE);
        within(tape.started.notified()).await;
        assert!(!tape.was_early(), "{version:?}");
    }
}

#[tokio::test]
async fn a_task_does_not_wait_for_ever_for_a_client_that_has_stopped_reading() {
    for version in VERSIONS {
        let mut server = Server::start(version, 2, Duration::from_millis(20));
        let (mut stalled, tape) = server.connect(narrow_stream(server.address).await).await;
        let _unread = stalled.send(request("GET", &format!("/{LARGE}"))).await;
        within(tape.started.notified()).await;
        assert!(tape.written() < LARGE, "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_kept_hold_the_tasks_up_to_the_limit() {
    let default = TaskLayer::new(TaskRegistry::new());
    let cases = [
        (default.clone(), 5000),
        (default.clone().launch_within(Duration::from_secs(90)), 90_000),
        (default.launch_within(Duration::ZERO), 0),
    ];
    for (layer, limit) in cases {
        let (start, started) = oneshot::channel();
        let start = Mutex::new(Some(start));
        let service = layer.layer(tower::service_fn(move |_: Request<Body>| {
            let start = start.lock().unwrap().take().unwrap();
            after(async move { start.send(Instant::now()).unwrap() }).unwrap();
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::from("kept"))))
        }));
        let mut body = service.oneshot(request("GET", "/")).await.unwrap().into_body();
        // The limit counts from the body's end, however long the body took to get there.
        tokio::time::sleep(Duration::from_secs(1000)).await;
        let kept = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        let ended = Instant::now();
        let started = tokio::time::timeout(Duration::from_secs(1000), started).await.unwrap().unwrap();
        let waited = (started - ended).as_millis();
        assert!((limit..limit + 10).contains(&waited), "{waited} ms, not {limit} ms");
        assert_eq!(kept, "kept");
    }
}
