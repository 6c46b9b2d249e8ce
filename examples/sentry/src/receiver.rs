//! A receiver of Sentry's protocol on loopback, with a thread of its own.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use postlude::BoxError;
use sentry::{Envelope, protocol::Event};
use tokio::{net::TcpListener, runtime::Builder};

type Bodies = Arc<Mutex<Vec<Bytes>>>;

pub(crate) struct Receiver {
    address: SocketAddr,
    bodies: Bodies,
}

/// Keeps each body. <https://develop.sentry.dev/sdk/data-model/envelopes/> describes them.
async fn envelope(State(bodies): State<Bodies>, body: Bytes) -> (StatusCode, &'static str) {
    bodies.lock().unwrap_or_else(PoisonError::into_inner).push(body);
    (StatusCode::OK, "{}")
}

pub(crate) fn start() -> io::Result<Receiver> {
    let bodies = Bodies::default();
    let app = Router::new().route("/api/1/envelope/", post(envelope)).with_state(Arc::clone(&bodies));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    thread::Builder::new()
        .name("receiver".into())
        .spawn(move || runtime.block_on(async { axum::serve(listener, app).await }))?;
    Ok(Receiver { address, bodies })
}

impl Receiver {
    pub(crate) fn dsn(&self) -> String {
        format!("http://key@{}/1", self.address)
    }

    /// The events of all envelopes so far.
    pub(crate) fn received(&self) -> Result<Vec<Event<'static>>, BoxError> {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let envelopes = bodies.iter().map(|body| Envelope::from_slice(body)).collect::<Result<Vec<_>, _>>()?;
        Ok(envelopes.iter().filter_map(|envelope| envelope.event().cloned()).collect())
    }
}
