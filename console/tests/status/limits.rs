//! Names: shown, paused and limited; tasks aborted by a filter; and what is logged of all that.

use std::{
    cell::RefCell,
    io,
    sync::{Arc, Mutex},
};

use postlude::{Task, TaskId, TaskRegistry};
use postlude_console::StatusRouter;
use serde_json::json;
use tracing::dispatcher::DefaultGuard;

use crate::support::{ask, dead, get, hanging, log_on_every_thread, serve_status};

/// Started tasks wait in their first poll.
async fn started(registry: &TaskRegistry, running: u64) {
    while registry.metrics().running != running {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn pause_and_resume_a_name() {
    let registry = TaskRegistry::new();
    registry.spawn(hanging()).abort();
    registry.wait_idle().await;
    let address = serve_status(StatusRouter::new(registry.clone()).allow_pause()).await;
    let paused = ask(address, "PUT", "/admin/names/hanging/paused").await;
    assert_eq!(paused.status, 200, "{paused:?}");
    assert_eq!(paused.json(), json!({"name": "hanging", "limit": null, "in_use": 0, "paused": true}));
    assert!(registry.is_paused("hanging"));
    let task = registry.spawn(hanging());
    let row = get(address, "/admin/names/hanging").await.json();
    assert_eq!((&row["name"], &row["paused"], &row["pending"]), (&json!("hanging"), &json!(true), &json!(1)), "{row}");
    let waiting = get(address, "/admin/tasks?state=paused").await;
    assert_eq!(waiting.ids(), [task.id().to_external()]);
    assert_eq!(ask(address, "PUT", "/admin/names/hanging/paused").await.status, 200, "again");

    let resumed = ask(address, "DELETE", "/admin/names/hanging/paused").await;
    assert_eq!((resumed.status, &resumed.json()["paused"]), (200, &json!(false)));
    started(&registry, 1).await;
}

#[tokio::test]
async fn set_and_remove_the_limit_of_a_name() {
    let registry = TaskRegistry::new();
    (0..3).for_each(|_| _ = registry.spawn(hanging()));
    started(&registry, 3).await;
    let address = serve_status(StatusRouter::new(registry.clone()).allow_pause()).await;
    let limited = ask(address, "PUT", "/admin/names/hanging/limit?tasks=2").await;
    assert_eq!(limited.status, 200, "{limited:?}");
    assert_eq!((&limited.json()["limit"], &limited.json()["paused"]), (&json!(2), &json!(false)));
    assert_eq!(registry.name_limits()["hanging"].limit, Some(2));
    for (query, hint) in [
        ("?tasks=0", "use `pause`"),
        ("?tasks=-1", "from 1"),
        ("?tasks=", "from 1"),
        ("", "as `tasks=`"),
        ("?limit=3", "there is tasks"),
    ] {
        let refused = ask(address, "PUT", &format!("/admin/names/hanging/limit{query}")).await;
        assert_eq!(refused.status, 400, "{query}: {refused:?}");
        assert!(refused.error().contains(hint), "{query}: {refused:?}");
    }
    assert_eq!(registry.name_limits()["hanging"].limit, Some(2), "a mistake changes nothing");
    for _ in 0..2 {
        let removed = ask(address, "DELETE", "/admin/names/hanging/limit").await;
        assert_eq!((removed.status, &removed.json()["limit"]), (200, &json!(null)));
    }
}

#[tokio::test]
async fn a_name_that_nobody_has_used_is_unknown() {
    let address = serve_status(StatusRouter::new(TaskRegistry::new()).allow_pause()).await;
    for (method, path) in [
        ("GET", "mail"),
        ("PUT", "mail/paused"),
        ("DELETE", "mail/paused"),
        ("PUT", "mail/limit?tasks=1"),
        ("DELETE", "mail/limit"),
    ] {
        let answer = ask(address, method, &format!("/admin/names/{path}")).await;
        assert_eq!((answer.status, answer.error().contains("`mail`")), (404, true), "{answer:?}");
    }
}

#[tokio::test]
async fn pausing_is_off_unless_it_is_allowed() {
    let registry = TaskRegistry::new();
    registry.spawn(hanging());
    let status = StatusRouter::new(registry.clone()).allow_abort().allow_replay();
    let address = serve_status(status).await;
    for method in ["PUT", "DELETE"] {
        for what in ["paused", "limit"] {
            let refused = ask(address, method, &format!("/admin/names/hanging/{what}")).await;
            assert_eq!((refused.status, refused.error().contains("allow_pause")), (405, true), "{refused:?}");
        }
    }
    assert!(registry.name_limits().is_empty());
}

// A name may have any characters.
#[tokio::test]
async fn names_are_found_by_their_text() {
    let registry = TaskRegistry::new();
    registry.spawn(Task::new(std::future::pending::<()>()).named("a/b c?ü"));
    let address = serve_status(StatusRouter::new(registry.clone()).allow_pause()).await;
    assert_eq!(ask(address, "PUT", "/admin/names/a%2Fb%20c%3F%C3%BC/paused").await.status, 200);
    assert!(registry.is_paused("a/b c?ü"));
}

mod abort {
    use super::*;

    #[tokio::test]
    async fn takes_the_tasks_that_match_and_no_others() {
        let registry = TaskRegistry::new();
        let kept = registry.spawn(Task::new(std::future::pending::<()>()).named("kept"));
        (0..5).for_each(|_| _ = registry.spawn(hanging()));
        let set = registry.set();
        set.add(hanging());
        let address = serve_status(StatusRouter::new(registry.clone()).allow_abort()).await;
        let aborted = ask(address, "DELETE", "/admin/tasks?name=hanging&state=pending&text=HANG").await;
        assert_eq!((aborted.status, aborted.json()), (200, json!({"aborted": 1, "next": null})), "{aborted:?}");
        let aborted = ask(address, "DELETE", "/admin/tasks?text=support.rs").await.json();
        assert_eq!(aborted["aborted"], 5, "those that were made in that file");
        assert_eq!(registry.tasks().iter().map(|task| task.id).collect::<Vec<_>>(), [kept.id()]);
        assert_eq!(ask(address, "DELETE", "/admin/tasks?state=live").await.json()["aborted"], 1);
        assert_eq!(registry.metrics().live, 0);
    }

    #[tokio::test]
    async fn goes_on_where_it_was() {
        let registry = TaskRegistry::new();
        (0..10_500).for_each(|_| _ = registry.spawn(hanging()));
        let address = serve_status(StatusRouter::new(registry.clone()).allow_abort()).await;
        let first = ask(address, "DELETE", "/admin/tasks?name=hanging").await.json();
        assert_eq!(first["aborted"], 10_000);
        let cursor = first["next"].as_str().unwrap();
        let second = ask(address, "DELETE", &format!("/admin/tasks?name=hanging&cursor={cursor}")).await.json();
        assert_eq!(second, json!({"aborted": 500, "next": null}));
        assert_eq!(registry.metrics().live, 0);
    }

    #[tokio::test]
    async fn asks_for_a_filter_and_explains_a_wrong_one() {
        let registry = TaskRegistry::new();
        registry.spawn(hanging());
        let address = serve_status(StatusRouter::new(registry.clone()).allow_abort()).await;
        for (query, hint) in [
            ("", "say which tasks"),
            ("?cursor=17", "say which tasks"),
            ("?state=failed", "has ended"),
            ("?state=ended", "has ended"),
            ("?state=live&limit=5", "10000"),
            ("?nam=hanging", "say which tasks"),
            ("?name=hanging&nam=a", "not a parameter"),
        ] {
            let refused = ask(address, "DELETE", &format!("/admin/tasks{query}")).await;
            assert_eq!(refused.status, 400, "{query}: {refused:?}");
            assert!(refused.error().contains(hint), "{query}: {refused:?}");
        }
        assert_eq!(registry.metrics().aborted, 0);
        let off = serve_status(StatusRouter::new(registry.clone())).await;
        let refused = ask(off, "DELETE", "/admin/tasks?state=live").await;
        assert_eq!((refused.status, refused.error().contains("allow_abort")), (405, true), "{refused:?}");
        assert_eq!(get(off, "/admin/tasks?text=NOBODY").await.ids(), [""; 0]);
        assert_eq!(get(off, "/admin/tasks?text=Support.rs").await.ids().len(), 1);
    }
}

/// The lines of the log so far.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

thread_local! {
    static GUARD: RefCell<Option<DefaultGuard>> = const { RefCell::new(None) };
}

#[test]
fn each_action_is_logged_with_what_it_did() {
    log_on_every_thread();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // Also the threads on which tasks are looked at.
    let runtime = {
        let dispatch = tracing::Dispatch::new(subscriber);
        let of_threads = dispatch.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_start(move || GUARD.set(Some(tracing::dispatcher::set_default(&of_threads))))
            .build()
            .unwrap();
        tracing::dispatcher::with_default(&dispatch, || runtime.block_on(act()));
        runtime
    };
    runtime.shutdown_background();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for line in [
        "a client has replayed a dead letter",
        "a client has discarded a dead letter",
        "a client has aborted a task",
        "a client has aborted tasks aborted=0 name=\"hanging\" text=\"h\\nang\" state=Live",
        "a client has aborted tasks aborted=1 name=\"hanging\" state=Live",
        "a client has paused a name name=\"hanging\" is_new=true",
        "a client has resumed a name name=\"hanging\" is_new=true",
        "a client has set the limit of a name name=\"hanging\" limit=3",
        "a client has removed the limit of a name name=\"hanging\"",
    ] {
        assert!(text.lines().any(|one| one.contains(line)), "{line}: {text}");
    }
}

async fn act() {
    let registry = TaskRegistry::new();
    let (first, second) = (dead(&registry).await, dead(&registry).await);
    let tasks: Vec<TaskId> = (0..2).map(|_| registry.spawn(hanging()).id()).collect();
    let address = serve_status(StatusRouter::new(registry).allow_abort().allow_replay().allow_pause()).await;
    for (method, path) in [
        ("POST", format!("dead-letters/{}/replay", first.to_external())),
        ("DELETE", format!("dead-letters/{}", second.to_external())),
        ("DELETE", format!("tasks/{}", tasks[0].to_external())),
        ("DELETE", "tasks?name=hanging&text=h%0Aang".to_owned()),
        ("DELETE", "tasks?name=hanging".to_owned()),
        ("PUT", "names/hanging/paused".to_owned()),
        ("DELETE", "names/hanging/paused".to_owned()),
        ("PUT", "names/hanging/limit?tasks=3".to_owned()),
        ("DELETE", "names/hanging/limit".to_owned()),
    ] {
        let answer = ask(address, method, &format!("/admin/{path}")).await;
        assert!(answer.status < 300, "{path}: {answer:?}");
    }
}
