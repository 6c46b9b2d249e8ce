//! How long a set waits for its response to leave. That it does wait: `tests/wire`.

use std::{convert::Infallible, sync::Mutex, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response},
    routing::get,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use postlude::{Outcome, TaskBody, TaskLayer, TaskRegistry, TaskSet, after};
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot},
    time::{Instant, advance, sleep},
};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{
    assert_conserved,
    net::{Client, VERSIONS, request, serve, within},
};

/// The response of a handler that left a task, and when that ran.
async fn respond(
    layer: &TaskLayer,
    task: impl Future<Output = ()> + Send + 'static,
) -> Response<TaskBody<Full<Bytes>>> {
    let mut task = Some(task);
    let mut service = layer.layer(service_fn(move |request: Request<()>| {
        request.extensions().get::<TaskSet>().unwrap().add(task.take().unwrap());
        async { Ok::<_, Infallible>(Response::new(Full::from("an answer"))) }
    }));
    service.call(Request::new(())).await.unwrap()
}

/// Takes the body to its end, as a server does, and gives back the bytes that the server would be writing.
async fn take<B: hyper::body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin>(mut body: B) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

#[tokio::test(start_paused = true)]
async fn waits_for_own_bytes_and_two_milliseconds() {
    let registry = TaskRegistry::new();
    let layer = TaskLayer::new(registry.clone());
    let begun = Instant::now();
    let (sender, mut started) = mpsc::unbounded_channel();
    let mut held = Vec::new();
    for number in 0..100_u64 {
        let sender = sender.clone();
        let task = async move { sender.send((number, begun.elapsed())).unwrap() };
        held.push(take(respond(&layer, task).await.into_body()).await);
    }
    // The server is done with them backwards, ten milliseconds apart.
    for bytes in held.into_iter().rev() {
        sleep(Duration::from_millis(10)).await;
        drop(bytes);
    }
    registry.wait_idle().await;
    for place in 0..100_u64 {
        let (number, at) = started.recv().await.unwrap();
        let released = Duration::from_millis(10 * (place + 1));
        assert_eq!(number, 99 - place);
        assert!(
            at >= released + Duration::from_millis(2) && at < released + Duration::from_millis(5),
            "{number}: {at:?}"
        );
    }
    assert_conserved(&registry, 100);
}

#[tokio::test(start_paused = true)]
async fn held_bytes_delay_no_other_set() {
    let registry = TaskRegistry::new();
    let layer = TaskLayer::new(registry.clone()).drain_within(Duration::from_secs(3));
    let stalled = take(respond(&layer, async {}).await.into_body()).await;
    advance(Duration::from_secs(1)).await;
    drop(take(respond(&layer, async {}).await.into_body()).await);
    sleep(Duration::from_millis(5)).await;
    assert_eq!((registry.metrics().completed, registry.metrics().pending), (1, 1));
    sleep(Duration::from_millis(1_900)).await;
    assert_eq!(registry.metrics().completed, 1, "the limit is three seconds");
    sleep(Duration::from_millis(200)).await;
    assert_eq!(registry.metrics().completed, 2);
    drop(stalled);
    sleep(Duration::from_millis(5)).await;
    assert_conserved(&registry, 2);
}

