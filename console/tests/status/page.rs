//! The page, its files and its streams, as a browser asks for them.

use std::time::Duration;

use axum::Router;
use postlude::{Task, TaskId, TaskRegistry};
use postlude_console::StatusRouter;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::support::{ask_with, dead, get, hanging, serve, serve_status};

const BROWSER: &str = "accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
const NAUGHTY: &str = "<img src=x onerror=alert(1)>\u{202e}\u{7}\"'&";

/// Reads a stream up to `wanted`, and returns what came.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&text).contains(wanted) {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the stream has ended: {}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&buffer[..count]);
        }
    };
    timeout(Duration::from_secs(60), read).await.unwrap();
    String::from_utf8(text).unwrap()
}

async fn open(address: std::net::SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

mod assets {
    use super::*;

    #[tokio::test]
    async fn a_browser_gets_the_page_and_every_file_that_it_names() {
        let address = serve_status(StatusRouter::new(TaskRegistry::new())).await;
        for path in ["/admin", "/admin/", "/admin/index.html"] {
            let page = ask_with(address, "GET", path, BROWSER).await;
            if page.status == 404 && path == "/admin/" {
                continue; // axum nests at the path without the slash
            }
            assert_eq!(page.status, 200, "{path}: {page:?}");
            assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
            let files: Vec<&str> =
                page.body.split(['"', ' ']).filter(|word| word.starts_with("./") && word.contains("assets/")).collect();
            assert_eq!(files.len(), 3, "{files:?}");
            let folder = path.rsplit_once('/').unwrap().0;
            for file in files {
                let file = get(address, &format!("{folder}/{}", file.trim_start_matches("./"))).await;
                assert_eq!(file.status, 200, "{path}: {file:?}");
            }
        }
    }

    #[tokio::test]
    async fn modules_import_only_files_that_are_served() {
        let address = serve_status(StatusRouter::new(TaskRegistry::new())).await;
        let (mut open, mut seen) = (vec!["main.js".to_owned()], Vec::new());
        while let Some(file) = open.pop() {
            let answer = get(address, &format!("/admin/assets/{file}")).await;
            assert_eq!(answer.status, 200, "{file}");
            assert_eq!(answer.header("content-type"), Some("text/javascript; charset=utf-8"));
            let imports = answer.body.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next());
            let new: Vec<_> =
                imports.filter(|import| !seen.iter().any(|one| one == import)).map(str::to_owned).collect();
            open.extend(new);
            seen.push(file);
        }
        for view in [
            "overview.js",
            "names.js",
            "tasks.js",
            "history.js",
            "dead.js",
            "events.js",
            "queues.js",
            "detail.js",
            "runbook.js",
        ] {
            assert!(seen.iter().any(|one| one == view), "{view} is not used");
        }
        let runbook = get(address, "/admin/assets/runbook.md").await;
        assert_eq!((runbook.status, runbook.header("content-type")), (200, Some("text/markdown; charset=utf-8")));
    }

    #[tokio::test]
    async fn headers_forbid_inline_scripts_frames_and_guessed_types() {
        let address = serve_status(StatusRouter::new(TaskRegistry::new())).await;
        let page = ask_with(address, "GET", "/admin", BROWSER).await;
        let policy = page.header("content-security-policy").unwrap();
        assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for"] {
            assert!(policy.contains(part), "{part}: {policy}");
        }
        for (header, value) in
            [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("x-frame-options", "DENY")]
        {
            assert_eq!(page.header(header), Some(value));
        }
        for inline in ["<script>", "<style", " style=", " onclick", " onload", "javascript:"] {
            assert!(!page.body.contains(inline), "{inline}");
        }
        for path in ["/admin/tasks", "/admin/assets/main.js", "/admin/snapshot.json", "/admin/health"] {
            assert_eq!(get(address, path).await.header("x-content-type-options"), Some("nosniff"), "{path}");
        }
    }

    #[tokio::test]
    async fn a_file_that_has_not_changed_is_not_sent_again() {
        let address = serve_status(StatusRouter::new(TaskRegistry::new())).await;
        let first = get(address, "/admin/assets/console.css").await;
        let etag = first.header("etag").unwrap();
        let again = ask_with(address, "GET", "/admin/assets/console.css", &format!("if-none-match: {etag}\r\n")).await;
        assert_eq!((again.status, again.body.as_str()), (304, ""));
    }

    #[tokio::test]
    async fn a_client_that_is_no_browser_gets_json_and_without_page_nothing() {
        let address = serve_status(StatusRouter::new(TaskRegistry::new())).await;
        let index = get(address, "/admin").await.json();
        assert_eq!(index["instance"], TaskId::instance());
        assert_eq!(index["jobs"], serde_json::Value::Null);
        assert_eq!(index["allowed"], serde_json::json!({"abort": false, "replay": false, "pause": false}));
        for route in index["routes"].as_array().unwrap() {
            let route = route.as_str().unwrap();
            if route != "events" {
                assert_eq!(get(address, &format!("/admin/{route}")).await.status, 200, "{route}");
            }
        }
        let bare = serve_status(StatusRouter::new(TaskRegistry::new()).without_page()).await;
        for path in ["/admin", "/admin/index.html", "/admin/assets/main.js", "/admin/events", "/admin/snapshot.json"] {
            assert_eq!(ask_with(bare, "GET", path, BROWSER).await.status, 404, "{path}");
        }
        assert_eq!(get(bare, "/admin/tasks").await.status, 200);
    }

    #[tokio::test]
    async fn the_page_is_told_where_the_routes_of_jobs_are() {
        let address = serve_status(StatusRouter::new(TaskRegistry::new()).jobs_at("../jobs/")).await;
        assert_eq!(get(address, "/admin").await.json()["jobs"], "../jobs");
        assert_eq!(get(address, "/admin/snapshot.json").await.json()["jobs"], "../jobs");
    }

    #[tokio::test]
    async fn the_page_works_below_any_path() {
        let status = StatusRouter::new(TaskRegistry::new()).build();
        let address = serve(Router::new().nest("/a/b%20c", status)).await;
        let page = ask_with(address, "GET", "/a/b%20c", BROWSER).await;
        assert!(page.body.contains("\"./b%20c/assets/main.js\""), "{}", page.body);
    }
}

