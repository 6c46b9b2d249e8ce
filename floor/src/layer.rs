//! The layer.
//!
//! A request costs a bag in its extensions, which is one allocation, and a body that holds on to it. The last reference to
//! the bag spawns one tokio task for all that is in it; the body has that reference when it was taken to its end or
//! dropped. To know that the bytes have left as well, the [watching](Until::Released) floor lets each chunk hold a
//! reference, which is dropped when the server releases the chunk. The [keeping](keeping_floor) floor does the same for
//! tasks that are listed, guarded, counted and timed. The [waiting](waiting_floor) floor waits for the last write, too,
//! and no longer for a client than a limit allows; and it knows which requests are being handled, how each has ended and
//! what it was, and gives code that runs in a handler or a body the bag of its request.

use std::{
    cell::Cell,
    mem,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{Request, Response, StatusCode},
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
    of_request: Option<OfRequest>,
}

/// What is known of the request of a bag.
struct OfRequest {
    waits: Arc<Waits>,
    /// Since when it waits for its client.
    limit: OnceLock<Arc<Limit>>,
    line: Line,
    /// How it has ended: a status, and whether the client has it all. Zero before.
    ending: AtomicU32,
}

/// The method and path of a request, or the beginning of it.
struct Line {
    bytes: [u8; LINE],
    length: usize,
}

const LINE: usize = 46;

/// How a request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its response was taken to the end.
    Sent(StatusCode),
    /// Its response was dropped before.
    Disconnected(StatusCode),
}

thread_local! {
    /// The bag of the request whose code this thread runs.
    static CURRENT: Cell<Option<Bag>> = const { Cell::new(None) };
}

impl Bag {
    fn new(keeps: Option<&Keeps>, request: &Request<Body>) -> Self {
        Self(Arc::new(match keeps {
            None => Tasks::Plain(Mutex::default()),
            Some(Keeps { registry, waits }) => Tasks::Kept(Kept {
                set: OnceLock::new(),
                registry: registry.clone(),
                of_request: waits.as_ref().map(|waits| OfRequest {
                    waits: Arc::clone(waits),
                    limit: OnceLock::new(),
                    line: Line::of(request),
                    ending: AtomicU32::new(0),
                }),
            }),
        }))
    }

    /// That of the request whose code calls this.
    pub fn current() -> Option<Self> {
        CURRENT.with(|current| {
            let bag = current.take();
            current.set(bag.clone());
            bag
        })
    }

    fn of_request(&self) -> Option<&OfRequest> {
        match &*self.0 {
            Tasks::Kept(kept) => kept.of_request.as_ref(),
            Tasks::Plain(_) => None,
        }
    }

    /// The method and path of the request, if the floor is a waiting one.
    pub fn request(&self) -> Option<String> {
        let Line { bytes, length } = &self.of_request()?.line;
        Some(String::from_utf8_lossy(bytes.get(..*length)?).into_owned())
    }

    /// How the request has ended, if the floor is a waiting one.
    pub fn ending(&self) -> Option<Ending> {
        let ending = self.of_request()?.ending.load(Ordering::Acquire);
        let status = StatusCode::from_u16(u16::try_from(ending / 2).ok()?).ok()?;
        Some(if ending % 2 == 0 { Ending::Sent(status) } else { Ending::Disconnected(status) })
    }

    fn end(&self, status: StatusCode, is_complete: bool) {
        if let Some(of_request) = self.of_request() {
            let ending = u32::from(status.as_u16()) * 2 + u32::from(!is_complete);
            of_request.ending.store(ending, Ordering::Release);
        }
    }

    /// Adds a task.
    pub fn add(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &*self.0 {
            Tasks::Plain(tasks) => tasks.lock().push(task.boxed()),
            Tasks::Kept(Kept { set, registry, .. }) => _ = set.get_or_init(|| registry.bare_set()).add(task),
        }
    }

