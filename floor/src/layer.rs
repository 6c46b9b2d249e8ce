//! The layer.
//!
//! A request costs a bag in its extensions, which is one allocation, and a body that holds on to it. The last reference to
//! the bag spawns one tokio task for all that is in it; the body has that reference when it was taken to its end or
//! dropped. To know that the bytes have left as well, the [watching](Until::Released) floor lets each chunk hold a
//! reference, which is dropped when the server releases the chunk. The [keeping](keeping_floor) floor does the same for
//! tasks that are listed, guarded, counted and timed. The [waiting](waiting_floor) floor waits for the last write, too,
//! and no longer for a client than a limit allows.

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

use crate::{
    Registry, Set,
    waits::{Limit, Waits},
};

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
    Kept(Kept),
}

struct Kept {
    set: OnceLock<Arc<Set>>,
    registry: Registry,
    /// How it waits for its client, and since when.
    waits: Option<(Arc<Waits>, OnceLock<Arc<Limit>>)>,
}

impl Bag {
    fn new(keeps: Option<&Keeps>) -> Self {
        Self(Arc::new(match keeps {
            None => Tasks::Plain(Mutex::default()),
            Some(Keeps { registry, waits }) => Tasks::Kept(Kept {
                set: OnceLock::new(),
                registry: registry.clone(),
                waits: waits.as_ref().map(|waits| (Arc::clone(waits), OnceLock::new())),
            }),
        }))
    }

    /// Adds a task.
    pub fn add(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &*self.0 {
            Tasks::Plain(tasks) => tasks.lock().push(task.boxed()),
            Tasks::Kept(Kept { set, registry, .. }) => _ = set.get_or_init(|| registry.set()).add(task),
        }
    }

    /// There is a response, or the server has asked for its body.
    fn polled(&self) {
        if let Tasks::Kept(Kept { set, waits: Some((waits, limit)), .. }) = &*self.0 {
            match (limit.get(), set.get()) {
                (Some(limit), _) => limit.polled(),
                (None, Some(set)) => _ = limit.set(waits.head(set)),
                (None, None) => {}
            }
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        match &*self.0 {
            Tasks::Plain(tasks) => tasks.lock().is_empty(),
            Tasks::Kept(kept) => kept.set.get().is_none(),
        }
    }
}

impl Drop for Tasks {
    #[expect(clippy::disallowed_methods, reason = "a peer of what spawns for others")]
    fn drop(&mut self) {
        let tasks = match self {
            Self::Plain(tasks) => mem::take(tasks.get_mut()),
            Self::Kept(Kept { set, waits, .. }) => {
                let Some(set) = set.take() else { return };
                match waits {
                    None => set.drain(),
                    Some((waits, limit)) => waits.released(set, limit.take()),
                }
                return;
            }
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
    keeping(router, Keeps { registry: registry.clone(), waits: None })
}

/// The same, whose tasks run when the bytes had the time to be written, and wait for no client longer than a limit
/// allows. Call it inside a runtime.
pub fn waiting_floor(router: Router, registry: &Registry) -> Router {
    keeping(router, Keeps { registry: registry.clone(), waits: Some(Waits::start()) })
}

fn keeping(router: Router, keeps: Keeps) -> Router {
    router.layer(layer_fn(move |inner| Floor { inner, until: Until::Released, keeps: Some(keeps.clone()) }))
}

/// What a layer needs to keep the promises of a [`Set`].
#[derive(Clone)]
struct Keeps {
    registry: Registry,
    waits: Option<Arc<Waits>>,
}

#[derive(Clone)]
struct Floor<S> {
    inner: S,
    until: Until,
    keeps: Option<Keeps>,
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
        this.bag.iter().for_each(Bag::polled);
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
        self.bag.iter().for_each(Bag::polled);
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
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

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

    #[tokio::test(start_paused = true)]
    async fn waiting_floor_waits_for_the_last_write_and_no_longer_for_a_client_than_its_limit() {
        let registry = Registry::new();
        let handler = async |Extension(bag): Extension<Bag>| {
            bag.add(async {});
            "ok"
        };
        let app = waiting_floor(Router::new().route("/", get(handler)), &registry);
        let completed = async |after: u64| {
            tokio::time::sleep(Duration::from_millis(after)).await;
            registry.counts().completed
        };
        let response = app.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        drop(response.into_body().collect().await.unwrap());
        assert_eq!((completed(1).await, completed(4).await), (0, 1));

        let held = app.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!((completed(4_990).await, completed(20).await), (1, 2));
        drop(held);

        // The limit begins anew at the end of the body.
        let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(completed(3_000).await, 2);
        let bytes = response.into_body().collect().await.unwrap();
        assert_eq!((completed(4_980).await, completed(30).await), (2, 3));
        drop(bytes);
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
