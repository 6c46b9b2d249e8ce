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
