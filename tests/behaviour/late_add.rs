//! Tasks that are added while the response is on its way. Time is paused: a second is far more than a set waits after its
//! last chunk was released.

use std::{convert::Infallible, sync::Mutex, time::Duration};

use axum::http::{Request, Response};
use bytes::Bytes;
use futures::{StreamExt, channel::mpsc, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use postlude::{ShutdownReport, TaskLayer, TaskRegistry, TaskSet, after};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{Journal, assert_conserved};

/// A body of one chunk, whose stream runs `last` in its last poll.
fn ending_with(last: impl FnOnce() + Send + 'static) -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin {
    let chunk = stream::iter([Ok(Frame::data(Bytes::from_static(b"a chunk")))]);
    let end = stream::once(async move { last() }).filter_map(|()| std::future::ready(None));
    StreamBody::new(Box::pin(chunk.chain(end)))
}

/// Answers with the body that `respond` makes of the request's set.
async fn answer<B: Body<Data = Bytes>>(
    registry: &TaskRegistry,
    respond: impl Fn(TaskSet) -> B,
) -> impl Body<Data = Bytes, Error = B::Error> {
    let service = TaskLayer::new(registry.clone()).layer(service_fn(|request: Request<()>| {
        let body = respond(request.extensions().get::<TaskSet>().unwrap().clone());
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    service.oneshot(Request::new(())).await.unwrap().into_body()
}

async fn next_chunk<B: Body<Data = Bytes, Error = Infallible> + Unpin>(body: &mut B) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

/// The chunk holds back whatever was added to the set, and nothing else does.
async fn assert_held(registry: &TaskRegistry, journal: &Journal, chunk: Bytes) {
    sleep(Duration::from_secs(1)).await;
    assert!(journal.read().is_empty(), "it started while the chunk was on its way");
    drop(chunk);
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["late"]);
    assert_conserved(registry, 1);
}

#[tokio::test(start_paused = true)]
async fn after_in_the_last_poll_of_the_body() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let mut body = Box::pin(
        answer(&registry, |_set| {
            let journal = journal.clone();
            ending_with(move || _ = after(journal.task("late")).unwrap())
        })
        .await,
    );
    let chunk = next_chunk(&mut body).await;
    assert!(body.frame().await.is_none());
    assert_held(&registry, &journal, chunk).await;
}

#[tokio::test(start_paused = true)]
async fn a_clone_in_the_last_poll_of_the_body() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let mut body = Box::pin(
        answer(&registry, |set| {
            let journal = journal.clone();
            ending_with(move || _ = set.add(journal.task("late")))
        })
        .await,
    );
    let chunk = next_chunk(&mut body).await;
    assert!(body.frame().await.is_none());
    assert_held(&registry, &journal, chunk).await;
}

#[tokio::test(start_paused = true)]
async fn a_clone_elsewhere_after_the_end_of_the_body() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let (keep, mut kept) = mpsc::unbounded();
    let body = answer(&registry, |set| {
        keep.unbounded_send(set).unwrap();
        Full::from("one chunk, which ends the body")
    })
    .await;
    let mut body = Box::pin(body);
    let chunk = next_chunk(&mut body).await;
    assert!(body.is_end_stream());
    drop(body);
    kept.next().await.unwrap().add(journal.task("late"));
    assert_held(&registry, &journal, chunk).await;
}

/// A chunk in the form in which the body gave it: one that holds the set has another owner, and is never unique.
#[tokio::test(start_paused = true)]
async fn a_chunk_that_ends_the_body_costs_nothing_if_nobody_can_add() {
    let registry = TaskRegistry::new();
    let mut body = Box::pin(answer(&registry, |_set| Full::from(vec![b'x'; 4096])).await);
    assert!(next_chunk(&mut body).await.is_unique());
    let mut body = Box::pin(
        answer(&registry, |set| {
            set.add(async {});
            Full::from(vec![b'x'; 4096])
        })
        .await,
    );
    assert!(!next_chunk(&mut body).await.is_unique());
    drop(body);
    registry.wait_idle().await;
}

mod in_a_shutdown {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Begins a shutdown, which waits for a task that sleeps for a minute.
    async fn shut_down(registry: &TaskRegistry) -> JoinHandle<ShutdownReport> {
        registry.spawn(sleep(Duration::from_secs(60)));
        let own = registry.clone();
        let report = tokio::spawn(async move { own.shutdown(HOUR).await });
        sleep(Duration::from_secs(1)).await;
        assert!(registry.is_shutting_down() && !registry.is_closed());
        report
    }

    /// A second is less than a client is waited for.
    async fn assert_ran(journal: &Journal, report: JoinHandle<ShutdownReport>) {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(journal.read(), ["late"], "it waits for no client");
        let report = report.await.unwrap();
        assert_eq!((report.completed, report.is_clean()), (2, true), "{report}");
    }

    #[tokio::test(start_paused = true)]
    async fn to_a_body_that_is_on_its_way_starts_at_once() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (more, chunks) = mpsc::unbounded::<&str>();
        let (leave, chunks) = (journal.clone(), Mutex::new(Some(chunks)));
        let body = answer(&registry, |_set| {
            let leave = leave.clone();
            StreamBody::new(chunks.lock().unwrap().take().unwrap().map(move |text| {
                after(leave.task("late")).unwrap();
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes())))
            }))
        });
        let mut body = Box::pin(body.await);
        let report = shut_down(&registry).await;
        more.unbounded_send("chunk").unwrap();
        let _kept = next_chunk(&mut body).await;
        assert_ran(&journal, report).await;
    }

    #[tokio::test(start_paused = true)]
    async fn before_the_response_starts_with_it() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (answer, may_answer) = oneshot::channel::<()>();
        let (leave, may_answer) = (journal.clone(), Mutex::new(Some(may_answer)));
        let service = TaskLayer::new(registry.clone()).layer(service_fn(move |_: Request<()>| {
            let (leave, may_answer) = (leave.clone(), may_answer.lock().unwrap().take().unwrap());
            async move {
                after(leave.task("late")).unwrap();
                may_answer.await.unwrap();
                Ok::<_, Infallible>(Response::new(Full::from("an answer")))
            }
        }));
        let response = tokio::spawn(service.oneshot(Request::new(())));
        let report = shut_down(&registry).await;
        answer.send(()).unwrap();
        let _unpolled = response.await.unwrap().unwrap();
        assert_ran(&journal, report).await;
    }
}
