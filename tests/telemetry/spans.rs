//! The spans of tasks, and what they share with the span of the request.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use postlude::{RetryPolicy, SpanRelation, Task, TaskRegistry};
use tracing::{
    Instrument, Level, info, info_span,
    instrument::{Instrumented, WithSubscriber},
};
use tracing_subscriber::{layer::SubscriberExt, registry::LookupSpan};

use crate::capture::{broken, listen_everywhere, logged};

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

#[test]
fn of_task_has_id_name_and_set() {
    let text = logged(async {
        let registry = TaskRegistry::builder().span_level(Level::INFO).build().unwrap();
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

#[test]
fn of_task_is_made_only_at_its_level() {
    for (level, is_made) in
        [(None, false), (Some(Level::DEBUG), false), (Some(Level::INFO), true), (Some(Level::ERROR), true)]
    {
        let text = logged(async {
            let builder = TaskRegistry::builder();
            let builder = if let Some(level) = level { builder.span_level(level) } else { builder };
            let registry = builder.build().unwrap();
            registry.spawn(Task::new(async { info!("hello") }).named("mail")).await;
            registry.spawn(Task::new(broken()).named("mail")).await;
        });
        assert_eq!(text.lines_with("hello")[0].contains("task{id="), is_made, "{level:?}");
        let end = &text.lines_with("task failed")[0];
        assert!(end.contains(" id=") && end.contains(" name=\"mail\" "), "{level:?}: {end}");
    }
}

#[test]
fn child_of_has_fields_of_request() {
    let text = logged(async {
        let registry = TaskRegistry::builder().spans(SpanRelation::ChildOf).span_level(Level::INFO).build().unwrap();
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
fn made_in_task_adds_fields() {
    fn with_request_id(request_id: u64, work: impl Future) -> Instrumented<impl Future> {
        work.instrument(info_span!("for", request_id))
    }
    let text = logged(async {
        let set = TaskRegistry::builder().span_level(Level::INFO).build().unwrap().set();
        info_span!("request").in_scope(|| {
            set.add(async { drop(with_request_id(42, broken()).await) });
        });
        set.drain().await;
    });
    let line = &text.lines_with("connecting")[0];
    assert!(line.contains("}:for{request_id=42}: ") && line.contains("task{id="), "{line}");
}

#[tokio::test]
async fn follows_from_does_not_keep_request_open() {
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

/// A span that a middleware opens, inside the layer or outside.
#[cfg(feature = "axum")]
#[tokio::test]
async fn of_task_follows_from_span_of_middleware() {
    use axum::{
        Router,
        body::Body,
        extract::Request,
        middleware::{Next, from_fn},
        routing::get,
    };
    use postlude::{TaskLayer, TaskSet};
    use tower::ServiceExt;

    listen_everywhere();
    for is_inside in [true, false] {
        let links = Links::default();
        let subscriber = tracing_subscriber::registry().with(links.clone());
        async {
            let registry = TaskRegistry::new();
            let layer = TaskLayer::new(registry.clone());
            let traced = from_fn(|request: Request, next: Next| next.run(request).instrument(info_span!("request")));
            let leave = async |tasks: TaskSet| {
                tasks.add(async {});
            };
            let app = Router::new().route("/", get(leave));
            let app = if is_inside { app.layer(traced).layer(layer) } else { app.layer(layer).layer(traced) };
            drop(app.oneshot(Request::new(Body::empty())).await.unwrap());
            registry.wait_idle().await;
        }
        .with_subscriber(subscriber)
        .await;
        let links = links.0.lock().unwrap().clone();
        assert!(links.contains(&"task follows request".to_owned()), "inside: {is_inside}: {links:?}");
    }
}

#[tokio::test]
async fn of_dead_letter_is_closed() {
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
fn child_of_keeps_request_open() {
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
