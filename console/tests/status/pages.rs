//! Lists, page by page.

use std::collections::HashSet;

use postlude::{TaskId, TaskRegistry};
use postlude_console::StatusRouter;
use serde_json::Value;

use crate::support::{Answer, dead, get, hanging, serve_status};

#[tokio::test]
async fn live_pages_neither_repeat_nor_skip() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    let mut expected = HashSet::new();
    let mut ids = Vec::new();
    for _ in 0..150 {
        ids.push(registry.spawn(hanging()).id());
        ids.push(set.add(hanging()));
    }
    let address = serve_status(StatusRouter::new(registry.clone())).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for (pages, other) in ids.iter().enumerate() {
        let answer = get(address, &format!("/admin/tasks?limit=40{cursor}")).await;
        seen.extend(answer.ids());
        let Some(next) = answer.json()["next"].as_str().map(str::to_owned) else { break };
        // Some go, some come; now and then also the one at which the next page is to begin.
        if pages % 2 == 0 {
            registry.abort(TaskId::from_external(&next).unwrap());
        }
        registry.abort(*other);
        registry.spawn(hanging());
        cursor = format!("&cursor={next}");
    }
    let distinct: HashSet<_> = seen.iter().cloned().collect();
    assert_eq!(distinct.len(), seen.len(), "none twice");
    expected
        .extend(registry.tasks().iter().map(|task| task.id).filter(|id| ids.contains(id)).map(|id| id.to_external()));
    assert!(expected.len() > 250);
    assert!(distinct.is_superset(&expected), "none that was there all the time is missing");
}

#[tokio::test]
async fn ended_pages_stop_at_the_end_of_the_history() {
    let registry = TaskRegistry::builder().history(10).build().unwrap();
    let mut ids = Vec::new();
    for _ in 0..20 {
        let handle = registry.spawn(async {});
        ids.push(handle.id().to_external());
        handle.await;
    }
    let address = serve_status(StatusRouter::new(registry.clone())).await;
    let first = get(address, "/admin/tasks?state=ended&limit=4").await;
    assert_eq!(first.ids(), [&*ids[19], &ids[18], &ids[17], &ids[16]]);
    registry.spawn(async {}).await;
    let next = first.json()["next"].as_str().unwrap().to_owned();
    let second = get(address, &format!("/admin/tasks?state=ended&limit=4&cursor={next}")).await;
    assert_eq!(second.ids(), [&*ids[15], &ids[14], &ids[13], &ids[12]]);
    for _ in 0..10 {
        registry.spawn(async {}).await;
    }
    let third = get(address, &format!("/admin/tasks?state=completed&limit=4&cursor={next}")).await;
    assert!(third.ids().is_empty(), "all that is older was forgotten");
    assert_eq!(third.json()["next"], Value::Null);
}

#[tokio::test]
async fn dead_letter_pages_neither_repeat_nor_skip() {
    let registry = TaskRegistry::new();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(dead(&registry).await);
    }
    ids.reverse();
    let names = |ids: &[TaskId]| ids.iter().map(|id| id.to_external()).collect::<Vec<_>>();
    let address = serve_status(StatusRouter::new(registry.clone())).await;
    let page = async |cursor: &str| get(address, &format!("/admin/dead-letters?limit=4{cursor}")).await;
    let next = |answer: &Answer| format!("&cursor={}", answer.json()["next"].as_str().unwrap());

    let first = page("").await;
    assert_eq!(first.ids_of("dead_letters"), names(&ids[..4]));
    // Also that at which the next page is to begin.
    for gone in [ids[2], ids[3], ids[4]] {
        registry.dead_letters().discard(gone);
    }
    dead(&registry).await;
    let second = page(&next(&first)).await;
    assert_eq!(second.ids_of("dead_letters"), names(&ids[5..9]));
    let third = page(&next(&second)).await;
    assert_eq!((third.ids_of("dead_letters"), &third.json()["next"]), (names(&ids[9..]), &Value::Null));
    registry.dead_letters().clear();
    let nothing = page(&next(&first)).await;
    assert_eq!((nothing.ids_of("dead_letters"), &nothing.json()["next"]), (vec![], &Value::Null));
}
