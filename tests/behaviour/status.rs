//! The operator's view, over real sockets.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use axum::{Router, routing::post};
use futures::StreamExt;
use postlude::{
    Outcome, RetryPolicy, Task, TaskCollector, TaskEvent, TaskId, TaskLayer, TaskRegistry, TaskSet,
    status::{self, Accepted, StatusRouter},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::assert_conserved;

/// A server on loopback.
async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

async fn serve_status(status: StatusRouter) -> SocketAddr {
    serve(Router::new().nest("/admin", status.build())).await
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }

    fn ids(&self) -> Vec<String> {
        self.ids_of("tasks")
    }

    fn ids_of(&self, what: &str) -> Vec<String> {
        let items = self.json()[what].as_array().unwrap().clone();
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    }

    fn location(&self) -> &str {
        self.head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap()
    }
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path).await
}

fn hanging() -> Task {
    Task::new(std::future::pending::<()>()).named("hanging")
}

/// Tried twice in vain.
async fn dead(registry: &TaskRegistry) -> TaskId {
    let twice = RetryPolicy::constant(Duration::ZERO).attempts(2);
    let handle = registry.spawn(Task::retrying(twice, || async { Err::<(), _>("receiver is down") }).named("webhook"));
    let id = handle.id();
    handle.await;
    registry.wait_idle().await;
    id
}

#[tokio::test]
async fn an_operator_sees_what_runs_since_when_and_what_failed_and_why() {
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
        HashSet::from([running.to_string(), pending.to_string()])
    );
    assert_eq!(live.json()["next"], Value::Null);
    assert_eq!(get(address, "/admin/tasks?state=running").await.ids(), [running.to_string()]);
    assert_eq!(get(address, "/admin/tasks?state=pending&name=later").await.ids(), [pending.to_string()]);
    assert_eq!(get(address, "/admin/tasks?state=pending&name=other").await.ids(), [""; 0]);

    let task = get(address, &format!("/admin/tasks/{running}")).await.json();
    assert_eq!((&task["state"], &task["name"], &task["attempt"]), (&json!("running"), &json!("hanging"), &json!(1)));
    assert!(task["age"].is_f64() && task["running_for"].is_f64(), "{task}");
    assert!(task["location"].as_str().unwrap().contains("status.rs:"), "{task}");

    let ended = get(address, "/admin/tasks?state=failed").await;
    assert_eq!(ended.ids(), [failed.to_string()]);
    let task = &ended.json()["tasks"][0];
    assert_eq!((&task["state"], &task["error"]), (&json!("failed"), &json!("connection refused")));
    assert_eq!(&get(address, &format!("/admin/tasks/{failed}")).await.json()["error"], &task["error"]);
}

#[tokio::test]
async fn what_can_not_be_understood_or_found_is_answered_with_what_to_do() {
    let registry = TaskRegistry::new();
    let id = registry.spawn(hanging()).id();
    let address = serve_status(StatusRouter::new(registry.clone())).await;
    let cases = [
        ("/admin/tasks?state=done", 400, "completed"),
        ("/admin/tasks?limit=many", 400, "from 1 to 1000"),
        ("/admin/tasks?cursor=next", 400, "`next`"),
        ("/admin/tasks?status=failed", 400, "state, name"),
        ("/admin/tasks/abc", 400, "look like 17"),
        ("/admin/tasks/17.0", 400, "look like 17"),
        ("/admin/tasks/4711", 404, "too long ago"),
        ("/admin/tasks/99999999999999999999", 400, "look like 17"),
        ("/admin/dead-letters?limit=0", 400, "from 1 to 1000"),
        ("/admin/dead-letters?cursor=17.2", 400, "`next`"),
        ("/admin/dead-letters?state=failed", 400, "limit and cursor"),
        ("/admin/dead-letters/abc", 400, "look like 17"),
        ("/admin/dead-letters/4711", 404, "no dead letter of task 4711"),
    ];
    for (path, status, hint) in cases {
        let answer = get(address, path).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.error().contains(hint), "{path}: {answer:?}");
    }
    let refused = ask(address, "DELETE", &format!("/admin/tasks/{id}")).await;
    assert_eq!(refused.status, 405);
    assert!(refused.error().contains("allow_abort") && refused.head.contains("allow: GET,HEAD"), "{refused:?}");
    assert_eq!(registry.metrics().running + registry.metrics().pending, 1, "and nothing was aborted");
}

