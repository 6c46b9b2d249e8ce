//! A handler that accepts long work, and a client that polls it.

use axum::{Router, routing::post};
use postlude::{Task, TaskLayer, TaskRegistry, TaskSet};
use postlude_console::Accepted;
use serde_json::json;

use crate::support::{ask, get, serve};

#[tokio::test]
async fn a_client_polls_until_the_task_has_completed() {
    let registry = TaskRegistry::new();
    let (finish, finished) = tokio::sync::watch::channel(false);
    let export = move |tasks: TaskSet| {
        let mut finished = finished.clone();
        async move {
            let id =
                tasks.add(Task::new(async move { finished.wait_for(|done| *done).await.map(drop) }).named("export"));
            Accepted::new(id).under("/admin/")
        }
    };
    let app = Router::new()
        .route("/exports", post(export))
        .nest("/admin", postlude_console::router(registry.clone()))
        .layer(TaskLayer::new(registry.clone()));
    let address = serve(app).await;

    let accepted = ask(address, "POST", "/exports").await;
    assert_eq!(accepted.status, 202);
    let location = accepted.location();
    let id = accepted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/admin/tasks/{id}"));
    assert_eq!(accepted.json()["status"], json!(location));

    assert_ne!(get(address, location).await.json()["state"], json!("completed"));
    finish.send(true).unwrap();
    registry.wait_idle().await;
    assert_eq!(get(address, location).await.json()["state"], json!("completed"));
}
