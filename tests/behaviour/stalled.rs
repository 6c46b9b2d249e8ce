//! A response of which the client takes no more. Time is paused, but over sockets.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
    routing::get as on_get,
};
use bytes::Bytes;
use futures::{StreamExt, channel::mpsc, stream};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postlude::{Ending, TaskBody, TaskLayer, TaskRegistry, TaskSet, after};
use tokio::{
    net::TcpStream,
    sync::mpsc::UnboundedReceiver,
    task::yield_now,
    time::{advance, sleep},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    Journal, SECOND, assert_conserved,
    net::{Client, VERSIONS, get, reporting_layer, serve, within},
};

const STALLED: Ending = Ending::Stalled(StatusCode::OK);
const SENT: Ending = Ending::Sent(StatusCode::OK);

/// The body of a response that left a task, and how its request will have ended.
async fn respond(registry: &TaskRegistry, body: Body) -> (TaskBody<Body>, UnboundedReceiver<Ending>) {
    let (layer, endings) = reporting_layer(registry);
    let mut body = Some(body);
    let service = layer.layer(service_fn(move |request: Request<Body>| {
        request.extensions().get::<TaskSet>().unwrap().add(async {});
        std::future::ready(Ok::<_, Infallible>(Response::new(body.take().unwrap())))
    }));
    (service.oneshot(get("/")).await.unwrap().into_body(), endings)
}

fn chunks(count: usize) -> Body {
    Body::from_stream(stream::iter(vec![Ok::<_, Infallible>(Bytes::from_static(b"chunk")); count]))
}

async fn next_chunk(body: &mut TaskBody<Body>) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

/// The set is held for five seconds more, and then drains as stalled.
async fn assert_stalls(endings: &mut UnboundedReceiver<Ending>) {
    sleep(Duration::from_millis(4_990)).await;
    assert!(endings.try_recv().is_err(), "before the limit");
    sleep(Duration::from_millis(20)).await;
    assert_eq!(endings.try_recv(), Ok(STALLED));
}

#[tokio::test(start_paused = true)]
async fn body_that_is_never_polled() {
    let registry = TaskRegistry::new();
    let (body, mut endings) = respond(&registry, chunks(1)).await;
    assert_stalls(&mut endings).await;
    registry.wait_idle().await;
    drop(body);
    assert_conserved(&registry, 1);
}

#[tokio::test(start_paused = true)]
async fn counts_from_the_last_poll() {
    let (mut body, mut endings) = respond(&TaskRegistry::new(), chunks(9)).await;
    // Kept, because a release counts too.
    let mut kept = Vec::new();
    for _ in 0..5 {
        sleep(4 * SECOND).await;
        kept.push(next_chunk(&mut body).await);
    }
    assert_stalls(&mut endings).await;
}

#[tokio::test(start_paused = true)]
async fn counts_from_the_release_of_the_last_chunk() {
    let (mut body, mut endings) = respond(&TaskRegistry::new(), chunks(9)).await;
    let chunk = next_chunk(&mut body).await;
    sleep(4 * SECOND).await;
    drop(chunk);
    assert_stalls(&mut endings).await;
}

#[tokio::test(start_paused = true)]
async fn counts_from_the_end_of_the_body_whatever_is_released_then() {
    let (mut body, mut endings) = respond(&TaskRegistry::new(), chunks(2)).await;
    let first = next_chunk(&mut body).await;
    let _last = next_chunk(&mut body).await;
    sleep(3 * SECOND).await;
    assert!(body.frame().await.is_none());
    sleep(4 * SECOND).await;
    drop(first);
    assert!(endings.try_recv().is_err(), "before the limit");
    sleep(Duration::from_millis(1_010)).await;
    assert_eq!(endings.try_recv(), Ok(SENT));
}

#[tokio::test(start_paused = true)]
async fn body_that_waits_for_its_own_frame_is_not() {
    let (events, stream) = mpsc::unbounded::<Result<Bytes, Infallible>>();
    let (mut body, mut endings) = respond(&TaskRegistry::new(), Body::from_stream(stream)).await;
    for _ in 0..3 {
        tokio::select! {
            biased;
            _ = body.frame() => panic!("there is no event"),
            () = sleep(3600 * SECOND) => {}
        }
        assert!(endings.try_recv().is_err());
        events.unbounded_send(Ok(Bytes::from_static(b"event"))).unwrap();
        next_chunk(&mut body).await;
    }
    assert_stalls(&mut endings).await;
}

#[tokio::test(start_paused = true)]
async fn task_of_the_body_starts_the_limit() {
    let (layer, mut endings) = reporting_layer(&TaskRegistry::new());
    let service = layer.layer(service_fn(|_: Request<Body>| {
        let adding = stream::iter(["one", "two"]).map(|text| {
            after(async {}).unwrap();
            Ok::<_, Infallible>(text)
        });
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::from_stream(adding))))
    }));
    let mut body = service.oneshot(get("/")).await.unwrap().into_body();
    sleep(60 * SECOND).await;
    let _kept = next_chunk(&mut body).await;
    assert_stalls(&mut endings).await;
}

