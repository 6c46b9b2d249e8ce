//! The costs of a request: an in-process call of an axum router, with the response's body taken to its end.
//!
//! Without a layer; with the floors, which do the least that such a layer can; with the layer; and, beside them, with
//! bare spawns in the handler. Each iteration makes 128 calls, advances the paused clock past the layer's wait for the last
//! write, and lets all tasks of the calls end.
#![expect(missing_docs, reason = "criterion's macros make public items")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]

use std::time::Duration;

use axum::{Extension, Router, body::Body, http::Request, routing::get};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http_body_util::BodyExt;
use postlude::{TaskLayer, TaskRegistry, TaskSet};
use postlude_floor::{Bag, Registry, Until, floor, keeping_floor, waiting_floor};
use tokio::runtime::Builder;
use tokio_util::task::TaskTracker;
use tower::{ServiceExt, layer::util::Identity};

const CALLS: u64 = 128;
/// More than a set waits after its response was released.
const LAST_WRITE: Duration = Duration::from_millis(10);

fn tasks_of(count: usize) -> Router {
    Router::new().route(
        "/",
        get(move |tasks: TaskSet| async move {
            for _ in 0..count {
                tasks.add(async {});
            }
            "ok"
        }),
    )
}

/// Tracked as the bare spawns are, so that both are waited for in the same way.
fn bag_of(count: usize, tracker: TaskTracker) -> Router {
    Router::new().route(
        "/",
        get(move |Extension(bag): Extension<Bag>| async move {
            for _ in 0..count {
                bag.add(tracker.track_future(async {}));
            }
            "ok"
        }),
    )
}

fn spawns_of(count: usize, tracker: TaskTracker) -> Router {
    Router::new().route(
        "/",
        get(move || async move {
            for _ in 0..count {
                tracker.spawn(async {});
            }
            "ok"
        }),
    )
}

fn request(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    let layer = TaskLayer::new(registry.clone());
    let tracker = TaskTracker::new();
    let waiting = |count: usize| {
        let _entered = runtime.enter();
        waiting_floor(bag_of(count, tracker.clone()), &Registry::new())
    };
    let peers = [
        ("no layer", spawns_of(0, tracker.clone())),
        ("a layer that does nothing", spawns_of(0, tracker.clone()).layer(Identity::new())),
        ("the floor", floor(spawns_of(0, tracker.clone()), Until::Released)),
        ("layer, no task", spawns_of(0, tracker.clone()).layer(layer.clone())),
        ("layer, 1 task", tasks_of(1).layer(layer.clone())),
        ("layer, 4 tasks", tasks_of(4).layer(layer)),
        ("the floor, 1 task", floor(bag_of(1, tracker.clone()), Until::Taken)),
        ("the floor, 4 tasks", floor(bag_of(4, tracker.clone()), Until::Taken)),
        ("the watching floor, 1 task", floor(bag_of(1, tracker.clone()), Until::Released)),
        ("the watching floor, 4 tasks", floor(bag_of(4, tracker.clone()), Until::Released)),
        ("the keeping floor, 1 task", keeping_floor(bag_of(1, tracker.clone()), &Registry::new())),
        ("the keeping floor, 4 tasks", keeping_floor(bag_of(4, tracker.clone()), &Registry::new())),
        ("the waiting floor, 1 task", waiting(1)),
        ("the waiting floor, 4 tasks", waiting(4)),
        ("1 bare spawn", spawns_of(1, tracker.clone())),
        ("4 bare spawns", spawns_of(4, tracker.clone())),
    ];
    let mut group = criterion.benchmark_group("request");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(40);
    group.throughput(Throughput::Elements(CALLS));
    for (name, router) in peers {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (router, registry, tracker) = (router.clone(), registry.clone(), tracker.clone());
                let calls = async move {
                    for _ in 0..CALLS {
                        let response = router.clone().oneshot(Request::new(Body::empty())).await.unwrap();
                        response.into_body().collect().await.unwrap();
                    }
                    tokio::time::advance(LAST_WRITE).await;
                    registry.wait_idle().await;
                    tracker.close();
                    tracker.wait().await;
                };
                runtime.block_on(runtime.spawn(calls)).unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, request);
criterion_main!(benches);
