//! What the log says, through a real subscriber. In a process of its own: where threads without a subscriber
//! are at work too, `tracing` may decide for all of them that nobody listens.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use postlude::{Priority, RetryPolicy, SpanRelation, Task, TaskRegistry};
use tracing::{
    Instrument, info, info_span,
    instrument::{Instrumented, WithSubscriber},
};
use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt, registry::LookupSpan};

/// What was logged, as text.
#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Text {
    fn read(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn lines_with(&self, needle: &str) -> Vec<String> {
        self.read().lines().filter(|line| line.contains(needle)).map(str::to_owned).collect()
    }
}

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Text {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Sees to it that every thread has somebody who listens.
fn listen_everywhere() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap());
}

/// Runs a scenario under a subscriber of its own and returns what that has seen.
fn logged<F: Future<Output = ()>>(scenario: F) -> Text {
    listen_everywhere();
    let text = Text::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(text.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(scenario);
    });
    text
}

#[test]
fn every_outcome_but_completed_is_logged_with_all_that_is_known() {
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
        registry.shutdown(Duration::ZERO).await;
        registry.spawn(Task::new(async {}).named("late"));
    });
    let expected = [
        ("failing", "ERROR", "task failed", "error=connection refused"),
        ("panicking", "ERROR", "task panicked", "error=a bug"),
        ("hanging", "ERROR", "task timed out", "limit=1ms"),
        ("aborted", "WARN", "task aborted", "attempt=0"),
        ("cleared", "WARN", "task discarded", "reason=its set was cleared"),
        ("late", "ERROR", "task discarded", "reason=the registry is shut down"),
    ];
    for (name, level, message, detail) in expected {
        let lines = text.lines_with(&format!("name=\"{name}\""));
        assert_eq!(lines.len(), 1, "{name}: {}", text.read());
        let line = &lines[0];
        for wanted in [level, message, detail, "postlude", "id=", "location=", "queued_for=", "ran_for=", "logs.rs"] {
            assert!(line.contains(wanted), "{wanted}: {line}");
        }
    }
    assert!(text.lines_with("fine").is_empty(), "{}", text.read());
}

#[test]
fn what_a_task_logs_stands_in_its_span_with_id_name_and_set() {
    let text = logged(async {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let id = set.add(Task::new(async { info!("hello from inside") }).named("mail"));
        set.drain().await;
        registry.spawn(Task::new(async { info!("hello from alone") }).named("mail")).await;
        registry.spawn(Task::blocking(|| info!("hello from a thread")).named("mail")).await;
        info!("the id was {id}");
    });
    let line = &text.lines_with("hello from inside")[0];
    let id = text.lines_with("the id was")[0].rsplit(' ').next().unwrap().to_owned();
    let set = id.split('.').next().unwrap();
    assert!(line.contains(&format!("task{{id={id} name=\"mail\" set={set}}}")), "{line}");
    let line = &text.lines_with("hello from alone")[0];
    assert!(line.contains("name=\"mail\"}"), "no set: {line}");
}

async fn broken() -> Result<(), io::Error> {
    info!("connecting");
    Err(io::Error::other("connection refused"))
}