#[tokio::test(start_paused = true)]
async fn looks_again_after_a_suspended_machine_wakes() {
    // What passes at once is the time that the machine was away.
    let (mut body, mut endings) = respond(&TaskRegistry::new(), chunks(1)).await;
    advance(3600 * SECOND).await;
    for _ in 0..10 {
        yield_now().await;
    }
    assert!(endings.try_recv().is_err());
    drop(next_chunk(&mut body).await);
    assert!(body.frame().await.is_none());
    assert_eq!(endings.recv().await, Some(SENT));

    let (_body, mut endings) = respond(&TaskRegistry::new(), chunks(1)).await;
    advance(3600 * SECOND).await;
    assert_stalls(&mut endings).await;
}

#[tokio::test(start_paused = true)]
async fn stalled_set_takes_tasks_and_its_body_goes_on() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let leave = journal.clone();
    let adding = stream::iter(["one", "two"]).map(move |text| {
        after(leave.task(text)).unwrap();
        Ok::<_, Infallible>(text)
    });
    let (mut body, mut endings) = respond(&registry, Body::from_stream(adding)).await;
    assert_stalls(&mut endings).await;
    for text in ["one", "two"] {
        assert_eq!(next_chunk(&mut body).await, text);
        registry.wait_idle().await;
        assert_eq!(journal.read().last().unwrap(), text);
    }
    assert!(body.frame().await.is_none());
    assert!(endings.try_recv().is_err(), "it is asked once");
    assert_conserved(&registry, 3);
}

#[tokio::test(start_paused = true)]
async fn limit_of_zero_does_not_hold_an_unpolled_body_for_ever() {
    let registry = TaskRegistry::new();
    let layer = TaskLayer::new(registry.clone()).drain_within(Duration::ZERO);
    let service = layer.layer(service_fn(|request: Request<Body>| {
        request.extensions().get::<TaskSet>().unwrap().add(async {});
        std::future::ready(Ok::<_, Infallible>(Response::new(chunks(1))))
    }));
    let _unpolled = service.oneshot(get("/")).await.unwrap();
    sleep(4 * SECOND).await;
    assert_eq!(registry.metrics().completed, 0);
    registry.wait_idle().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_stalled_set_age() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    drop(registry.spawn(std::future::pending::<()>()));
    let (_body, _endings) = respond(&registry, chunks(1)).await;
    sleep(4 * SECOND).await;
    // It waits for its request so far, which is no sign of trouble.
    let metrics = registry.metrics();
    assert_eq!((metrics.open_sets, metrics.oldest_pending), (1, Duration::ZERO));
    sleep(60 * SECOND).await;
    let metrics = registry.metrics();
    assert_eq!((metrics.open_sets, metrics.pending), (0, 1));
    assert!(metrics.oldest_pending >= 64 * SECOND, "{:?}", metrics.oldest_pending);
}

#[test]
fn is_a_success_if_its_status_is() {
    assert!(STALLED.is_success());
    let failed = Ending::Stalled(StatusCode::BAD_GATEWAY);
    assert!(!failed.is_success());
    assert_eq!((failed.status(), failed.to_string()), (Some(StatusCode::BAD_GATEWAY), "stalled (502)".to_owned()));
}

#[tokio::test]
async fn client_that_stops_reading_a_stream() {
    for version in VERSIONS {
        let registry = TaskRegistry::new();
        let (layer, mut endings) = reporting_layer(&registry);
        let endless = async |tasks: TaskSet| {
            tasks.add(async {});
            Body::from_stream(stream::repeat(Bytes::from(vec![b'x'; 64 << 10])).map(Ok::<_, Infallible>))
        };
        let layer = layer.drain_within(Duration::from_millis(20));
        let address = serve(Router::new().route("/", on_get(endless)).layer(layer));
        let mut client = Client::connect_narrow(version, address).await;
        let _unread = client.get("/").await;
        assert_eq!(within(endings.recv()).await, Some(STALLED), "{version:?}");
        within(registry.wait_idle()).await;
    }
}

/// One client must not hold all places of a registry.
#[tokio::test]
async fn client_that_grants_no_window() {
    const CAPACITY: usize = 20;
    let registry = TaskRegistry::builder().capacity(CAPACITY).build().unwrap();
    let layer = TaskLayer::new(registry.clone()).drain_within(Duration::from_millis(20));
    let handler = async |tasks: TaskSet| {
        tasks.try_add(async {}).unwrap();
        chunks(3)
    };
    let address = serve(Router::new().route("/", on_get(handler)).layer(layer));
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut client, connection) = builder.initial_stream_window_size(0).handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut unread = Vec::new();
    for _ in 0..CAPACITY {
        let request = Request::get(format!("http://{address}/")).body(Empty::<Bytes>::new()).unwrap();
        unread.push(within(client.send_request(request)).await.unwrap());
    }
    within(registry.wait_idle()).await;
    assert_conserved(&registry, CAPACITY as u64);
}
