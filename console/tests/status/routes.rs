//! Tasks one by one, errors, and many requests at once.

use std::collections::HashSet;

use postlude::{Task, TaskId, TaskRegistry};
use postlude_console::StatusRouter;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{ask, get, hanging, serve_status};

#[tokio::test]
async fn tasks_shows_live_and_failed_tasks() {
    let registry = TaskRegistry::new();
    let running = registry.spawn(hanging()).id();
    let source = std::io::Error::other("connection refused");
    let failed = registry.spawn(Task::new(async { Err::<(), _>(std::io::Error::other(source)) }).named("mail")).id();
    let set = registry.set();
    let pending = set.add(Task::new(async {}).named("later"));
    tokio::task::yield_now().await;
    let address = serve_status(StatusRouter::new(registry)).await;

    let live = get(address, "/admin/tasks").await;
    assert_eq!(live.status, 200);
    assert!(live.head.contains("application/json"), "{live:?}");
    assert_eq!(
        live.ids().into_iter().collect::<HashSet<_>>(),
        HashSet::from([running.to_external(), pending.to_external()])
    );
    assert_eq!(live.json()["next"], Value::Null);
    assert_eq!(get(address, "/admin/tasks?state=running").await.ids(), [running.to_external()]);
    assert_eq!(get(address, "/admin/tasks?state=pending&name=later").await.ids(), [pending.to_external()]);
    assert_eq!(get(address, "/admin/tasks?state=pending&name=other").await.ids(), [""; 0]);

    let task = get(address, &format!("/admin/tasks/{}", running.to_external())).await.json();
    assert_eq!((&task["state"], &task["name"], &task["attempt"]), (&json!("running"), &json!("hanging"), &json!(1)));
    assert!(task["age"].is_f64() && task["running_for"].is_f64(), "{task}");
    assert!(task["location"].as_str().unwrap().contains("support.rs:"), "{task}");

    let ended = get(address, "/admin/tasks?state=failed").await;
    assert_eq!(ended.ids(), [failed.to_external()]);
    let task = &ended.json()["tasks"][0];
    assert_eq!((&task["state"], &task["error"]), (&json!("failed"), &json!("connection refused")));
    assert_eq!(&get(address, &format!("/admin/tasks/{}", failed.to_external())).await.json()["error"], &task["error"]);
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let registry = TaskRegistry::new();
    let id = registry.spawn(hanging()).id();
    let address = serve_status(StatusRouter::new(registry.clone())).await;
    let cases = [
        ("/admin/tasks?state=done", 400, "completed"),
        ("/admin/tasks?limit=many", 400, "from 1 to 1000"),
        ("/admin/tasks?cursor=next", 400, "`next`"),
        ("/admin/tasks?status=failed", 400, "state, name"),
        ("/admin/tasks/abc", 400, "take the `id`"),
        ("/admin/tasks/17.0", 400, "take the `id`"),
        (&*format!("/admin/tasks/4711-{}", TaskId::instance()), 404, "too long ago"),
        ("/admin/tasks/99999999999999999999", 400, "take the `id`"),
        ("/admin/dead-letters?limit=0", 400, "from 1 to 1000"),
        ("/admin/dead-letters?cursor=17.2", 400, "`next`"),
        ("/admin/dead-letters?state=failed", 400, "limit and cursor"),
        ("/admin/dead-letters/abc", 400, "take the `id`"),
        (&format!("/admin/dead-letters/4711-{}", TaskId::instance()), 404, "no dead letter of task 4711-"),
    ];
    for (path, status, hint) in cases {
        let answer = get(address, path).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.error().contains(hint), "{path}: {answer:?}");
    }
    let refused = ask(address, "DELETE", &format!("/admin/tasks/{}", id.to_external())).await;
    assert_eq!(refused.status, 405);
    assert!(refused.error().contains("allow_abort") && refused.header("allow") == Some("GET,HEAD"), "{refused:?}");
    assert_eq!(registry.metrics().running + registry.metrics().pending, 1, "and nothing was aborted");
}

#[tokio::test]
async fn delete_aborts_a_task_once_if_allowed() {
    let registry = TaskRegistry::new();
    let id = registry.spawn(hanging()).id();
    tokio::task::yield_now().await;
    let address = serve_status(StatusRouter::new(registry.clone()).allow_abort()).await;
    let path = format!("/admin/tasks/{}", id.to_external());
    let aborted = ask(address, "DELETE", &path).await;
    assert_eq!((aborted.status, &aborted.json()["state"]), (200, &json!("aborted")));
    let again = ask(address, "DELETE", &path).await;
    assert_eq!(again.status, 409);
    assert!(again.error().contains("already ended: aborted"));
    assert_eq!(ask(address, "DELETE", &format!("/admin/tasks/4711-{}", TaskId::instance())).await.status, 404);
    assert_eq!(registry.metrics().aborted, 1);
}

/// The values of a metric of all names, added up.
fn total(text: &str, metric: &str) -> u64 {
    let values = text.lines().filter_map(|line| line.strip_prefix(metric)?.split_once("} ")?.1.parse::<u64>().ok());
    values.sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_beside_100_000_tasks_lose_no_task() {
    const TASKS: u64 = 100_000;
    let registry = TaskRegistry::new();
    let (finish, finished) = tokio::sync::watch::channel(false);
    for _ in 0..TASKS / 2 {
        let mut finished = finished.clone();
        registry.spawn(Task::new(async move { finished.wait_for(|done| *done).await.map(drop) }).named("waiting"));
    }
    let ticking = registry.clone();
    let ticker = tokio::spawn(async move {
        for _ in 0..TASKS / 2 {
            ticking.spawn(Task::new(async {}).named("ticking")).await;
        }
    });
    let address = serve_status(StatusRouter::new(registry.clone()).max_failure_rate(0.5)).await;
    let paths =
        ["/metrics", "/metrics.json", "/health", "/tasks?limit=1000", "/tasks?name=nobody", "/tasks?state=ended"];
    let storm: Vec<_> = (0..60)
        .map(|i| {
            let path = format!("/admin{}", paths[i % paths.len()]);
            tokio::spawn(async move { (get(address, &path).await, path) })
        })
        .collect();
    for request in storm {
        let (answer, path) = request.await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        if path.ends_with("/metrics") {
            let running =
                total(&answer.body, "postlude_tasks_running{") + total(&answer.body, "postlude_tasks_pending{");
            assert!(running >= TASKS / 2, "{running}");
        }
        if path.ends_with("1000") {
            assert_eq!(answer.ids().len(), 1000);
        }
    }
    ticker.await.unwrap();
    finish.send(true).unwrap();
    registry.wait_idle().await;
    let m = registry.metrics();
    assert_eq!((m.added, m.completed), (TASKS, TASKS), "{m}");
    let others = m.pending + m.running + m.failed + m.panicked + m.timed_out + m.aborted + m.discarded;
    assert_eq!(others, 0, "{m}");
    assert_eq!(registry.history().len(), 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_delays_nobody() {
    let registry = TaskRegistry::new();
    for _ in 0..2_000 {
        registry.spawn(hanging());
    }
    let address = serve_status(StatusRouter::new(registry.clone())).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..50 {
            stream.write_all(b"GET /admin/tasks?limit=1000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        }
        stalled.push(stream); // and reads nothing
    }
    for _ in 0..1_000 {
        assert!(registry.spawn(async {}).await.is_completed());
    }
    assert_eq!(get(address, "/admin/metrics").await.status, 200);
    assert_eq!(get(address, "/admin/tasks?limit=1000").await.ids().len(), 1000);
}
