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

/// What became of letters is asked for by the ids of their replays, or by their own.
#[tokio::test]
async fn replays_are_found_while_they_live_and_when_they_have_ended() {
    let registry = TaskRegistry::builder().limit_by_name("webhook", 1).history(3).build().unwrap();
    let letters = [dead(&registry).await, dead(&registry).await];
    let address = serve_status(StatusRouter::new(registry.clone()).allow_replay()).await;
    registry.pause("webhook");
    let mut replays = Vec::new();
    for id in letters {
        let accepted = ask(address, "POST", &format!("/admin/dead-letters/{}/replay", id.to_external())).await;
        replays.push(accepted.json()["id"].as_str().unwrap().to_owned());
    }
    let unknown = "17-0f3k9v5zq8m2n7x4c6b1t0ydwp";
    let all = format!("/admin/tasks?ids={},{unknown},{}", replays[0], replays[1]);
    let of_first = |state: &str| format!("/admin/tasks?state={state}&replay_of={}", letters[0].to_external());
    let waiting = get(address, &all).await;
    assert_eq!(waiting.ids(), replays);
    assert_eq!(waiting.json()["tasks"][0]["replay_of"], json!(letters[0].to_external()));
    assert_eq!(get(address, &of_first("live")).await.ids(), replays[..1]);

    registry.resume("webhook");
    registry.wait_idle().await;
    let ended = get(address, &all).await.json();
    assert!(ended["tasks"].as_array().unwrap().iter().all(|task| task["state"] == json!("failed")), "{ended}");
    assert_eq!(get(address, &of_first("failed")).await.ids(), replays[..1]);
    for _ in 0..1_100 {
        registry.spawn(async {}).await;
    }
    assert_eq!(get(address, &all).await.ids(), [""; 0], "they ended too long ago");
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
