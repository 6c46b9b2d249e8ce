//! The lines of the log.

use std::{io, sync::Mutex, time::Duration};

use postlude::{Priority, RetryPolicy, Task, TaskRegistry};
use tracing::{info, instrument::WithSubscriber};

use crate::capture::{Text, broken, listen_everywhere, logged};

#[test]
fn has_every_outcome_but_completed() {
    let text = logged(async {
        let registry = TaskRegistry::new();
        let set = registry.set();
        set.add(Task::new(async {}).named("fine"));
        let broken = async { Err::<(), _>(io::Error::other(io::Error::other("connection refused"))) };
        set.add(Task::new(broken).named("failing"));
        set.add(Task::new(async { panic!("a bug") }).named("panicking"));
        set.add(Task::new(std::future::pending::<()>()).timeout(Duration::from_millis(1)).named("hanging"));
        let aborted = set.add(Task::new(async {}).named("aborted"));
        registry.abort(aborted);
        set.drain().await;
        let cleared = registry.set();
        cleared.add(Task::new(async {}).named("cleared"));
        cleared.clear();
        registry.spawn(Task::new(async {}).expires_after(Duration::ZERO).named("expired"));
        registry.shutdown(Duration::ZERO).await;
        registry.spawn(Task::new(async {}).named("late"));
    });
    let expected = [
        ("failing", "ERROR", "task failed", "error=connection refused"),
        ("panicking", "ERROR", "task panicked", "error=a bug"),
        ("hanging", "ERROR", "task timed out", "limit=1ms"),
        ("aborted", "WARN", "task aborted", "attempt=0"),
        ("cleared", "WARN", "task discarded", "reason=its set was cleared"),
        ("expired", "WARN", "task discarded", "reason=it had not started when its time was over"),
        ("late", "ERROR", "task discarded", "reason=the registry is shut down"),
    ];
    for (name, level, message, detail) in expected {
        let lines = text.lines_with(&format!("name=\"{name}\""));
        assert_eq!(lines.len(), 1, "{name}: {}", text.read());
        let line = &lines[0];
        for wanted in [level, message, detail, "postlude", "id=", "location=", "queued_for=", "ran_for=", "log.rs"] {
            assert!(line.contains(wanted), "{wanted}: {line}");
        }
    }
    assert!(text.lines_with("fine").is_empty(), "{}", text.read());
}