#[tokio::test]
async fn a_task_is_aborted_if_that_is_allowed_and_only_once() {
    let registry = TaskRegistry::new();
    let id = registry.spawn(hanging()).id();
    tokio::task::yield_now().await;
    let address = serve_status(StatusRouter::new(registry.clone()).allow_abort()).await;
    let path = format!("/admin/tasks/{id}");
    let aborted = ask(address, "DELETE", &path).await;
    assert_eq!((aborted.status, &aborted.json()["state"]), (200, &json!("aborted")));
    let again = ask(address, "DELETE", &path).await;
    assert_eq!(again.status, 409);
    assert!(again.error().contains("already ended: aborted"));
    assert_eq!(ask(address, "DELETE", "/admin/tasks/4711").await.status, 404);
    assert_eq!(registry.metrics().aborted, 1);
}

#[tokio::test]
async fn pages_neither_repeat_nor_hide_while_tasks_come_and_go() {
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
            registry.abort(next.parse().unwrap());
        }
        registry.abort(*other);
        registry.spawn(hanging());
        cursor = format!("&cursor={next}");
    }
    let distinct: HashSet<_> = seen.iter().cloned().collect();
    assert_eq!(distinct.len(), seen.len(), "none twice");
    expected.extend(registry.tasks().iter().map(|task| task.id).filter(|id| ids.contains(id)).map(|id| id.to_string()));
    assert!(expected.len() > 250);
    assert!(distinct.is_superset(&expected), "none that was there all the time is missing");
}