mod snapshot {
    use super::*;

    #[tokio::test]
    async fn it_says_what_fails_and_foreign_text_stays_text() {
        let registry = TaskRegistry::new();
        for _ in 0..6 {
            registry.spawn(Task::new(async { Err::<(), _>(NAUGHTY) }).named(NAUGHTY)).await;
        }
        let address = serve_status(StatusRouter::new(registry.clone()).stop(CancellationToken::new())).await;
        // The first sample is where the figures begin.
        get(address, "/admin/snapshot.json").await;
        for _ in 0..6 {
            registry.spawn(Task::new(async { Err::<(), _>(NAUGHTY) }).named(NAUGHTY)).await;
        }
        let mut stream = open(address, "/admin/events").await;
        let text = read_until(&mut stream, "\"failing\"").await;
        let snapshot = text.lines().rfind(|line| line.contains("\"failing\"")).unwrap();
        let snapshot: serde_json::Value = serde_json::from_str(snapshot.strip_prefix("data: ").unwrap()).unwrap();
        let finding = &snapshot["findings"][0];
        assert_eq!((finding["kind"].as_str(), finding["name"].as_str()), (Some("failing"), Some(NAUGHTY)));
        assert_eq!(snapshot["names"][0]["last_error"]["state"], "failed");
        let page = ask_with(address, "GET", "/admin", BROWSER).await;
        assert!(!page.body.contains("onerror"), "the page has nothing of the tasks in it");
    }

    #[tokio::test]
    async fn it_says_what_was_lost_and_why() {
        let registry = TaskRegistry::builder().capacity(1).build().unwrap();
        registry.spawn(hanging());
        let address = serve_status(StatusRouter::new(registry.clone()).stop(CancellationToken::new())).await;
        get(address, "/admin/snapshot.json").await;
        for _ in 0..3 {
            registry.spawn(Task::new(async {}).named("mail"));
        }
        let mut stream = open(address, "/admin/events").await;
        // A new name has figures of its own from the next sample on.
        let text = read_until(&mut stream, "\"kind\":\"lost\",\"name\":\"mail\"").await;
        let text = text + &read_until(&mut stream, "\n\n").await;
        assert!(
            text.contains("lost 3 tasks in the last 5 minutes: 3 discarded (since the start: 3 capacity)"),
            "{text}"
        );
        let all = get(address, "/admin/snapshot.json").await.json();
        assert_eq!((&all["totals"]["lost"], &all["totals"]["capacity"]), (&3.into(), &1.into()), "{all}");
        assert!(all["next_in"].as_f64().unwrap() >= 1.0);
    }

    /// The oldest task waits behind another one: that is one problem, which the health check has, too.
    #[tokio::test]
    async fn it_tells_a_problem_of_health_once_and_in_words() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let holder = set.add(hanging());
        set.add(Task::new(async {}).named("behind"));
        drop(set);
        tokio::task::yield_now().await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(70)).await;
        tokio::time::resume();
        let status = StatusRouter::new(registry).max_pending_age(Duration::from_secs(60));
        let address = serve_status(status).await;
        let snapshot = get(address, "/admin/snapshot.json").await.json();
        assert_eq!((&snapshot["finding_count"], &snapshot["health"]["status"]), (&1.into(), &"unhealthy".into()));
        let finding = &snapshot["findings"][0];
        assert_eq!((&finding["kind"], &finding["task"]), (&"blocking".into(), &holder.to_external().into()));
        assert_eq!(finding["health"], "The health check fails: no task may wait for longer than 60s");
        assert!(!finding.to_string().contains("/tasks"), "{finding}");
        let health = get(address, "/admin/health").await;
        assert!(health.body.contains("longer than 60s: see `/tasks?state=pending`"), "{health:?}");
    }

    #[tokio::test]
    async fn it_names_the_task_that_holds_up_its_set() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        set.add(hanging());
        set.add(Task::new(async {}).named("behind"));
        drop(set);
        let address = serve_status(StatusRouter::new(registry).stop(CancellationToken::new())).await;
        let mut stream = open(address, "/admin/events").await;
        let text = read_until(&mut stream, "\"blocking\"").await;
        assert!(text.contains("1 later task of its set waits for it"), "{text}");
    }
}

