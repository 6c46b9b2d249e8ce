//! The server of a cell: its handler and its tasks.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    error_handling::HandleError,
    http::{Request, Response, StatusCode},
    routing::get as on_get,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use postlude::{Ending, Task, TaskLayer, TaskRegistry, TaskSet, after};
use tokio::sync::{
    Notify, Semaphore,
    mpsc::{UnboundedReceiver, unbounded_channel},
    oneshot,
};
use tokio_util::task::AbortOnDropHandle;
use tower::Layer;

use super::cell::{Cell, Handler, Verdict, Work};
use crate::support::{Journal, net::start};

impl Work {
    /// The task; `captured` is dropped with it.
    fn task(self, journal: Journal, captured: Captured) -> Task {
        let begin = move || {
            journal.note("middle");
            captured
        };
        let task = match self {
            Self::Completes => Task::new(async move { drop(begin()) }),
            Self::Fails => Task::new(async move {
                let _captured = begin();
                Err("a task fails")
            }),
            Self::PanicsInPoll => Task::new(async move {
                let _captured = begin();
                panic!("a task panics");
            }),
            Self::PanicsInDrop => Task::new(Bomb(Some(begin))),
            Self::Hangs => Task::new(async move {
                let _captured = begin();
                std::future::pending::<()>().await;
            })
            .timeout(Duration::from_millis(1)),
            Self::Blocks => Task::blocking(move || drop(begin())),
        };
        task.named("middle")
    }
}

/// Its end shows that a task has dropped its captures.
type Captured = oneshot::Sender<Infallible>;

/// A future that is ready at once, and panics when it is dropped.
struct Bomb<F>(Option<F>);

impl<F> Unpin for Bomb<F> {}

impl<F: FnOnce() -> Captured> Future for Bomb<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if let Some(begin) = self.0.take() {
            drop(begin());
        }
        Poll::Ready(())
    }
}

impl<F> Drop for Bomb<F> {
    fn drop(&mut self) {
        panic!("a task panics when it is dropped");
    }
}

/// The server of one cell.
pub(super) struct Site {
    pub(super) address: SocketAddr,
    pub(super) registry: TaskRegistry,
    pub(super) endings: UnboundedReceiver<Ending>,
    /// The tasks that ran.
    pub(super) journal: Journal,
    /// The failures that the hook has seen.
    pub(super) reported: Journal,
    pub(super) entered: Arc<Notify>,
    pub(super) steps: Arc<Semaphore>,
    /// Ends when the task in the middle has dropped its captures.
    pub(super) captured: oneshot::Receiver<Infallible>,
    _server: AbortOnDropHandle<()>,
}

/// The whole body of a response: more than a server has room for in its own buffers.
pub(super) const LONG: usize = 256 * 1024;

impl Site {
    pub(super) fn open(cell: Cell) -> Self {
        let (journal, reported) = (Journal::default(), Journal::default());
        let hook = {
            let reported = reported.clone();
            move |report: &postlude::TaskReport| reported.note(format!("{} {}", report.name, report.outcome.label()))
        };
        let registry = TaskRegistry::builder().on_failure(hook).build().unwrap();
        let (report_ending, endings) = unbounded_channel();
        let layer = TaskLayer::new(registry.clone()).drain_when(move |ending| {
            report_ending.send(*ending).unwrap();
            cell.verdict == Verdict::Drain
        });
        let (entered, steps) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        let (captive, captured) = oneshot::channel();
        let slot = Arc::new(std::sync::Mutex::new(Some(captive)));
        let enter = {
            let (journal, entered) = (journal.clone(), Arc::clone(&entered));
            move || {
                let captive = slot.lock().unwrap().take().unwrap();
                after(Task::new(journal.task("first")).named("first")).unwrap();
                after(cell.work.task(journal.clone(), captive)).unwrap();
                after(Task::new(journal.task("last")).named("last")).unwrap();
                entered.notify_one();
            }
        };
        let leave = journal.clone();
        let fine = async move |tasks: TaskSet| {
            tasks.add(Task::new(leave.task("fine")).named("fine"));
            "fine"
        };
        let fine = on_get(fine).layer(TaskLayer::new(registry.clone()));
        let app = routes(&layer, cell.handler, enter, &steps).route("/fine", fine);
        let (address, server) = start(app);
        let _server = AbortOnDropHandle::new(server);
        Self { address, registry, endings, journal, reported, entered, steps, captured, _server }
    }
}

/// The route `/`, with the layer around it.
fn routes(
    layer: &TaskLayer,
    handler: Handler,
    enter: impl Fn() + Clone + Send + Sync + 'static,
    steps: &Arc<Semaphore>,
) -> Router {
    let steps = Arc::clone(steps);
    if handler == Handler::Erring {
        let service = tower::service_fn(move |_: Request<Body>| {
            enter();
            std::future::ready(Err::<Response<Body>, _>("no response"))
        });
        let respond = async |_: &str| (Handler::Erring.status(), vec![b'x'; LONG]);
        return Router::new().route_service("/", HandleError::new(layer.layer(service), respond));
    }
    let answer = async move || -> Result<Body, (StatusCode, Vec<u8>)> {
        enter();
        match handler {
            Handler::Ready | Handler::Erring => {}
            Handler::Pending => steps.acquire().await.unwrap().forget(),
            Handler::Streaming => return Ok(two_chunks(steps)),
            Handler::Panicking => panic!("a handler panics"),
            Handler::Refusing => return Err((handler.status(), vec![b'x'; LONG])),
        }
        Ok(Body::from(vec![b'x'; LONG]))
    };
    Router::new().route("/", on_get(answer)).layer(layer.clone())
}

fn two_chunks(steps: Arc<Semaphore>) -> Body {
    Body::from_stream(stream::iter(["first", "last"]).then(move |text| {
        let steps = Arc::clone(&steps);
        async move {
            steps.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(Bytes::from(text))
        }
    }))
}
