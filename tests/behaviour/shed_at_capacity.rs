//! Turning requests away while the registry is full.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header::RETRY_AFTER},
    routing::get as on_get,
};
use http_body_util::BodyExt;
use postlude::{TaskLayer, TaskRegistry, TaskSet, after};
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::support::{
    assert_conserved,
    net::{Client, VERSIONS, get, read_all, serve},
    until,
};

/// A service that leaves a task with each request, which waits for the bell; and one that leaves none.
struct Service {
    app: Router,
    handled: Arc<AtomicUsize>,
    bell: Arc<Notify>,
}

impl Service {
    fn new(layer: TaskLayer) -> Self {
        let (handled, bell) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counter, waiting) = (handled.clone(), bell.clone());
        let submit = async move |tasks: TaskSet| {
            counter.fetch_add(1, Ordering::SeqCst);
            tasks.add(async move { waiting.notified().await });
            StatusCode::ACCEPTED
        };
        let app = Router::new()
            .route("/submit", on_get(submit))
            .layer(layer)
            .merge(Router::new().route("/health", on_get(async || "fine")));
        Self { app, handled, bell }
    }

    fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }
}

fn retry_after(response: &Response<impl Sized>) -> u64 {
    response.headers().get(RETRY_AFTER).unwrap().to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn answers_503_before_handler() {
    for version in VERSIONS {
        let registry = TaskRegistry::builder().capacity(2).build().unwrap();
        let service = Service::new(TaskLayer::new(registry.clone()).shed_at_capacity());
        let mut client = Client::connect(version, serve(service.app.clone())).await;
        for _ in 0..2 {
            let response = client.send(get("/submit")).await;
            assert_eq!(response.status(), StatusCode::ACCEPTED);
            read_all(response).await;
        }
        let mut waits = Vec::new();
        for _ in 0..6 {
            let response = client.send(get("/submit")).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            waits.push(retry_after(&response));
            assert!(read_all(response).await.is_empty());
        }
        assert_eq!(waits, [1, 2, 3, 4, 5, 1], "not all at once");
        assert_eq!((service.handled(), registry.metrics().shed), (2, 6));
        assert_eq!(client.send(get("/health")).await.status(), StatusCode::OK);
        assert_conserved(&registry, 2);

        service.bell.notify_waiters();
        until(|| {
            service.bell.notify_one();
            registry.metrics().completed == 2
        })
        .await;
        assert_eq!(client.send(get("/submit")).await.status(), StatusCode::ACCEPTED);
        service.bell.notify_one();
        registry.wait_idle().await;
        assert_conserved(&registry, 3);
    }
}

#[tokio::test]
async fn is_off_by_default_and_needs_capacity() {
    let full = TaskRegistry::builder().capacity(1).build().unwrap();
    full.spawn(std::future::pending::<()>());
    let endless = TaskRegistry::new();
    for layer in [TaskLayer::new(full.clone()), TaskLayer::new(endless.clone()).shed_at_capacity()] {
        let service = Service::new(layer);
        let response = service.app.clone().oneshot(Request::get("/submit").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!((response.status(), service.handled()), (StatusCode::ACCEPTED, 1));
    }
    assert_eq!((full.metrics().discarded, full.metrics().shed, endless.metrics().shed), (1, 0, 0));
}

#[tokio::test]
async fn on_inner_router_asks_outer_registry() {
    let outer = TaskRegistry::builder().capacity(1).build().unwrap();
    let inner = TaskRegistry::builder().capacity(1).build().unwrap();
    let shedding = Router::new()
        .route("/shedding", on_get(async || StatusCode::OK))
        .layer(TaskLayer::new(inner.clone()).shed_at_capacity());
    let app = Router::new()
        .route("/patient", on_get(async || after(async {}).err().map_or("added", |_| "full")))
        .merge(shedding)
        .layer(TaskLayer::new(outer.clone()));
    let ask = async |path: &str| {
        let response = app.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    };
    inner.spawn(std::future::pending::<()>());
    assert_eq!(ask("/shedding").await.0, StatusCode::OK, "tasks would go to the outer one");
    outer.spawn(std::future::pending::<()>());
    assert_eq!(ask("/shedding").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask("/patient").await, (StatusCode::OK, "full".into()));
    assert_eq!((outer.metrics().shed, inner.metrics().shed), (1, 0));
}
