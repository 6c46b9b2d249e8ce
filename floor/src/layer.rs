//! The layer.
//!
//! A request costs a bag in its extensions, which is one allocation, and a body that holds on to it. The last reference to
//! the bag spawns one tokio task for all that is in it; the body has that reference when it was taken to its end or
//! dropped. To know that the bytes have left as well, the [watching](Until::Released) floor lets each chunk hold a
//! reference, which is dropped when the server releases the chunk. The [keeping](keeping_floor) floor does the same for
//! tasks that are listed, guarded, counted and timed.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, OnceLock},
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

use crate::{Registry, Set};

/// How long tasks wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The server has taken the body to its end.
    Taken,
    /// The server has also released each chunk of it: the first moment that comes after the write.
    Released,
}

/// Takes the tasks of a request. It is in the request's extensions.
#[derive(Clone)]
pub struct Bag(Arc<Tasks>);

enum Tasks {
    /// Spawned, and forgotten.
    Plain(Mutex<Vec<BoxFuture<'static, ()>>>),
    /// In a set of a registry, which is made for the first task.
    Kept(OnceLock<Arc<Set>>, Registry),
}

impl Bag {
    fn new(keeps: Option<&Registry>) -> Self {
        Self(Arc::new(match keeps {
            None => Tasks::Plain(Mutex::default()),
            Some(registry) => Tasks::Kept(OnceLock::new(), registry.clone()),
        }))
    }

    /// Adds a task.
    pub fn add(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &*self.0 {
            Tasks::Plain(tasks) => tasks.lock().push(task.boxed()),
            Tasks::Kept(set, registry) => _ = set.get_or_init(|| registry.set()).add(task),
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        match &*self.0 {
            Tasks::Plain(tasks) => tasks.lock().is_empty(),
            Tasks::Kept(set, _) => set.get().is_none(),
        }
    }
}

impl Drop for Tasks {
    #[expect(clippy::disallowed_methods, reason = "a peer of what spawns for others")]
    fn drop(&mut self) {
        let tasks = match self {
            Self::Plain(tasks) => mem::take(tasks.get_mut()),
            Self::Kept(set, _) => return set.take().into_iter().for_each(Set::drain),
        };
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
    router.layer(layer_fn(move |inner| Floor { inner, until, keeps: None }))
}

/// The same whose tasks are those of a set of `registry`, with all the promises of this to its tasks. They run when the
/// server has released the bytes.
pub fn keeping_floor(router: Router, registry: &Registry) -> Router {
    let keeps = Some(registry.clone());
    router.layer(layer_fn(move |inner| Floor { inner, until: Until::Released, keeps: keeps.clone() }))
}

#[derive(Clone)]
struct Floor<S> {
    inner: S,
    until: Until,
    keeps: Option<Registry>,
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
        let bag = Bag::new(self.keeps.as_ref());
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
    async fn keeping_floor_counts_tasks_after_release_of_bytes() {
        let registry = Registry::new();
        let handler = async |Extension(bag): Extension<Bag>| {
            bag.add(async {});
            "ok"
        };
        let app = keeping_floor(Router::new().route("/", get(handler)), &registry);
        let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        yield_now().await;
        assert_eq!(registry.counts().completed, 0);
        drop(bytes);
        yield_now().await;
        assert_eq!(registry.counts().completed, 1);
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