#[test]
fn the_line_of_an_end_stands_in_the_span_of_its_task_and_says_what_an_operator_asks() {
    let text = logged(async {
        TaskRegistry::new().spawn(Task::new(broken()).named("mail")).await;
    });
    let line = &text.lines_with("task failed")[0];
    let (_time, line) = line.split_once("ERROR ").unwrap();
    let mut rest = line;
    for part in [
        "task{id=",
        " name=\"mail\"}: postlude: task failed id=",
        " name=\"mail\" location=tests/logs.rs:",
        " attempt=1 queued_for=",
        " ran_for=",
        " error=connection refused",
    ] {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part}: {line}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn a_child_of_the_requests_span_has_its_fields_in_all_lines_also_in_that_of_its_end() {
    let text = logged(async {
        let registry = TaskRegistry::builder().spans(SpanRelation::ChildOf).build().unwrap();
        let set = registry.set();
        info_span!("request", request_id = 42).in_scope(|| {
            set.add(Task::new(broken()).named("mail"));
            set.add(Task::new(broken()).named("mail").timeout(Duration::from_secs(60)));
            set.add(Task::blocking(|| panic!("a bug")).named("mail"));
        });
        set.drain().await;
    });
    for (message, count) in [("connecting", 2), ("task failed", 2), ("task panicked", 1)] {
        let lines = text.lines_with(message);
        assert_eq!(lines.len(), count, "{}", text.read());
        assert!(lines.iter().all(|line| line.contains("request{request_id=42}:task{id=")), "{lines:?}");
    }
}

#[test]
fn a_span_made_inside_the_task_adds_what_its_lines_are_to_have() {
    fn with_request_id(request_id: u64, work: impl Future) -> Instrumented<impl Future> {
        work.instrument(info_span!("for", request_id))
    }
    let text = logged(async {
        let set = TaskRegistry::new().set();
        info_span!("request").in_scope(|| {
            set.add(async { drop(with_request_id(42, broken()).await) });
        });
        set.drain().await;
    });
    let line = &text.lines_with("connecting")[0];
    assert!(line.contains("}:for{request_id=42}: ") && line.contains("task{id="), "{line}");
}

/// Notes which span follows from which, by name, and which are closed.
#[derive(Clone, Default)]
struct Links(Arc<Mutex<Vec<String>>>);

impl<S> tracing_subscriber::Layer<S> for Links
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_follows_from(
        &self,
        span: &tracing::Id,
        follows: &tracing::Id,
        context: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let name = |id| context.span(id).unwrap().name();
        self.0.lock().unwrap().push(format!("{} follows {}", name(span), name(follows)));
    }

    fn on_close(&self, id: tracing::Id, context: tracing_subscriber::layer::Context<'_, S>) {
        self.0.lock().unwrap().push(format!("{} closed", context.span(&id).unwrap().name()));
    }
}

#[tokio::test]
async fn the_span_of_a_task_follows_from_the_requests_and_does_not_keep_it_open() {
    listen_everywhere();
    let links = Links::default();
    let subscriber = tracing_subscriber::registry().with(links.clone());
    async {
        let registry = TaskRegistry::new();
        let set = registry.set();
        info_span!("request").in_scope(|| set.add(async {}));
        links.0.lock().unwrap().push("the task may run".to_owned());
        set.drain().await;
    }
    .with_subscriber(subscriber)
    .await;
    let links = links.0.lock().unwrap().clone();
    assert_eq!(links, ["task follows request", "request closed", "the task may run", "task closed"]);
}

#[tokio::test]
async fn a_dead_letter_keeps_no_span_open() {
    listen_everywhere();
    let links = Links::default();
    let subscriber = tracing_subscriber::registry().with(links.clone());
    async {
        let registry = TaskRegistry::new();
        let once = RetryPolicy::default().attempts(1);
        registry.spawn(Task::retrying(once, || async { Err::<(), _>("failed") })).await;
        registry.wait_idle().await;
        assert!(registry.dead_letters().list()[0].is_replayable);
        assert_eq!(*links.0.lock().unwrap(), ["task closed"]);
    }
    .with_subscriber(subscriber)
    .await;
}

#[test]
fn a_child_keeps_the_requests_span_open_until_it_has_ended() {
    listen_everywhere();
    let links = Links::default();
    let subscriber = tracing_subscriber::registry().with(links.clone());
    // For the whole thread: a span that is closed looks for its parent in the subscriber of the thread.
    tracing::subscriber::with_default(subscriber, || {
        let scenario = async {
            let registry = TaskRegistry::builder().spans(SpanRelation::ChildOf).build().unwrap();
            let set = registry.set();
            info_span!("request").in_scope(|| set.add(async {}));
            links.0.lock().unwrap().push("the task may run".to_owned());
            set.drain().await;
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(scenario);
    });
    let links = links.0.lock().unwrap().clone();
    assert_eq!(links, ["the task may run", "task closed", "request closed"]);
}

#[test]
fn ten_thousand_live_tasks_are_worth_a_warning_and_so_is_each_doubling() {
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
async fn a_shutdown_names_its_stragglers_while_it_waits() {
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
    assert_eq!(text.lines_with("waiting for task ").len(), 2, "{}", text.read());
    assert!(text.lines_with("waiting for task ")[0].contains("`straggler`"));
}

#[test]
fn a_priority_that_has_no_effect_is_mentioned_once() {
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
fn a_refused_task_is_logged_with_what_the_rule_said() {
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
