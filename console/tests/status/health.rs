//! `GET /health`: which conditions make a registry unhealthy.

use std::time::Duration;

use postlude::TaskRegistry;
use postlude_console::StatusRouter;
use serde_json::json;

use crate::support::{Answer, get, hanging, serve_status};

fn problems(answer: &Answer) -> usize {
    answer.json()["problems"].as_array().unwrap().len()
}

#[tokio::test]
async fn is_unhealthy_while_too_many_tasks_fail() {
    let registry = TaskRegistry::new();
    let address = serve_status(StatusRouter::new(registry.clone()).max_failure_rate(0.5)).await;
    let health = get(address, "/admin/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("healthy")));

    for i in 0..11 {
        registry.spawn(async move { if i % 3 == 0 { Ok(()) } else { Err("down") } }).await;
    }
    let health = get(address, "/admin/health").await;
    assert_eq!((health.status, problems(&health), &health.json()["status"]), (503, 1, &json!("unhealthy")));
    assert!(health.body.contains("64 % failed"), "{health:?}");
    for _ in 0..11 {
        registry.spawn(async {}).await;
    }
    assert_eq!(get(address, "/admin/health").await.status, 200, "it is better again");
}

// What failed long ago does not count, although it is remembered.
#[tokio::test]
async fn is_healthy_again_five_minutes_after_failures() {
    let registry = TaskRegistry::new();
    let address = serve_status(StatusRouter::new(registry.clone()).max_failure_rate(0.5)).await;
    for _ in 0..20 {
        registry.spawn(async { Err::<(), _>("down") }).await;
    }
    for (passed, status) in [(299, 503), (2, 200)] {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(passed)).await;
        tokio::time::resume();
        assert_eq!(get(address, "/admin/health").await.status, status);
    }
    assert_eq!(registry.history().len(), 20);
}

// Aborted and discarded tasks say nothing about how well tasks do.
#[tokio::test]
async fn aborts_are_not_failures() {
    let registry = TaskRegistry::new();
    let address = serve_status(StatusRouter::new(registry.clone()).max_failure_rate(0.0)).await;
    for _ in 0..20 {
        registry.spawn(hanging()).abort();
    }
    registry.wait_idle().await;
    assert_eq!(get(address, "/admin/health").await.status, 200);
}

#[tokio::test]
async fn is_unhealthy_while_the_registry_is_full_or_a_task_waits_too_long() {
    let registry = TaskRegistry::builder().capacity(20).build().unwrap();
    let status = StatusRouter::new(registry.clone()).max_pending_age(Duration::from_secs(60));
    let address = serve_status(status).await;
    let set = registry.set();
    let first = set.add(hanging());
    for _ in 0..18 {
        set.add(async {});
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    let health = get(address, "/admin/health").await;
    assert_eq!(health.status, 200, "tasks that wait for their request do not count: {health:?}");
    set.add(async {});
    drop(set.clone().drain());
    let health = get(address, "/admin/health").await;
    assert_eq!((health.status, problems(&health)), (503, 2), "full, and waiting: {health:?}");
    set.clear();
    assert_eq!(get(address, "/admin/health").await.status, 200);
    registry.abort(first);
}

#[tokio::test]
async fn is_unhealthy_from_the_shutdown_on() {
    let registry = TaskRegistry::new();
    let address = serve_status(StatusRouter::new(registry.clone())).await;
    assert_eq!(get(address, "/admin/health").await.status, 200);
    registry.shutdown(Duration::ZERO).await;
    let health = get(address, "/admin/health").await;
    assert_eq!((health.status, problems(&health)), (503, 1));
}

#[tokio::test]
async fn is_unhealthy_from_the_end_of_the_runtime_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    let with_limits =
        StatusRouter::new(registry.clone()).max_failure_rate(0.5).max_pending_age(Duration::from_secs(60));
    let plain = serve_status(StatusRouter::new(registry)).await;
    let with_limits = serve_status(with_limits).await;
    for address in [plain, with_limits] {
        assert_eq!(get(address, "/admin/health").await.status, 200);
    }
    runtime.shutdown_background();
    for address in [plain, with_limits] {
        let health = get(address, "/admin/health").await;
        assert_eq!((health.status, problems(&health)), (503, 1));
        assert!(health.body.contains("its runtime has ended"), "{health:?}");
    }
}

// Lists wait for a thread that is taken; health does not.
#[test]
fn answers_while_lists_wait() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let registry = TaskRegistry::new();
        let status = StatusRouter::new(registry.clone()).max_failure_rate(0.5).max_pending_age(Duration::from_secs(60));
        let address = serve_status(status).await;
        let (release, released) = std::sync::mpsc::channel::<()>();
        let taken = tokio::task::spawn_blocking(move || released.recv());
        let lists = ["/tasks", "/tasks?state=ended", "/metrics", "/metrics.json", "/dead-letters"];
        let lists = lists.map(|path| tokio::spawn(async move { get(address, &format!("/admin{path}")).await }));
        for _ in 0..20 {
            assert_eq!(get(address, "/admin/health").await.status, 200);
        }
        assert!(lists.iter().all(|list| !list.is_finished()));
        release.send(()).unwrap();
        for list in lists {
            assert_eq!(list.await.unwrap().status, 200);
        }
        taken.await.unwrap().unwrap();
    });
}

// Many requests share one look, and each gets its result.
#[tokio::test]
async fn many_requests_at_once_see_the_task_that_waits() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    let address = serve_status(StatusRouter::new(registry.clone()).max_pending_age(Duration::ZERO)).await;
    assert_eq!(get(address, "/admin/health").await.status, 200);
    let running = registry.spawn(hanging());
    registry.spawn(hanging());
    tokio::task::yield_now().await;
    let requests: Vec<_> = (0..50).map(|_| tokio::spawn(async move { get(address, "/admin/health").await })).collect();
    for request in requests {
        let health = request.await.unwrap();
        assert_eq!((health.status, problems(&health)), (503, 1), "{health:?}");
    }
    running.abort();
}
