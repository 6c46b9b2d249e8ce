//! Dead letters: shown, replayed, discarded.

use postlude::{Task, TaskId, TaskRegistry};
use postlude_console::StatusRouter;
use serde_json::{Value, json};

use crate::support::{ask, dead, get, hanging, serve, serve_status};

#[tokio::test]
async fn list_and_show_have_each_attempt() {
    let registry = TaskRegistry::new();
    let dead = dead(&registry).await;
    let once = registry.spawn(Task::new(async { panic!("burst") }).named("once")).id();
    registry.wait_idle().await;
    let address = serve_status(StatusRouter::new(registry.clone())).await;

    let list = get(address, "/admin/dead-letters").await;
    assert_eq!((list.status, &list.json()["next"]), (200, &Value::Null));
    assert_eq!(list.ids_of("dead_letters"), [once.to_external(), dead.to_external()], "the latest first");
    let letter = get(address, &format!("/admin/dead-letters/{}", dead.to_external())).await.json();
    assert_eq!(letter, list.json()["dead_letters"][1]);
    assert_eq!((&letter["name"], &letter["is_replayable"]), (&json!("webhook"), &json!(true)));
    let attempts = letter["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|attempt| attempt["error"] == json!("receiver is down")), "{letter}");
    let attempt = &list.json()["dead_letters"][0]["attempts"][0];
    assert_eq!((&attempt["state"], &attempt["error"]), (&json!("panicked"), &json!("burst")));

    for (method, path, methods) in [("POST", "/replay", ""), ("DELETE", "", "GET,HEAD")] {
        let refused = ask(address, method, &format!("/admin/dead-letters/{}{path}", dead.to_external())).await;
        assert_eq!(refused.status, 405);
        assert!(refused.error().contains("allow_replay"), "{refused:?}");
        assert!(refused.header("allow").unwrap_or_default() == methods, "{refused:?}");
    }
    assert_eq!((registry.dead_letters().len(), registry.metrics().added), (2, 2), "and nothing was done");
}

#[tokio::test]
async fn replay_answers_with_the_location_of_the_new_task() {
    let registry = TaskRegistry::builder().capacity(1).build().unwrap();
    let (first, second) = (dead(&registry).await, dead(&registry).await);
    let once = registry.spawn(async { Err::<(), _>("only once") }).id();
    registry.wait_idle().await;
    let address = serve_status(StatusRouter::new(registry.clone()).allow_replay()).await;
    let path = |id: TaskId| format!("/admin/dead-letters/{}/replay", id.to_external());

    let accepted = ask(address, "POST", &path(first)).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = accepted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(accepted.location(), format!("/admin/tasks/{id}"));
    registry.wait_idle().await;
    let task = get(address, accepted.location()).await.json();
    assert_eq!((&task["state"], &task["replay_of"]), (&json!("failed"), &json!(first.to_external())));
    assert_eq!(get(address, "/admin/dead-letters").await.ids_of("dead_letters")[0], id, "with a letter of its own");

    let gone = ask(address, "POST", &path(first)).await;
    assert_eq!(gone.status, 404);
    assert!(gone.error().contains("it was replayed"), "{gone:?}");
    let plain = ask(address, "POST", &path(once)).await;
    assert_eq!(plain.status, 409);
    assert!(plain.error().contains("Task::retrying"), "{plain:?}");
    let busy = registry.spawn(hanging());
    let full = ask(address, "POST", &path(second)).await;
    assert_eq!(full.status, 409);
    assert!(full.error().contains("stays a dead letter"), "{full:?}");
    busy.abort();
    assert_eq!(ask(address, "POST", "/admin/dead-letters/abc/replay").await.status, 400);
    assert_eq!(ask(address, "GET", &path(second)).await.status, 405);
}

#[tokio::test]
async fn replay_works_without_nesting() {
    let registry = TaskRegistry::new();
    let id = dead(&registry).await;
    let address = serve(StatusRouter::new(registry.clone()).allow_replay().build()).await;
    let accepted = ask(address, "POST", &format!("/dead-letters/{}/replay?really=yes", id.to_external())).await;
    assert_eq!((accepted.status, accepted.location().starts_with("/tasks/")), (202, true), "{accepted:?}");
}

#[tokio::test]
async fn delete_discards_a_letter_once() {
    let registry = TaskRegistry::new();
    let (first, second) = (dead(&registry).await, dead(&registry).await);
    let address = serve_status(StatusRouter::new(registry.clone()).allow_replay()).await;
    let path = format!("/admin/dead-letters/{}", first.to_external());
    assert_eq!(ask(address, "DELETE", &path).await.status, 204);
    let again = ask(address, "DELETE", &path).await;
    assert_eq!(again.status, 404);
    assert!(again.error().contains("discarded"), "{again:?}");
    assert_eq!(get(address, "/admin/dead-letters").await.ids_of("dead_letters"), [second.to_external()]);
}
