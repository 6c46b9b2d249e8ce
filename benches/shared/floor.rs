//! The floor: the least that a layer can do which lets a handler leave tasks to be run after the response. What
//! `TaskLayer` would cost if it made no more promises than that: no clock, no list, no count, no guard. Shared by the
//! benchmarks of the layer.
//!
//! A request costs a bag in its extensions, which is one allocation, and a body that holds on to it. The bag's last
//! reference spawns one tokio task for what is in it; where the body was taken to its end or dropped, that is the
//! body's. To know that the bytes have left as well, the [watching](Until::Released) floor lets each chunk hold a
//! reference, which is given up when the server releases the chunk.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, Response},
};
use futures::{FutureExt, future::BoxFuture};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tower::{Service, layer::layer_fn};

/// How long tasks wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// The server has taken the body to its end.
    Taken,
    /// The server has also released each chunk of it: the first moment that comes after the write.
    Released,
}

/// What a handler leaves its tasks in: an `Extension`.
#[derive(Clone, Default)]
pub(crate) struct Bag(Arc<Tasks>);

#[derive(Default)]
struct Tasks(Mutex<Vec<BoxFuture<'static, ()>>>);

impl Bag {
    pub(crate) fn add(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.0.lock().push(task.boxed());
    }

    fn is_empty(&self) -> bool {
        self.0.0.lock().is_empty()
    }
}

impl Drop for Tasks {
    #[expect(clippy::disallowed_methods, reason = "a peer of what spawns for others")]
    fn drop(&mut self) {
        let tasks = mem::take(self.0.get_mut());
        if !tasks.is_empty() {
            tokio::spawn(async {
                for task in tasks {
                    task.await;
                }
            });
        }
    }
}

/// The router with that layer.
pub(crate) fn floor(router: Router, until: Until) -> Router {
    router.layer(layer_fn(move |inner| Floor { inner, until }))
}

#[derive(Clone)]
struct Floor<S> {
    inner: S,
    until: Until,
}

impl<S> Service<Request<Body>> for Floor<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Holding>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer<S::Future> {
        let bag = Bag::default();
        request.extensions_mut().insert(bag.clone());
        Answer { inner: self.inner.call(request), bag: Some(bag), until: self.until }
    }
}

pin_project! {
    struct Answer<F> {
        #[pin]
        inner: F,
        bag: Option<Bag>,
        until: Until,
    }
}

impl<F, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Holding>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(context))?;
        Poll::Ready(Ok(response.map(|inner| Holding { inner, bag: this.bag.take(), until: *this.until })))
    }
}

/// A body that passes everything on, and holds on to the bag until it is dropped.
struct Holding {
    inner: Body,
    bag: Option<Bag>,
    until: Until,
}

impl Holding {
    fn watch(&self, bytes: Bytes) -> Bytes {
        match &self.bag {
            Some(bag) if self.until == Until::Released && !bag.is_empty() => {
                Bytes::from_owner(Chunk { bytes, _bag: bag.clone() })
            }
            _ => bytes,
        }
    }
}

impl HttpBody for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| self.watch(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What owns the bytes of a chunk, and is dropped when the server releases them.
struct Chunk {
    bytes: Bytes,
    _bag: Bag,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