#[tokio::test]
async fn pages_of_what_ended_go_back_in_time_and_end_where_memory_does() {
    let registry = TaskRegistry::builder().history(10).build().unwrap();
    let mut ids = Vec::new();
    for _ in 0..20 {
        let handle = registry.spawn(async {});
        ids.push(handle.id().to_string());
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
async fn an_operator_sees_what_did_not_get_done_and_why_each_attempt_failed() {
    let registry = TaskRegistry::new();
    let dead = dead(&registry).await;
    let once = registry.spawn(Task::new(async { panic!("burst") }).named("once")).id();
    registry.wait_idle().await;
    let address = serve_status(StatusRouter::new(registry.clone())).await;

    let list = get(address, "/admin/dead-letters").await;
    assert_eq!((list.status, &list.json()["next"]), (200, &Value::Null));
    assert_eq!(list.ids_of("dead_letters"), [once.to_string(), dead.to_string()], "the latest first");
    let letter = get(address, &format!("/admin/dead-letters/{dead}")).await.json();
    assert_eq!(letter, list.json()["dead_letters"][1]);
    assert_eq!((&letter["name"], &letter["is_replayable"]), (&json!("webhook"), &json!(true)));
    let attempts = letter["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|attempt| attempt["error"] == json!("receiver is down")), "{letter}");
    let attempt = &list.json()["dead_letters"][0]["attempts"][0];
    assert_eq!((&attempt["state"], &attempt["error"]), (&json!("panicked"), &json!("burst")));

    for (method, path, methods) in [("POST", "/replay", ""), ("DELETE", "", "GET,HEAD")] {
        let refused = ask(address, method, &format!("/admin/dead-letters/{dead}{path}")).await;
        assert_eq!(refused.status, 405);
        assert!(refused.error().contains("allow_replay"), "{refused:?}");
        assert!(refused.head.contains(&format!("allow: {methods}")), "{refused:?}");
    }
    assert_eq!((registry.dead_letters().len(), registry.metrics().added), (2, 2), "and nothing was done");
}

#[tokio::test]
async fn a_dead_letter_is_replayed_if_that_is_allowed_and_the_answer_says_where_to_ask() {
    let registry = TaskRegistry::builder().capacity(1).build().unwrap();
    let (first, second) = (dead(&registry).await, dead(&registry).await);
    let once = registry.spawn(async { Err::<(), _>("only once") }).id();
    registry.wait_idle().await;
    let address = serve_status(StatusRouter::new(registry.clone()).allow_replay()).await;
    let path = |id: TaskId| format!("/admin/dead-letters/{id}/replay");

    let accepted = ask(address, "POST", &path(first)).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = accepted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(accepted.location(), format!("/admin/tasks/{id}"));
    registry.wait_idle().await;
    let task = get(address, accepted.location()).await.json();
    assert_eq!((&task["state"], &task["replay_of"]), (&json!("failed"), &json!(first.to_string())));
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
async fn routes_that_are_nested_nowhere_say_where_to_ask_for_a_replay_all_the_same() {
    let registry = TaskRegistry::new();
    let id = dead(&registry).await;
    let address = serve(StatusRouter::new(registry.clone()).allow_replay().build()).await;
    let accepted = ask(address, "POST", &format!("/dead-letters/{id}/replay?really=yes")).await;
    assert_eq!((accepted.status, accepted.location().starts_with("/tasks/")), (202, true), "{accepted:?}");
}

#[tokio::test]
async fn a_dead_letter_is_thrown_away_if_that_is_allowed_and_only_once() {
    let registry = TaskRegistry::new();
    let (first, second) = (dead(&registry).await, dead(&registry).await);
    let address = serve_status(StatusRouter::new(registry.clone()).allow_replay()).await;
    let path = format!("/admin/dead-letters/{first}");
    assert_eq!(ask(address, "DELETE", &path).await.status, 204);
    let again = ask(address, "DELETE", &path).await;
    assert_eq!(again.status, 404);
    assert!(again.error().contains("discarded"), "{again:?}");
    assert_eq!(get(address, "/admin/dead-letters").await.ids_of("dead_letters"), [second.to_string()]);
}

#[tokio::test]
async fn pages_of_dead_letters_neither_repeat_nor_hide_while_letters_come_and_go() {
    let registry = TaskRegistry::new();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(dead(&registry).await);
    }
    ids.reverse();
    let names = |ids: &[TaskId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
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
async fn health_says_what_is_wrong() {
    let registry = TaskRegistry::builder().capacity(20).build().unwrap();
    let status = StatusRouter::new(registry.clone()).max_failure_rate(0.5).max_pending_age(Duration::from_millis(20));
    let address = serve_status(status).await;
    let problems = |answer: &Answer| answer.json()["problems"].as_array().unwrap().len();
    let health = get(address, "/admin/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("healthy")));

    for i in 0..11 {
        registry.spawn(async move { if i % 3 == 0 { Ok(()) } else { Err("down") } }).await;
    }
    let health = get(address, "/admin/health").await;
    assert_eq!((health.status, problems(&health)), (503, 1));
    assert!(health.body.contains("64 % failed"), "{health:?}");
    for _ in 0..11 {
        registry.spawn(async {}).await;
    }
    assert_eq!(get(address, "/admin/health").await.status, 200, "it is better again");

    let set = registry.set();
    let first = set.add(hanging());
    for _ in 0..18 {
        set.add(async {});
    }
    tokio::time::sleep(Duration::from_millis(30)).await; // longer than the limit, by the clock that measures it
    let health = get(address, "/admin/health").await;
    assert_eq!(health.status, 200, "what waits for its request waits for no turn: {health:?}");
    set.add(async {});
    drop(set.clone().drain());
    let health = get(address, "/admin/health").await;
    assert_eq!((health.status, problems(&health)), (503, 2), "full, and waiting: {health:?}");
    set.clear();
    assert_eq!(get(address, "/admin/health").await.status, 200);
    registry.abort(first);

    registry.shutdown(Duration::ZERO).await;
    let health = get(address, "/admin/health").await;
    assert_eq!((health.status, problems(&health)), (503, 1));
}

#[tokio::test]
async fn a_client_is_told_where_to_ask_and_asks_until_it_is_done() {
    let registry = TaskRegistry::new();
    let (finish, finished) = tokio::sync::watch::channel(false);
    let export = move |tasks: TaskSet| {
        let mut finished = finished.clone();
        async move {
            let id =
                tasks.add(Task::new(async move { finished.wait_for(|done| *done).await.map(drop) }).named("export"));
            Accepted(id).under("/admin/")
        }
    };
    let app = Router::new()
        .route("/exports", post(export))
        .nest("/admin", status::router(registry.clone()))
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

#[tokio::test]
async fn a_name_with_odd_characters_is_written_as_json_and_prometheus_want_it() {
    let registry = TaskRegistry::new();
    registry.spawn(Task::new(async {}).named("a \"quoted\"\nname \\ of {two} lines, ü")).await;
    let address = serve_status(StatusRouter::new(registry)).await;
    let json = get(address, "/admin/metrics.json").await.json();
    assert_eq!(json["by_name"]["a \"quoted\"\nname \\ of {two} lines, ü"]["completed"], json!(1));
    let text = get(address, "/admin/metrics").await;
    assert!(text.head.contains(TaskCollector::CONTENT_TYPE), "{text:?}");
    let line = r#"postlude_tasks_total{name="a \"quoted\"\nname \\ of {two} lines, ü",outcome="completed"} 1"#;
    assert!(text.body.lines().any(|other| other == line), "{}", text.body);
}

#[tokio::test(start_paused = true)]
async fn the_histograms_count_sum_and_part_what_ran_and_waited() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    for seconds in [1, 2, 8] {
        let work = async move { tokio::time::sleep(Duration::from_secs(seconds)).await };
        registry.spawn(Task::new(work).named("work"));
    }
    registry.wait_idle().await;
    let text = TaskCollector::new(registry.clone()).text();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    };
    let run = |le: &str| value(&format!("postlude_task_run_seconds_bucket{{le=\"{le}\",name=\"work\"}}"));
    assert_eq!([run("0.268435455"), run("1.073741823"), run("4.294967295"), run("+Inf")], [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(value("postlude_task_run_seconds_count{name=\"work\"}"), 3.0);
    assert_eq!(value("postlude_task_run_seconds_sum{name=\"work\"}").round(), 11.0);
    assert_eq!(value("postlude_task_wait_seconds_sum{name=\"work\"}").round(), 4.0, "0, 1 and 3");
    assert_eq!(value("postlude_tasks_added_total"), 3.0);
    assert_eq!(value("postlude_tasks_running"), 0.0);
    assert!(text.ends_with("# EOF\n"));

    let metrics = registry.metrics();
    assert_eq!(metrics.total_queued.as_secs_f64().round(), 4.0);
    assert_eq!(metrics.queued_quantile(1.0).as_secs(), 3);
    let line = metrics.to_string();
    assert!(line.starts_with("3 added: 0 pending, 0 running, 3 completed, 0 failed"), "{line}");
}

/// The lines of an exposition without what differs by timing.
fn total(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_while_100_000_tasks_run_is_complete_and_a_storm_of_requests_harms_no_task() {
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
                total(&answer.body, "postlude_tasks_running ") + total(&answer.body, "postlude_tasks_pending ");
            assert!(running >= TASKS / 2, "{running}");
        }
        if path.ends_with("1000") {
            assert_eq!(answer.ids().len(), 1000);
        }
    }
    ticker.await.unwrap();
    finish.send(true).unwrap();
    registry.wait_idle().await;
    assert_conserved(&registry, TASKS);
    assert_eq!(registry.metrics().completed, TASKS);
    assert_eq!(registry.history().len(), 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scraper_that_does_not_read_holds_up_neither_tasks_nor_other_scrapers() {
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

#[tokio::test]
async fn what_is_told_of_tasks_is_written_with_the_names_of_its_fields_and_in_seconds() {
    let registry = TaskRegistry::new();
    let events = registry.subscribe();
    let set = registry.set();
    let work = async { Err::<(), _>(std::io::Error::other("no such mailbox")) };
    let id = set.add(Task::new(work).named("mail").timeout(Duration::from_secs(1)));
    let report = set.drain().await;
    let told: Vec<TaskEvent> = events.take(3).collect().await;
    let mut json: Vec<Value> = told.iter().map(|event| serde_json::to_value(event).unwrap()).collect();

    let set = id.set().unwrap().to_string();
    for event in &mut json {
        for (key, value) in event["task"].as_object_mut().unwrap() {
            if value.is_f64() || key == "location" {
                *value = json!("…");
            }
        }
    }
    let added = json!({"event": "added", "task": {
        "id": id.to_string(), "name": "mail", "location": "…", "set": set, "state": "pending", "attempt": 0, "age": "…",
        "running_for": null, "due_in": null,
    }});
    let finished = json!({"event": "finished", "task": {
        "id": id.to_string(), "name": "mail", "location": "…", "set": set, "state": "failed", "attempt": 1,
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

    assert_eq!(serde_json::to_value(id).unwrap(), json!(id.to_string()));
    assert_eq!(serde_json::from_value::<TaskId>(json!("17.2")).unwrap().to_string(), "17.2");
    let error = serde_json::from_value::<TaskId>(json!("mail")).unwrap_err().to_string();
    assert!(error.contains("like \"17\" or \"17.2\""), "{error}");
}

#[tokio::test]
async fn each_figure_is_written_once() {
    let registry = TaskRegistry::new();
    let text = TaskCollector::new(registry.clone()).text();
    let mut families: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let count = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), count, "{text}");
    let json = serde_json::to_string(&registry.metrics()).unwrap();
    let fields = json.matches("\":").count();
    let Value::Object(read) = serde_json::from_str(&json).unwrap() else { panic!("no object: {json}") };
    let nested: usize = read.values().filter_map(Value::as_object).map(serde_json::Map::len).sum();
    assert_eq!(fields, read.len() + nested, "{json}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_written_with_the_names_of_its_fields_and_its_moments_in_seconds_since_1970() {
    let registry = TaskRegistry::new();
    let twice = RetryPolicy::constant(Duration::ZERO).attempts(2);
    let hangs = Task::retrying(twice, || async {
        if postlude::attempt() == 1 { Err("receiver is down") } else { std::future::pending().await }
    });
    let set = registry.set();
    let id = set.add(hangs.named("webhook").timeout(Duration::from_secs(2)));
    set.drain().await;
    let mut letter = serde_json::to_value(registry.dead_letters().find(id).unwrap()).unwrap();
    assert!(letter["location"].as_str().unwrap().contains("status.rs:"), "{letter}");
    letter["location"] = json!("…");
    for attempt in letter["attempts"].as_array_mut().unwrap() {
        let (year_2020, year_9999) = (1_577_836_800.0, 253_370_764_800.0);
        assert!((year_2020..year_9999).contains(&attempt["ended_at"].as_f64().unwrap()), "{attempt}");
        attempt["ended_at"] = json!("…");
        attempt["ran_for"] = json!(attempt["ran_for"].as_f64().unwrap().round());
    }
    let written = json!({
        "id": id.to_string(), "name": "webhook", "location": "…", "set": id.set().unwrap().to_string(), "replay_of": null,
        "is_replayable": true, "attempts": [
            {"number": 1, "state": "failed", "ended_at": "…", "ran_for": 0.0, "error": "receiver is down"},
            {"number": 2, "state": "timed_out", "ended_at": "…", "ran_for": 2.0, "limit": 2.0},
        ],
    });
    assert_eq!(letter, written);
}