#[test]
fn line_of_end_is_in_span_of_its_task() {
    let text = logged(async {
        let registry = TaskRegistry::builder().span_level(tracing::Level::INFO).build().unwrap();
        registry.spawn(Task::new(broken()).named("mail")).await;
    });
    let line = &text.lines_with("task failed")[0];
    let (_time, line) = line.split_once("ERROR ").unwrap();
    let mut rest = line;
    for part in [
        "task{id=",
        " name=\"mail\"}: postlude: task failed id=",
        " name=\"mail\" location=tests/telemetry/log.rs:",
        " attempt=1 queued_for=",
        " ran_for=",
        " error=connection refused",
    ] {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part}: {line}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn warns_of_many_live_tasks() {
    let text = logged(async {
        let registry = TaskRegistry::new();
        let set = registry.set();
        for _ in 0..9_999 {
            set.add(async {});
        }
        info!("nothing yet");
        for _ in 9_999..45_000 {
            set.add(async {});
        }
        set.clear();
    });
    let warnings = text.lines_with("many tasks are live");
    let live: Vec<_> = warnings.iter().filter_map(|line| line.split("live=").nth(1)).collect();
    assert_eq!(live, ["10000", "20000", "40000"]);
    let (before, _) = text.read().split_once("nothing yet").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(!before.contains("many tasks"), "{before}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_names_stragglers() {
    listen_everywhere();
    let text = Text::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(text.clone()).finish();
    async {
        let registry = TaskRegistry::new();
        registry.spawn(Task::new(std::future::pending::<()>()).named("straggler"));
        registry.shutdown(Duration::from_secs(12)).await;
    }
    .with_subscriber(subscriber)
    .await;
    // After 2, 4 and 8 s.
    assert_eq!(text.lines_with("waiting for task ").len(), 3, "{}", text.read());
    assert!(text.lines_with("waiting for task ")[0].contains("`straggler`"));
}

mod wait_idle {
    use std::future::pending;

    use futures::FutureExt;
    use tokio::time::{sleep, timeout};

    use super::*;

    /// What the log has after `wait_idle` has waited for this long.
    async fn after(seconds: u64, registry: &TaskRegistry) -> Text {
        listen_everywhere();
        let text = Text::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(text.clone()).finish();
        let wait = timeout(Duration::from_secs(seconds), registry.wait_idle());
        let _waited = wait.with_subscriber(subscriber).await;
        text
    }

    #[tokio::test(start_paused = true)]
    async fn names_tasks_by_state_after_two_seconds_and_at_each_doubling() {
        let registry = TaskRegistry::builder().limit_by_name("one", 1).build().unwrap();
        registry.spawn(Task::new(pending::<()>()).named("one"));
        registry.spawn(Task::new(pending::<()>()).named("one"));
        let set = registry.set();
        set.add(Task::new(pending::<()>()).named("in a set"));
        set.add(Task::new(pending::<()>()).named("behind it"));
        set.drain();
        assert!(after(1, &registry).await.read().is_empty());
        let text = after(17, &registry).await;
        let headings = text.lines_with("`wait_idle` is waiting for tasks");
        // After 2, 4, 8 and 16 s.
        assert_eq!(headings.len(), 4, "{}", text.read());
        assert!(headings.iter().all(|line| line.contains("live=4") && line.contains("WARN")));
        for (named, lines) in [("`one` (", 8), ("running", 8), ("pending", 8), ("`in a set`", 4), ("`behind it`", 4)] {
            assert_eq!(text.lines_with(named).len(), lines, "{named}: {}", text.read());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn says_nothing_of_a_short_wait() {
        let registry = TaskRegistry::new();
        registry.spawn(async { sleep(Duration::from_millis(1900)).await });
        let text = after(60, &registry).await;
        assert!(text.read().is_empty(), "{}", text.read());
    }

    #[tokio::test(start_paused = true)]
    async fn names_ten_at_most() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        for _ in 0..100 {
            set.add(pending::<()>());
            registry.spawn(pending::<()>());
        }
        set.drain();
        let text = after(3, &registry).await;
        assert_eq!(text.lines_with("waiting for task ").len(), 10, "{}", text.read());
    }

    #[tokio::test]
    async fn names_what_is_held_after_the_end_of_the_runtime() {
        let (registry, set) = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
            let set = registry.set();
            set.add(Task::new(async {}).named("never drained"));
            (registry, set)
        })
        .join()
        .unwrap();
        listen_everywhere();
        let text = Text::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(text.clone()).finish();
        {
            let mut idle = Box::pin(registry.wait_idle().with_subscriber(subscriber));
            assert!(idle.as_mut().now_or_never().is_none(), "the handle of the set is held");
            let lines = text.lines_with("waiting for set ");
            let [line] = &lines[..] else { panic!("one line: {}", text.read()) };
            assert!(line.contains("nothing has drained it") && line.contains("`never drained`"), "{line}");
        }
        drop(set);
        registry.wait_idle().await;
    }

    #[cfg(feature = "axum")]
    #[tokio::test(start_paused = true)]
    async fn names_open_sets_and_what_they_wait_for() {
        use axum::{Router, body::Body, http::Request, routing::post};
        use postlude::{TaskLayer, TaskSet};
        use tower::ServiceExt;

        let registry = TaskRegistry::new();
        let nobodys = registry.set();
        nobodys.add(Task::new(async {}).named("never drained"));
        let signup = |tasks: TaskSet| async move {
            tasks.add(Task::new(async {}).named("welcome_mail"));
            tasks.add(Task::new(async {}).named("audit_log"));
            "welcome!"
        };
        let layer = TaskLayer::new(registry.clone()).drain_within(Duration::from_secs(60));
        let router = Router::new().route("/signup", post(signup)).layer(layer);
        let response = router.oneshot(Request::post("/signup").body(Body::empty()).unwrap()).await.unwrap();
        let text = after(3, &registry).await;
        let [nobody, held] = &text.lines_with("waiting for set ")[..] else { panic!("{}", text.read()) };
        assert!(nobody.contains("nothing has drained it; 1 pending, the first is task") && nobody.contains("`never"));
        assert!(
            held.contains(" of POST /signup: its response is held, and was not read to its end; 2 pending"),
            "{held}"
        );
        assert!(held.contains("`welcome_mail` (tests/telemetry/log.rs:") && !held.contains("audit_log"), "{held}");
        drop((response, nobodys));
        assert!(after(60, &registry).await.read().is_empty());
    }
}

#[test]
fn priority_without_effect_is_mentioned_once() {
    listen_everywhere();
    let text = Text::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(text.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let registry = TaskRegistry::builder().limit_by_name("waits", 1).build().unwrap();
            registry.spawn(Task::new(async {}).named("waits").priority(Priority::High));
            assert_eq!(text.lines_with("a priority has no effect").len(), 0);
            registry.spawn(Task::new(async {}).named("first").priority(Priority::Low));
            registry.set().add(Task::new(async {}).named("second").priority(Priority::High));
            registry.wait_idle().await;
        });
    });
    let [line] = <[String; 1]>::try_from(text.lines_with("a priority has no effect")).unwrap();
    assert!(line.contains("DEBUG") && line.contains(r#"name="first""#) && line.contains("max_concurrent"), "{line}");
}

#[test]
fn admit_gives_reason_of_refusal() {
    let text = logged(async {
        let rule = |_: &_| Err(io::Error::other(io::Error::other("no tasks at night")).into());
        let registry = TaskRegistry::builder().admit(rule).build().unwrap();
        registry.spawn(Task::new(async {}).named("report"));
        assert!(registry.try_spawn(async {}).is_err(), "handed back, and nothing to say");
    });
    let [line] = <[String; 1]>::try_from(text.lines_with("task discarded")).unwrap();
    assert!(line.contains("WARN") && line.contains(r#"name="report""#), "{line}");
    assert!(
        line.contains("no tasks at night") && line.contains("the registry's admission filter refused it"),
        "{line}"
    );
}

/// An error may quote a client: it must neither begin a line of its own nor command the terminal.
#[test]
fn control_characters_in_errors_are_escaped() {
    const FROM_CLIENT: &str = "x\n2026-11-25T00:00:00Z  INFO auth: admin logged in\r\u{1b}[2J\u{202e}";
    let refuse = |_: &postlude::TaskInfo| Err(FROM_CLIENT.into());
    let text = logged(async move {
        let registry = TaskRegistry::builder().on_failure(|_| panic!("{FROM_CLIENT}")).build().unwrap();
        let chained = io::Error::other(io::Error::other(FROM_CLIENT));
        registry.spawn(Task::new(async { Err::<(), _>(chained) }).named("failing")).await;
        registry.spawn(Task::new(async { panic!("{FROM_CLIENT}") }).named("panicking")).await;
        let once_more = || RetryPolicy::constant(Duration::ZERO).attempts(2);
        registry.spawn(Task::retrying(once_more(), || async { Err::<(), _>(FROM_CLIENT) }).named("retrying")).await;
        registry.spawn(Task::retrying(once_more(), || async { panic!("{FROM_CLIENT}") }).named("retrying")).await;
        let choosy = TaskRegistry::builder().admit(refuse).build().unwrap();
        choosy.spawn(Task::new(async {}).named("refused")).await;
    });
    let read = text.read();
    assert!(!read.contains(['\r', '\u{1b}', '\u{202e}']), "{read}");
    for line in read.lines() {
        assert!(line.contains("postlude: "), "a line of its own: {line}");
    }
    let escaped = r"x\n2026-11-25T00:00:00Z  INFO auth: admin logged in\r\u{1b}[2J\u{202e}";
    // Four ends, an attempt, a refusal, and the panic of the hook after each end of the first registry.
    assert_eq!(text.lines_with(escaped).len(), 4 + 1 + 1 + 4, "{read}");
}

#[test]
fn shutdown_says_why_it_ends_paused_tasks() {
    let text = logged(async {
        let registry = TaskRegistry::new();
        registry.pause("report");
        registry.pause("mail");
        registry.spawn(Task::new(async {}).named("mail"));
        registry.spawn(Task::new(async {}).delay(Duration::from_secs(3600)));
        let report = registry.shutdown(Duration::from_secs(60)).await;
        assert_eq!(report.discarded.len(), 2);
        assert!(TaskRegistry::new().shutdown(Duration::ZERO).await.is_clean());
    });
    let lines = text.lines_with("the shutdown ends the tasks that are left");
    assert_eq!(lines.len(), 1, "{}", text.read());
    assert!(lines[0].contains("tasks=2") && lines[0].contains("paused=\"mail, report\""), "{}", lines[0]);
}

#[test]
fn end_of_runtime_is_said_once_with_the_number_of_tasks() {
    let text = logged(async {
        let runtime = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let registry = TaskRegistry::builder().max_concurrent(1).handle(runtime.handle().clone()).build().unwrap();
            registry.spawn(std::future::pending::<()>());
            registry.spawn(Task::new(async {}).named("waiting"));
            runtime.block_on(tokio::task::yield_now());
            (runtime, registry)
        });
        let (runtime, registry) = runtime.join().unwrap();
        runtime.shutdown_background();
        assert_eq!((registry.metrics().aborted, registry.metrics().discarded), (1, 1));
    });
    let lines = text.lines_with("the tokio runtime of a registry has ended before its tasks");
    assert_eq!(lines.len(), 1, "{}", text.read());
    assert!(lines[0].contains("ERROR") && lines[0].contains("live=2"), "{}", lines[0]);
    assert_eq!(text.lines_with("reason=the registry's runtime has ended").len(), 1, "{}", text.read());
}

#[test]
fn attempt_that_will_be_followed_says_how_it_ended() {
    let text = logged(async {
        let registry = TaskRegistry::new();
        let policy = || RetryPolicy::constant(Duration::ZERO).attempts(2);
        let hanging = Task::retrying(policy(), std::future::pending::<()>).timeout(Duration::from_millis(1));
        registry.spawn(hanging.named("hanging")).await;
        registry.spawn(Task::retrying(policy(), broken).named("failing")).await;
    });
    for (name, ending) in [("hanging", "error=timed out after 1ms limit=1ms"), ("failing", "error=connection refused")]
    {
        let lines = text.lines_with("attempt failed, another will follow");
        let line = lines.iter().find(|line| line.contains(&format!("name=\"{name}\""))).unwrap();
        assert!(line.contains(ending), "{line}");
    }
}

#[test]
fn shutdown_tells_once_of_dead_letters_that_end_with_it() {
    let text = logged(async {
        let registry = TaskRegistry::new();
        for _ in 0..3 {
            registry.spawn(Task::retrying(RetryPolicy::constant(Duration::ZERO).attempts(2), broken)).await;
        }
        registry.shutdown(Duration::ZERO).await;
        registry.shutdown(Duration::ZERO).await;
    });
    let lines = text.lines_with("dead letters end with the registry");
    assert!(matches!(&lines[..], [line] if line.contains("WARN") && line.contains("letters=3")), "{}", text.read());
}

#[cfg(feature = "cron")]
#[test]
fn schedule_tells_its_next_tick_once() {
    let text = logged(async {
        let registry = TaskRegistry::new();
        let schedule = postlude::Schedule::parse("CRON_TZ=Europe/Berlin 0 3 * * *").unwrap();
        let repeated = registry.spawn_cron(schedule, || async {});
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        repeated.stop();
    });
    let lines = text.lines_with("a task is repeated by a schedule");
    let [line] = &lines[..] else { panic!("{}", text.read()) };
    assert!(line.contains("INFO") && line.contains("schedule=CRON_TZ=Europe/Berlin 0 3 * * *"), "{line}");
    assert!(line.contains("next=2") && line.contains("T03:00:00+0") && line.contains("[Europe/Berlin]"), "{line}");
}

#[test]
fn panic_of_a_hook_names_its_task() {
    let ids = Mutex::new(Vec::new());
    let text = logged(async {
        let registry = TaskRegistry::builder()
            .on_failure(|_| panic!("a bug of the hook"))
            .admit(|task| if task.name.as_str() == "report" { panic!("a bug of the filter") } else { Ok(()) })
            .build()
            .unwrap();
        let failing = registry.spawn(Task::new(broken()).named("mail"));
        let accepted = registry.spawn(Task::new(async {}).named("report"));
        ids.lock().unwrap().extend([failing.id(), accepted.id()]);
        registry.wait_idle().await;
    });
    let ids = ids.into_inner().unwrap();
    let expected = [
        ("an observer or failure hook panicked", "mail", "a bug of the hook"),
        ("the filter of `admit` panicked", "report", "a bug of the filter"),
    ];
    for ((message, name, error), id) in expected.into_iter().zip(ids) {
        let lines = text.lines_with(message);
        let [line] = &lines[..] else { panic!("{message}: {}", text.read()) };
        for wanted in [format!("id={id}"), format!("name=\"{name}\""), format!("error={error}"), "ERROR".to_owned()] {
            assert!(line.contains(&wanted), "{wanted}: {line}");
        }
    }
}

#[cfg(feature = "axum")]
mod requests {
    use axum::{Router, body::Body, http::Request, response::Response, routing::get};
    use postlude::{TaskLayer, TaskSet};
    use tower::ServiceExt;

    use super::*;
    use crate::capture::logged_at;

    async fn fetch(app: &Router) -> (u16, String) {
        let request = Request::get("/").body(Body::empty()).unwrap();
        let response: Response = app.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn conditions_that_refuse_an_ending_are_at_debug() {
        let text = logged_at(tracing::Level::DEBUG, async {
            let registry = TaskRegistry::new();
            let handler = async |tasks: TaskSet| {
                tasks.add(Task::new(async {}).named("only_after_errors").when(|ending| !ending.is_success()));
                tasks.add(Task::new(async {}).named("any"));
            };
            let app = Router::new().route("/", get(handler));
            fetch(&app.clone().layer(TaskLayer::new(registry.clone()))).await;
            registry.wait_idle().await;
            fetch(&app.layer(TaskLayer::new(registry.clone()).drain_when(|ending| !ending.is_success()))).await;
            registry.wait_idle().await;
        });
        let line = &text.lines_with("its condition (`when`) refuses this ending")[0];
        for part in ["DEBUG", "name=\"only_after_errors\"", "ending=sent (200)"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let line = &text.lines_with("the condition of its layer (`drain_when`) refuses this ending")[0];
        for part in ["DEBUG", "set=", "ending=sent (200)"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }

    #[test]
    fn two_registries_around_one_handler_are_warned_of_once() {
        let text = logged(async {
            let (inner, outer) = (TaskRegistry::new(), TaskRegistry::new());
            let handler = async |tasks: TaskSet| {
                tasks.add(async {});
            };
            let app = Router::new().route("/", get(handler)).layer(TaskLayer::new(inner.clone()));
            let app = app.layer(TaskLayer::new(outer.clone()));
            for _ in 0..3 {
                fetch(&app).await;
            }
            outer.wait_idle().await;
            assert_eq!((inner.metrics().added, outer.metrics().added), (0, 3));
            let twice = Router::new().route("/", get(async || ())).layer(TaskLayer::new(inner.clone()));
            fetch(&twice.layer(TaskLayer::new(inner.clone()))).await;
        });
        assert_eq!(text.lines_with("two `TaskLayer`s of different registries").len(), 1, "{}", text.read());
    }

    #[test]
    fn missing_layer_names_both_causes_and_tells_the_client_nothing() {
        let text = logged(async {
            let layer = TaskLayer::new(TaskRegistry::new());
            // The layer is not around a route that is added after it.
            let app = Router::new().layer(layer).route("/", get(async |_: TaskSet| ()));
            assert_eq!(fetch(&app).await, (500, String::new()));
        });
        let line = &text.lines_with("a handler takes a `TaskSet`, but its request has none")[0];
        for part in ["ERROR", "to its router, after the route", "without the extensions"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