mod events {
    use super::*;

    #[tokio::test]
    async fn snapshots_and_tasks_come_in_one_stream_and_end_with_the_server() {
        let (registry, stop) = (TaskRegistry::new(), CancellationToken::new());
        let address = serve_status(StatusRouter::new(registry.clone()).stop(stop.clone())).await;
        let mut stream = open(address, "/admin/events?tail=on").await;
        let head = read_until(&mut stream, "event: snapshot").await;
        assert!(head.contains("content-type: text/event-stream") && head.contains("cache-control: no-store"), "{head}");
        registry.spawn(Task::new(async {}).named("seen")).await;
        let text = read_until(&mut stream, "\"finished\"").await;
        assert!(text.contains("event: tasks") && text.contains("\"seen\""), "{text}");
        stop.cancel();
        let mut rest = String::new();
        timeout(Duration::from_secs(60), stream.read_to_string(&mut rest)).await.unwrap().unwrap();
        assert!(rest.ends_with("0\r\n\r\n"), "the response is whole: {rest}");
    }

    #[tokio::test]
    async fn wrong_parameters_are_explained() {
        let address = serve_status(StatusRouter::new(TaskRegistry::new())).await;
        for (query, hint) in [("tail=yes", "on or off"), ("after=x", "`next`"), ("follow=1", "tail and after")] {
            let answer = get(address, &format!("/admin/events?{query}")).await;
            assert_eq!(answer.status, 400);
            assert!(answer.error().contains(hint), "{answer:?}");
        }
        assert_eq!(get(address, "/admin/samples.json?nam=a").await.status, 400);
        assert_eq!(get(address, "/admin/names.json?limit=0").await.status, 400);
    }

    /// What a hundred viewers read is taken once, and those who read nothing hold up nobody.
    #[tokio::test]
    async fn a_hundred_viewers_of_whom_half_never_read_see_the_same_snapshots() {
        let address = serve_status(StatusRouter::new(TaskRegistry::new())).await;
        let mut viewers = Vec::new();
        for _ in 0..100 {
            viewers.push(open(address, "/admin/events").await);
        }
        let mut readers = viewers.split_off(50);
        for stream in &mut readers {
            read_until(stream, "event: snapshot").await;
        }
        let text = read_until(&mut readers[0], "\"viewers\":100").await;
        let first = text.matches("event: snapshot").count();
        let text = read_until(&mut readers[1], "\"viewers\":100").await;
        assert!(first > 0 && text.contains("\"number\":"), "{text}");
        drop((viewers, readers));
        // Those who have gone are noticed when the next snapshot is sent to them.
        let mut last = open(address, "/admin/events").await;
        read_until(&mut last, "\"viewers\":1,").await;
    }
}

mod instance {
    use super::*;

    #[tokio::test]
    async fn an_action_for_another_process_is_a_conflict_and_does_nothing() {
        let registry = TaskRegistry::new();
        let (letter, task) = (dead(&registry).await, registry.spawn(hanging()).id());
        let status = StatusRouter::new(registry.clone()).allow_abort().allow_replay().allow_pause();
        let address = serve_status(status).await;
        let (letter_path, task_path) = (letter.to_external(), task.to_external());
        let actions = [
            ("POST", format!("/admin/dead-letters/{letter_path}/replay")),
            ("DELETE", format!("/admin/dead-letters/{letter_path}")),
            ("DELETE", format!("/admin/tasks/{task_path}")),
            ("DELETE", "/admin/tasks?state=live".to_owned()),
            ("PUT", "/admin/names/hanging/paused".to_owned()),
            ("DELETE", "/admin/names/hanging/paused".to_owned()),
            ("PUT", "/admin/names/hanging/limit?tasks=3".to_owned()),
            ("DELETE", "/admin/names/hanging/limit".to_owned()),
        ];
        for (method, path) in &actions {
            let headers = "x-requested-with: a\r\nx-postlude-instance: 0f3k9v5zq8m2n7x4c6b1t0ydwp\r\n";
            let answer = ask_with(address, method, path, headers).await;
            assert_eq!(answer.status, 409, "{answer:?}");
            assert!(answer.error().contains("nothing was done"), "{answer:?}");
            assert_eq!(answer.header("x-postlude-instance"), Some(TaskId::instance()));
        }
        assert!(registry.dead_letters().find(letter).is_some());
        assert_eq!(registry.metrics().aborted, 0);
        assert!(registry.name_limits().is_empty(), "nothing is paused or limited");
        let mine = format!("x-requested-with: a\r\nx-postlude-instance: {}\r\n", TaskId::instance());
        assert_eq!(ask_with(address, "DELETE", &actions[2].1, &mine).await.status, 200);
    }
}