#[tokio::test(start_paused = true)]
async fn waits_for_own_bytes_in_traffic() {
    let registry = TaskRegistry::new();
    let layer = TaskLayer::new(registry.clone()).drain_within(Duration::from_secs(1));
    let others = layer.clone();
    let traffic = tokio::spawn(async move {
        for _ in 0..2_000 {
            drop(take(respond(&others, async {}).await.into_body()).await);
            sleep(Duration::from_millis(1)).await;
        }
    });
    sleep(Duration::from_millis(20)).await;
    let begun = Instant::now();
    let (sender, mut started) = mpsc::unbounded_channel();
    for held_for in [0, 50, 3_000] {
        let sender = sender.clone();
        let task = async move { sender.send((held_for, begun.elapsed().as_millis())).unwrap() };
        let bytes = take(respond(&layer, task).await.into_body()).await;
        tokio::spawn(async move {
            sleep(Duration::from_millis(held_for)).await;
            drop(bytes);
        });
    }
    for (held_for, started_within) in [(0, 2..8), (50, 52..57), (3_000, 1_000..1_010)] {
        let (which, at) = started.recv().await.unwrap();
        assert_eq!(which, held_for);
        assert!(started_within.contains(&at), "held for {held_for} ms, started after {at} ms");
    }
    traffic.await.unwrap();
    registry.wait_idle().await;
    assert_conserved(&registry, 2_003);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misses_no_release() {
    const RESPONSES: u64 = 5_000;
    let registry = TaskRegistry::new();
    // Without a limit, a missed release is a task that never starts.
    let layer = TaskLayer::new(registry.clone()).drain_within(Duration::MAX);
    let (sender, held) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || held.into_iter().for_each(drop::<Bytes>));
    for number in 0..RESPONSES {
        sender.send(take(respond(&layer, async {}).await.into_body()).await).unwrap();
        if number % 50 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    drop(sender);
    server.join().unwrap();
    within(registry.wait_idle()).await;
    assert_conserved(&registry, RESPONSES);
}

#[tokio::test]
async fn bounds_wait_for_stalled_client() {
    for version in VERSIONS {
        let (start, mut started) = mpsc::unbounded_channel();
        let handler = async move || {
            after(async move { start.send(()).unwrap() }).unwrap();
            // More than the sockets hold: most of it stays with the server.
            vec![b'x'; 16 << 20]
        };
        let layer = TaskLayer::new(TaskRegistry::new()).drain_within(Duration::from_millis(20));
        let address = serve(Router::new().route("/", get(handler)).layer(layer));
        let mut stalled = Client::connect_narrow(version, address).await;
        let _unread = stalled.get("/").await;
        within(started.recv()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn bounds_wait_for_kept_bytes() {
    let default = TaskLayer::new(TaskRegistry::new());
    let cases = [
        (default.clone(), 5000),
        (default.clone().drain_within(Duration::from_secs(90)), 90_000),
        (default.drain_within(Duration::ZERO), 0),
    ];
    for (layer, limit) in cases {
        let (start, started) = oneshot::channel();
        let start = Mutex::new(Some(start));
        let service = layer.layer(service_fn(move |_: Request<Body>| {
            let start = start.lock().unwrap().take().unwrap();
            after(async move { start.send(Instant::now()).unwrap() }).unwrap();
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::from("kept"))))
        }));
        let mut body = service.oneshot(request("GET", "/")).await.unwrap().into_body();
        // The limit counts from the body's end, however long the body took to get there.
        sleep(Duration::from_secs(1000)).await;
        let kept = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        let ended = Instant::now();
        let started = tokio::time::timeout(Duration::from_secs(1000), started).await.unwrap().unwrap();
        let waited = (started - ended).as_millis();
        assert!((limit..limit + 10).contains(&waited), "{waited} ms, not {limit} ms");
        assert_eq!(kept, "kept");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_no_bytes() {
    let registry = TaskRegistry::new();
    let layer = TaskLayer::new(registry.clone());
    let held = take(respond(&layer, async {}).await.into_body()).await;
    let begun = Instant::now();
    let report = registry.shutdown(Duration::from_secs(60)).await;
    assert!(report.is_clean() && report.completed == 1, "{report}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drop(held);
    assert_conserved(&registry, 1);
}

#[test]
fn end_of_runtime_discards_held_sets() {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (registry, held) = runtime.block_on(async {
        let registry = TaskRegistry::new();
        let layer = TaskLayer::new(registry.clone());
        let held = take(respond(&layer, async {}).await.into_body()).await;
        // This one has only the two milliseconds to wait.
        drop(take(respond(&layer, async {}).await.into_body()).await);
        // This one is looked at when those are over.
        let seen_next = take(respond(&layer, async {}).await.into_body()).await;
        // And this one ends after the runtime.
        let late = respond(&layer, async {}).await.into_body();
        (registry, (held, seen_next, late))
    });
    assert_eq!(registry.metrics().pending, 4);
    drop(runtime);
    assert_eq!((registry.metrics().discarded, registry.metrics().pending), (3, 1));
    drop(held);
    assert_eq!((registry.metrics().discarded, registry.metrics().pending), (4, 0));
    assert_conserved(&registry, 4);
}

#[tokio::test(start_paused = true)]
async fn cleared_set_completes_drain() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    set.add(async {});
    let held = take(set.clone().attach(Response::new(Full::from("an answer"))).into_body()).await;
    let report = set.clone().drain();
    assert_eq!(set.clear(), 1);
    assert_eq!(report.await.discarded, 1);
    drop(held);
    // A task that is added while the response is still leaving waits, too.
    set.add(async {});
    assert_eq!(registry.spawn(async {}).await.label(), Outcome::Completed.label());
    assert_eq!(set.len(), 1);
    registry.wait_idle().await;
    assert_conserved(&registry, 3);
}
