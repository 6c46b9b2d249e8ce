//! The layer.
//!
//! A request costs a bag in its extensions, which is one allocation, and a body that holds on to it. The last reference to
//! the bag spawns one tokio task for all that is in it; the body has that reference when it was taken to its end or
//! dropped. To know that the bytes have left as well, the [watching](Until::Released) floor lets each chunk hold a
//! reference, which is dropped when the server releases the chunk.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{Request, Response},
};
use futures::{FutureExt, future::BoxFuture};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tower_layer::layer_fn;
use tower_service::Service;

/// How long tasks wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The server has taken the body to its end.
    Taken,
    /// The server has also released each chunk of it: the first moment that comes after the write.
    Released,
}

/// Takes the tasks of a request. It is in the request's extensions.
#[derive(Clone, Default)]
pub struct Bag(Arc<Tasks>);

#[derive(Default)]
struct Tasks(Mutex<Vec<BoxFuture<'static, ()>>>);

impl Bag {
    /// Adds a task.
    pub fn add(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.0.lock().push(task.boxed());
    }

    #[inline]
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

/// The router with the layer, which adds a [`Bag`] to the extensions of each request.
pub fn floor(router: Router, until: Until) -> Router {
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
    type Response = Response<HoldingBody>;
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
    type Output = Result<Response<HoldingBody>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(context))?;
        Poll::Ready(Ok(response.map(|inner| HoldingBody { inner, bag: this.bag.take(), until: *this.until })))
    }
}

/// A body that passes everything on, and holds on to the bag until it is dropped.
struct HoldingBody {
    inner: Body,
    bag: Option<Bag>,
    until: Until,
}

impl HoldingBody {
    fn watch(&self, bytes: Bytes) -> Bytes {
        match &self.bag {
            Some(bag) if self.until == Until::Released && !bag.is_empty() => {
                Bytes::from_owner(Chunk { bytes, _bag: bag.clone() })
            }
            _ => bytes,
        }
    }
}

impl HttpBody for HoldingBody {
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

/// The owner of the bytes of a chunk, dropped when the server releases them.
struct Chunk {
    bytes: Bytes,
    _bag: Bag,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::{Extension, routing::get};
    use http_body_util::BodyExt;
    use tokio::task::yield_now;
    use tower::ServiceExt;

    use super::*;

    /// A floor whose handler adds a task that sets the flag.
    fn app(until: Until) -> (Router, Arc<AtomicBool>) {
        let ran = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ran);
        let handler = async move |Extension(bag): Extension<Bag>| {
            bag.add(async move { flag.store(true, Ordering::SeqCst) });
            "ok"
        };
        (floor(Router::new().route("/", get(handler)), until), ran)
    }

    #[tokio::test]
    async fn taken_runs_tasks_after_end_of_body() {
        let (app, ran) = app(Until::Taken);
        let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
        yield_now().await;
        assert!(!ran.load(Ordering::SeqCst));
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        yield_now().await;
        assert!(ran.load(Ordering::SeqCst));
        assert_eq!(bytes, "ok");
    }

    #[tokio::test]
    async fn released_runs_tasks_after_release_of_bytes() {
        let (app, ran) = app(Until::Released);
        let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        yield_now().await;
        assert!(!ran.load(Ordering::SeqCst));
        drop(bytes);
        yield_now().await;
        assert!(ran.load(Ordering::SeqCst));
    }
}