    /// There is a response, or the server has asked for its body.
    fn polled(&self) {
        if let Tasks::Kept(Kept { set, of_request: Some(OfRequest { waits, limit, .. }), .. }) = &*self.0 {
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
            Self::Kept(Kept { set, of_request, .. }) => {
                let Some(set) = set.take() else { return };
                match of_request {
                    None => set.drain(),
                    Some(OfRequest { waits, limit, .. }) => waits.released(set, limit.take()),
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
/// allows, and which knows its requests. Call it inside a runtime.
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
        let bag = Bag::new(self.keeps.as_ref(), &request);
        request.extensions_mut().insert(bag.clone());
        let waits = self.keeps.as_ref().and_then(|keeps| keeps.waits.as_ref());
        let handled = waits.map(Handled::new);
        let mut bag = Some(bag);
        let inner = enter(&mut bag, handled.is_some(), || self.inner.call(request));
        Answer { inner, bag, until: self.until, handled }
    }
}

/// Runs code of a request, whose bag it finds.
#[inline]
fn enter<R>(bag: &mut Option<Bag>, is_known: bool, inside: impl FnOnce() -> R) -> R {
    struct Entered<'a>(&'a mut Option<Bag>);

    impl Drop for Entered<'_> {
        fn drop(&mut self) {
            CURRENT.with(|current| current.swap(Cell::from_mut(self.0)));
        }
    }

    let _entered = is_known.then(|| {
        CURRENT.with(|current| current.swap(Cell::from_mut(bag)));
        Entered(bag)
    });
    inside()
}

/// A request that is being handled, which is counted.
struct Handled(Arc<Waits>);

impl Handled {
    fn new(waits: &Arc<Waits>) -> Self {
        waits.handled.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(waits))
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        self.0.handled.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Line {
    fn of(request: &Request<Body>) -> Self {
        let mut line = Self { bytes: [0; LINE], length: 0 };
        for part in [request.method().as_str(), " ", request.uri().path()] {
            let end = LINE.min(line.length + part.len());
            let room = line.bytes.get_mut(line.length..end);
            if let Some((room, kept)) = room.and_then(|room| part.as_bytes().get(..room.len()).map(|kept| (room, kept)))
            {
                room.copy_from_slice(kept);
            }
            line.length = end;
        }
        line
    }
}

pin_project! {
    struct Answer<F> {
        #[pin]
        inner: F,
        bag: Option<Bag>,
        until: Until,
        // `Some` in a floor that knows its requests.
        handled: Option<Handled>,
    }
}

impl<F, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<HoldingBody>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let is_known = this.handled.is_some();
        let response = ready!(enter(this.bag, is_known, || this.inner.poll(context)))?;
        this.bag.iter().for_each(Bag::polled);
        *this.handled = None;
        let remaining = response.body().size_hint().exact();
        let status = response.status();
        Poll::Ready(Ok(response.map(|inner| HoldingBody {
            is_complete: remaining == Some(0),
            inner,
            bag: this.bag.take(),
            until: *this.until,
            is_known,
            status,
            remaining,
        })))
    }
}

/// A body that passes everything on, and holds on to the bag until it is dropped.
struct HoldingBody {
    inner: Body,
    bag: Option<Bag>,
    until: Until,
    is_known: bool,
    status: StatusCode,
    /// How much is still to come, if it is known.
    remaining: Option<u64>,
    is_complete: bool,
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
        let this = &mut *self;
        let frame = ready!(enter(&mut this.bag, this.is_known, || Pin::new(&mut this.inner).poll_frame(context)));
        this.bag.iter().for_each(Bag::polled);
        match frame.as_ref() {
            None => this.is_complete = this.remaining.is_none_or(|remaining| remaining == 0),
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                this.remaining = this.remaining.map(|remaining| remaining.saturating_sub(length));
                this.is_complete =
                    this.remaining.map_or_else(|| this.inner.is_end_stream(), |remaining| remaining == 0);
            }
            Some(Err(_)) => this.is_complete = false,
        }
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| self.watch(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for HoldingBody {
    fn drop(&mut self) {
        if let Some(bag) = &self.bag {
            bag.end(self.status, self.is_complete);
        }
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
    async fn waiting_floor_knows_its_requests() {
        let current = async || Bag::current().map(|bag| (bag.request(), bag.ending()));
        let handler = async move |Extension(bag): Extension<Bag>| {
            let known = current().await;
            assert_eq!(known, Some((Some("GET /a".to_owned()), None)));
            Extension(bag)
        };
        let app = waiting_floor(Router::new().route("/a", get(handler)), &Registry::new());
        let ask = || app.clone().oneshot(Request::get("/a?b").body(Body::empty()).unwrap());
        let bag = |response: &Response<Body>| response.extensions().get::<Bag>().unwrap().clone();
        let response = ask().await.unwrap();
        let sent = bag(&response);
        response.into_body().collect().await.unwrap();
        assert_eq!((sent.ending(), Bag::current().is_some()), (Some(Ending::Sent(StatusCode::OK)), false));
    }

    #[tokio::test]
    async fn waiting_floor_tells_a_response_that_was_dropped() {
        let handler = async |Extension(bag): Extension<Bag>| (Extension(bag), "some");
        let app = waiting_floor(Router::new().route("/", get(handler)), &Registry::new());
        let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
        let dropped = response.extensions().get::<Bag>().unwrap().clone();
        drop(response);
        assert_eq!(dropped.ending(), Some(Ending::Disconnected(StatusCode::OK)));
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
