//! Who may act, which methods there are, and ids of other processes.

use postlude::{TaskId, TaskRegistry};
use postlude_console::StatusRouter;

use crate::support::{Answer, ask, ask_with, dead, get, hanging, serve, serve_status};

const OTHER: &str = "0f3k9v5zq8m2n7x4c6b1t0ydwp";

/// Those that act on all tasks of a name: `hanging`, that of the live task.
const OF_A_NAME: [(&str, &str); 5] = [
    ("DELETE", "/admin/tasks?name=hanging"),
    ("PUT", "/admin/names/hanging/paused"),
    ("DELETE", "/admin/names/hanging/paused"),
    ("PUT", "/admin/names/hanging/limit?tasks=3"),
    ("DELETE", "/admin/names/hanging/limit"),
];

/// All that act, for a dead letter and a live task.
fn actions(letter: TaskId, task: TaskId) -> [(&'static str, String); 3] {
    let (letter, task) = (letter.to_external(), task.to_external());
    [
        ("POST", format!("/admin/dead-letters/{letter}/replay")),
        ("DELETE", format!("/admin/dead-letters/{letter}")),
        ("DELETE", format!("/admin/tasks/{task}")),
    ]
}

mod cross_site {
    use super::*;

    #[tokio::test]
    async fn requests_are_refused_and_told_what_to_send() {
        let registry = TaskRegistry::new();
        let (letter, task) = (dead(&registry).await, registry.spawn(hanging()).id());
        let status = StatusRouter::new(registry.clone()).allow_abort().allow_replay().allow_pause();
        let address = serve_status(status).await;
        let refused = [
            // A plain form, as browsers of all ages send it.
            ("content-type: application/x-www-form-urlencoded\r\n", "send the header `x-requested-with`"),
            ("sec-fetch-site: cross-site\r\norigin: https://evil.example\r\n", "another site"),
            ("origin: https://evil.example\r\n", "https://evil.example"),
            ("origin: null\r\n", "null"),
            // Also with the header, as a server whose CORS layer allows every header would let it through.
            ("x-requested-with: a\r\nsec-fetch-site: cross-site\r\n", "another site"),
            ("x-requested-with: a\r\nsec-fetch-site: same-site\r\n", "another site"),
            ("x-requested-with: a\r\norigin: https://evil.example\r\n", "https://evil.example"),
            ("x-requested-with: a\r\norigin: http://a:8080\r\n", "http://a:8080"),
            ("x-requested-with: a\r\norigin: \u{fffd}\r\n", "not of this host"),
            ("sec-fetch-site: same-origin\r\n", "send the header `x-requested-with`"),
        ];
        let of_a_name = OF_A_NAME.map(|(method, path)| (method, path.to_owned()));
        for (method, path) in actions(letter, task).into_iter().chain(of_a_name) {
            for (headers, hint) in refused {
                let answer = ask_with(address, method, &path, headers).await;
                assert_eq!(answer.status, 403, "{method} {path} {headers}: {answer:?}");
                assert!(answer.error().contains(hint), "{headers}: {answer:?}");
            }
        }
        assert!(
            registry.dead_letters().find(letter).is_some()
                && registry.get(task).is_some_and(|task| task.outcome().is_none())
        );
        assert_eq!(registry.metrics().added, 2, "nothing was replayed");
        assert!(registry.name_limits().is_empty(), "nothing is paused or limited");
    }

    #[tokio::test]
    async fn a_page_of_the_same_host_and_a_client_without_origin_may_act() {
        let accepted = [
            "x-requested-with: curl\r\n",
            "x-requested-with:\r\n",
            "x-requested-with: a\r\nsec-fetch-site: same-origin\r\norigin: http://a\r\n",
            "x-requested-with: a\r\nsec-fetch-site: none\r\n",
            "x-requested-with: a\r\norigin: http://a\r\n",
            // A proxy has changed the host, and the browser knows better.
            "x-requested-with: a\r\nsec-fetch-site: same-origin\r\norigin: https://outside.example\r\n",
        ];
        let registry = TaskRegistry::new();
        let address = serve_status(StatusRouter::new(registry.clone()).allow_abort().allow_replay()).await;
        for headers in accepted {
            let (letter, other, task) = (dead(&registry).await, dead(&registry).await, registry.spawn(hanging()).id());
            let [replay, _, abort] = actions(letter, task);
            let [_, discard, _] = actions(other, task);
            for ((method, path), status) in [(replay, 202), (discard, 204), (abort, 200)] {
                let answer = ask_with(address, method, &path, headers).await;
                assert_eq!(answer.status, status, "{method} {path} {headers}: {answer:?}");
            }
        }
    }

    // Reading needs no header: a person opens it in a browser.
    #[tokio::test]
    async fn reads_are_answered() {
        let address = serve_status(StatusRouter::new(TaskRegistry::new())).await;
        for path in ["/tasks", "/dead-letters", "/metrics.json", "/metrics", "/health"] {
            let answer = ask_with(address, "GET", &format!("/admin{path}"), "sec-fetch-site: cross-site\r\n").await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    }
}

mod methods {
    use super::*;

    fn allow(answer: &Answer) -> Vec<&str> {
        let mut methods: Vec<_> = answer.header("allow").unwrap_or_default().split(',').collect();
        methods.sort_unstable();
        methods
    }

    async fn check(status: StatusRouter, task: &[&str], letter: &[&str], replay: &[&str], limit: &[&str]) {
        let address = serve_status(status).await;
        let read: &[&str] = &["GET", "HEAD"];
        let routes = [
            ("/tasks", task),
            ("/tasks/17", task),
            ("/names/mail", read),
            ("/names/mail/paused", limit),
            ("/names/mail/limit", limit),
            ("/dead-letters", read),
            ("/dead-letters/17", letter),
            ("/dead-letters/17/replay", replay),
            ("/metrics", read),
            ("/metrics.json", read),
            ("/health", read),
        ];
        for (path, methods) in routes {
            let path = format!("/admin{path}");
            let options = ask(address, "OPTIONS", &path).await;
            assert_eq!((options.status, allow(&options)), (204, methods.to_vec()), "{path}: {options:?}");
            let patch = ask(address, "PATCH", &path).await;
            assert_eq!((patch.status, allow(&patch)), (405, methods.to_vec()), "{path}: {patch:?}");
            assert!(patch.error().contains("PATCH"), "{patch:?}");
        }
    }

    #[tokio::test]
    async fn lists_only_what_is_on() {
        let status = || StatusRouter::new(TaskRegistry::new());
        let (read, delete): (&[&str], &[&str]) = (&["GET", "HEAD"], &["DELETE", "GET", "HEAD"]);
        let none = &[""];
        check(status(), read, read, none, none).await;
        check(status().allow_abort(), delete, read, none, none).await;
        check(status().allow_replay(), read, delete, &["POST"], none).await;
        check(status().allow_pause(), read, read, none, &["DELETE", "PUT"]).await;
    }
}

mod ids {
    use super::*;

    // After a restart, or at another replica, the number may be that of a stranger.
    #[tokio::test]
    async fn of_another_process_are_unknown_and_nothing_is_done() {
        let registry = TaskRegistry::new();
        let (letter, task) = (dead(&registry).await, registry.spawn(hanging()).id());
        let address = serve_status(StatusRouter::new(registry.clone()).allow_abort().allow_replay()).await;
        for (method, path) in actions(letter, task) {
            let path = path.replace(TaskId::instance(), OTHER);
            let answer = ask(address, method, &path).await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
            assert!(answer.error().contains(OTHER), "{answer:?}");
        }
        for path in [format!("/admin/tasks/{task}-{OTHER}"), format!("/admin/dead-letters/{letter}-{OTHER}")] {
            assert_eq!(get(address, &path).await.status, 404, "{path}");
        }
        assert!(registry.dead_letters().find(letter).is_some());
        assert_eq!(registry.metrics().aborted, 0);
        for path in [format!("/admin/tasks?cursor=17-{OTHER}"), format!("/admin/dead-letters?cursor=0-{OTHER}")] {
            let answer = get(address, &path).await;
            assert_eq!((answer.status, answer.error().contains("of another process")), (400, true), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn of_a_log_line_are_refused_with_the_way_to_complete_them() {
        let registry = TaskRegistry::new();
        let id = registry.spawn(hanging()).id();
        let address = serve_status(StatusRouter::new(registry.clone()).allow_abort()).await;
        let answer = ask(address, "DELETE", &format!("/admin/tasks/{id}")).await;
        assert_eq!((answer.status, answer.error().contains("append")), (400, true), "{answer:?}");
        assert_eq!(registry.metrics().aborted, 0);
    }

    #[tokio::test]
    async fn that_are_no_utf_8_get_the_same_shape_of_error() {
        let status = StatusRouter::new(TaskRegistry::new()).allow_abort().allow_replay().allow_pause();
        let address = serve_status(status).await;
        let requests = [
            ("GET", "/tasks/%FF"),
            ("DELETE", "/tasks/%FF"),
            ("GET", "/dead-letters/%FF"),
            ("DELETE", "/dead-letters/%FF"),
            ("POST", "/dead-letters/%FF/replay"),
            ("GET", "/names/%FF"),
            ("PUT", "/names/%FF/paused"),
            ("PUT", "/names/%FF/limit?tasks=1"),
        ];
        for (method, path) in requests {
            let answer = ask(address, method, &format!("/admin{path}")).await;
            assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
            assert!(answer.error().contains("UTF-8"), "{answer:?}");
        }
    }

    // The path under which the routes are nested may have parameters of its own.
    #[tokio::test]
    async fn are_found_beside_other_parameters() {
        let registry = TaskRegistry::new();
        let id = registry.spawn(hanging()).id().to_external();
        let app = axum::Router::new().nest("/{tenant}/admin", postlude_console::router(registry));
        let address = serve(app).await;
        assert_eq!(get(address, &format!("/a/admin/tasks/{id}")).await.json()["id"], id);
    }
}

mod cache_control {
    use super::*;

    #[tokio::test]
    async fn is_no_store_on_every_answer() {
        let registry = TaskRegistry::new();
        let (letter, task) = (dead(&registry).await, registry.spawn(hanging()).id());
        let address = serve_status(StatusRouter::new(registry).allow_abort().allow_replay()).await;
        let reads = [
            "/tasks",
            "/tasks/17",
            "/tasks/%FF",
            "/tasks?limit=0",
            "/dead-letters",
            "/dead-letters/17",
            "/metrics",
            "/metrics.json",
            "/health",
        ];
        let mut requests: Vec<_> = reads.map(|path| ("GET", format!("/admin{path}"))).to_vec();
        requests.push(("OPTIONS", "/admin/tasks".to_owned()));
        requests.push(("PATCH", "/admin/tasks".to_owned()));
        requests.extend(actions(letter, task));
        for (method, path) in requests {
            let answer = ask(address, method, &path).await;
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{method} {path}: {answer:?}");
        }
    }
}
