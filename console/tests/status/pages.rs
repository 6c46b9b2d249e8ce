//! Lists, page by page.

use std::collections::HashSet;

use postlude::{Task, TaskId, TaskRegistry};
use postlude_console::StatusRouter;
use serde_json::{Value, json};

use crate::support::{Answer, ask, dead, get, hanging, serve_status};

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

#[tokio::test]
async fn dead_letters_of_a_name_and_of_a_part_of_it_are_found_on_all_pages() {
    let registry = TaskRegistry::new();
    let (mut of_webhook, mut of_others) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        of_webhook.insert(0, dead(&registry).await.to_external());
        let other = registry.spawn(Task::new(async { Err::<(), _>("down") }).named("Send.Mail"));
        of_others.insert(0, other.id().to_external());
        other.await;
    }
    registry.wait_idle().await;
    let address = serve_status(StatusRouter::new(registry)).await;
    for (filter, expected) in [("name=webhook", &of_webhook), ("text=MAIL", &of_others), ("text=none", &Vec::new())] {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = get(address, &format!("/admin/dead-letters?limit=2&{filter}{cursor}")).await;
            found.extend(page.ids_of("dead_letters"));
            let Some(next) = page.json()["next"].as_str().map(str::to_owned) else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(&found, expected, "{filter}");
    }
    assert_eq!(get(address, "/admin/dead-letters?name=web").await.ids_of("dead_letters"), [""; 0], "a name is exact");
}

#[tokio::test]
async fn tasks_of_a_set_are_found_among_many() {
    let registry = TaskRegistry::new();
    for _ in 0..12_000 {
        registry.spawn(hanging());
    }
    let set = registry.set();
    let ids: Vec<_> = (0..5).map(|_| set.add(hanging())).collect();
    let other = registry.set();
    other.add(hanging());
    let ended = registry.set();
    let gone = ended.add(Task::new(async {}));
    ended.drain().await;
    let address = serve_status(StatusRouter::new(registry.clone()).allow_abort()).await;
    let external = |ids: &[TaskId]| ids.iter().map(|id| id.to_external()).collect::<Vec<_>>();
    let of = |id: TaskId| format!("{}-{}", id.set().unwrap(), TaskId::instance());

    let path = format!("/admin/tasks?limit=3&set={}", of(ids[0]));
    let first = get(address, &path).await;
    assert_eq!(first.ids(), external(&ids[..3]));
    let next = first.json()["next"].as_str().unwrap().to_owned();
    let second = get(address, &format!("{path}&cursor={next}")).await;
    assert_eq!((second.ids(), &second.json()["next"]), (external(&ids[3..]), &Value::Null));
    assert_eq!(get(address, &format!("/admin/tasks?state=ended&set={}", of(gone))).await.ids(), external(&[gone]));
    let aborted = ask(address, "DELETE", &format!("/admin/tasks?set={}", of(ids[0]))).await;
    assert_eq!((aborted.status, &aborted.json()["aborted"]), (200, &json!(5)));
    assert_eq!(registry.metrics().live, 12_001, "those of the other set, and those of none, go on");
}
