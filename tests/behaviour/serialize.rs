//! How infos, reports, events, dead letters and metrics are serialised.

use std::time::Duration;

use futures::StreamExt;
use postlude::{Outcome, RetryPolicy, Task, TaskEvent, TaskId, TaskRegistry};
use serde_json::{Value, json};

#[tokio::test]
async fn events_and_reports_have_named_fields_and_seconds() {
    let registry = TaskRegistry::new();
    let events = registry.subscribe();
    let set = registry.set();
    let work = async { Err::<(), _>(std::io::Error::other("no such mailbox")) };
    let id = set.add(Task::new(work).named("mail").timeout(Duration::from_secs(1)));
    let report = set.drain().await;
    let told: Vec<TaskEvent> = events.take(3).collect().await;
    let mut json: Vec<Value> = told.iter().map(|event| serde_json::to_value(event).unwrap()).collect();

    let set = format!("{}-{}", id.set().unwrap(), TaskId::instance());
    for event in &mut json {
        for (key, value) in event["task"].as_object_mut().unwrap() {
            if value.is_f64() || key == "location" {
                *value = json!("…");
            }
        }
    }
    let added = json!({"event": "added", "task": {
        "id": id.to_external(), "name": "mail", "location": "…", "set": set, "state": "pending", "attempt": 0, "age": "…",
        "running_for": null, "due_in": null, "paused": false,
    }});
    let finished = json!({"event": "finished", "task": {
        "id": id.to_external(), "name": "mail", "location": "…", "set": set, "state": "failed", "attempt": 1,
        "replay_of": null, "queued_for": "…", "ran_for": "…", "ended_ago": "…", "error": "no such mailbox",
    }});
    assert_eq!((&json[0], &json[2]), (&added, &finished));
    assert_eq!(serde_json::to_value(TaskEvent::Missed(3)).unwrap(), json!({"event": "missed", "count": 3}));
    let drained = json!({"completed": 0, "failed": 1, "panicked": 0, "timed_out": 0, "aborted": 0, "discarded": 0});
    assert_eq!(serde_json::to_value(report).unwrap(), drained);
    let limit = serde_json::to_value(Outcome::TimedOut(Duration::from_millis(1500))).unwrap();
    assert_eq!(limit, json!({"state": "timed_out", "limit": 1.5}));
    let choosy = TaskRegistry::builder().admit(|_| Err("no mail today".into())).build().unwrap();
    choosy.spawn(async {}).await;
    let refused = serde_json::to_value(&choosy.history()[0]).unwrap();
    assert_eq!((&refused["reason"], &refused["error"]), (&json!("refused"), &json!("no mail today")));
    assert_eq!(serde_json::to_value(registry.metrics()).unwrap()["shed"], json!(0));
    let report = serde_json::to_value(registry.shutdown(Duration::ZERO).await).unwrap();
    assert_eq!(report["aborted"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn dead_letters_have_named_fields_and_seconds_since_1970() {
    let registry = TaskRegistry::new();
    let twice = RetryPolicy::constant(Duration::ZERO).attempts(2);
    let hangs = Task::retrying(twice, || async {
        if postlude::attempt() == 1 { Err("receiver is down") } else { std::future::pending().await }
    });
    let set = registry.set();
    let id = set.add(hangs.named("webhook").timeout(Duration::from_secs(2)));
    set.drain().await;
    let mut letter = serde_json::to_value(registry.dead_letters().find(id).unwrap()).unwrap();
    assert!(letter["location"].as_str().unwrap().contains("serialize.rs:"), "{letter}");
    letter["location"] = json!("…");
    for attempt in letter["attempts"].as_array_mut().unwrap() {
        let (year_2020, year_9999) = (1_577_836_800.0, 253_370_764_800.0);
        assert!((year_2020..year_9999).contains(&attempt["ended_at"].as_f64().unwrap()), "{attempt}");
        attempt["ended_at"] = json!("…");
        attempt["ran_for"] = json!(attempt["ran_for"].as_f64().unwrap().round());
    }
    let written = json!({
        "id": id.to_external(), "name": "webhook", "location": "…", "set": format!("{}-{}", id.set().unwrap(), TaskId::instance()), "replay_of": null,
        "is_replayable": true, "attempts": [
            {"number": 1, "state": "failed", "ended_at": "…", "ran_for": 0.0, "error": "receiver is down"},
            {"number": 2, "state": "timed_out", "ended_at": "…", "ran_for": 2.0, "limit": 2.0},
        ],
    });
    assert_eq!(letter, written);
}

#[tokio::test]
async fn metrics_write_each_field_once() {
    let registry = TaskRegistry::new();
    let json = serde_json::to_string(&registry.metrics()).unwrap();
    let fields = json.matches("\":").count();
    let Value::Object(read) = serde_json::from_str(&json).unwrap() else { panic!("no object: {json}") };
    let nested: usize = read.values().filter_map(Value::as_object).map(serde_json::Map::len).sum();
    assert_eq!(fields, read.len() + nested, "{json}");
}
