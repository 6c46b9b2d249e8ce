use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use axum::body::Body;
use hyper::{Request, body::Incoming, server::conn, service::HttpService};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postlude::{TaskBody, TaskLayer, TaskRegistry, after};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower::{Layer, ServiceExt};

use crate::{
    Protocol,
    kinds::KINDS,
    sockets::{Width, listen},
    tape::{Recorder, Tape},
    tls,
};

/// A server on a runtime of its own, so that the client does not take part in its scheduling.
pub(crate) struct Server {
    pub(crate) protocol: Protocol,
    pub(crate) wide: SocketAddr,
    /// Its connections have small buffers: a client that does not read soon holds the server up.
    pub(crate) narrow: SocketAddr,
    pub(crate) connector: TlsConnector,
    tapes: mpsc::UnboundedReceiver<Arc<Tape>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `workers`: none for a `current_thread` runtime.
    pub(crate) fn start(protocol: Protocol, workers: usize) -> Self {
        let (acceptor, connector) = tls::ends();
        let (tell_addresses, addresses) = std::sync::mpsc::channel();
        let (tell_tape, tapes) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            runtime(workers).block_on(async move {
                // Long, so that no wait ends because a busy machine leaves the server without a core.
                let layer = TaskLayer::new(TaskRegistry::new()).drain_within(Duration::from_secs(60));
                let ((wide, wide_address), (narrow, narrow_address)) = (listen(Width::Usual), listen(Width::Narrow));
                tell_addresses.send([wide_address, narrow_address]).unwrap();
                let serving = Serving { protocol, acceptor, layer, tell_tape };
                tokio::select! {
                    () = serving.accept_from(wide) => {}
                    () = serving.accept_from(narrow) => {}
                    _ = stopped => {}
                }
            });
        });
        let [wide, narrow] = addresses.recv().unwrap();
        Self { protocol, wide, narrow, connector, tapes, stop: Some(stop), thread: Some(thread) }
    }

    /// The tape of the connection that was made last. Connections are made one at a time.
    pub(crate) async fn tape(&mut self) -> Arc<Tape> {
        self.tapes.recv().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The next server is to have the machine for itself.
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the server has panicked");
    }
}

pub(crate) fn runtime(workers: usize) -> Runtime {
    let mut builder = if workers == 0 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(workers.max(1)).enable_all().build().unwrap()
}

struct Serving {
    protocol: Protocol,
    acceptor: TlsAcceptor,
    layer: TaskLayer,
    tell_tape: mpsc::UnboundedSender<Arc<Tape>>,
}

impl Serving {
    async fn accept_from(&self, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let tape = Arc::new(Tape::default());
            self.tell_tape.send(Arc::clone(&tape)).unwrap();
            let service = service(&self.layer, Arc::clone(&tape));
            let io = Recorder { stream, tape, is_vectored: self.protocol != Protocol::H1Copied };
            match self.protocol {
                Protocol::H1Tls => {
                    let accept = self.acceptor.accept(io);
                    tokio::spawn(async move { serve_h1(accept.await.unwrap(), service).await });
                }
                Protocol::H1 | Protocol::H1Copied => drop(tokio::spawn(serve_h1(io, service))),
                Protocol::H2 => drop(tokio::spawn(async move {
                    let server = conn::http2::Builder::new(TokioExecutor::new());
                    // How it ends is the client's business.
                    let _ended = server.serve_connection(TokioIo::new(io), service).await;
                })),
            }
        }
    }
}

async fn serve_h1<S>(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, service: S)
where
    S: HttpService<Incoming, ResBody = TaskBody<Body>, Error = Infallible, Future: Send>,
{
    let connection = conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
    let _ended = connection.with_upgrades().await;
}

/// Answers as the kind does whose number the path is; each response leaves one task.
fn service(
    layer: &TaskLayer,
    tape: Arc<Tape>,
) -> impl HttpService<Incoming, ResBody = TaskBody<Body>, Error = Infallible, Future: Send> + use<> {
    let service = layer.layer(tower::service_fn(move |mut request: Request<Incoming>| {
        let tape = Arc::clone(&tape);
        after(async move { tape.task_starts() }).unwrap();
        let number: usize = request.uri().path().trim_start_matches('/').parse().unwrap();
        std::future::ready(Ok(KINDS.get(number).unwrap().response(&mut request)))
    }));
    hyper::service::service_fn(move |request| service.clone().oneshot(request))
}
