//! `TaskRegistryBuilder::wrap`: code around each step of a task's work.

use std::{
    future::{pending, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::Poll,
};

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use parking_lot::Mutex;
use postlude::{BoxError, Outcome, RetryPolicy, StepDone, Task, TaskInfo, TaskRegistry, TaskRegistryBuilder, TaskStep};
use sentry_core::{Hub, test::with_captured_events};
use tokio::sync::oneshot;
use tracing::Subscriber;
use tracing_subscriber::{Layer, layer::SubscriberExt as _, registry::LookupSpan};

use crate::support::{Bomb, Journal, SECOND, until};

tokio::task_local! {
    static TENANT: &'static str;
}

fn tenant() -> &'static str {
    TENANT.try_with(|tenant| *tenant).unwrap_or("nobody")
}

/// Tasks see the tenant of the code that adds them.
fn of_tenant() -> TaskRegistryBuilder {
    TaskRegistry::builder().wrap(|_: &TaskInfo| {
        let tenant = tenant();
        move |step| TENANT.sync_scope(tenant, || step.run())
    })
}

/// Writes down the tenant in its drop.
struct DropOf(&'static str, Journal);

impl Drop for DropOf {
    fn drop(&mut self) {
        self.1.note(format!("{} of {}", self.0, tenant()));
    }
}

#[tokio::test]
async fn a_task_local_is_that_of_the_caller_in_futures_closures_and_factories() {
    let (registry, journal) = (of_tenant().build().unwrap(), Journal::default());
    let note = |what: &'static str| {
        let journal = journal.clone();
        move || journal.note(format!("{what} of {}", tenant()))
    };
    let set = registry.set();
    let add = async {
        let (first, second) = (note("first poll"), note("second poll"));
        set.add(async move {
            first();
            tokio::task::yield_now().await;
            second();
        });
        set.add(Task::blocking(note("blocking")));
        set.add(Task::cpu(note("cpu")));
        let (make, poll) = (note("factory"), note("attempt"));
        let mut attempts = 0;
        let factory = move || {
            make();
            attempts += 1;
            let (poll, is_last) = (poll.clone(), attempts == 2);
            async move {
                poll();
                if is_last { Ok(()) } else { Err::<(), BoxError>("again".into()) }
            }
        };
        let retry = RetryPolicy::default().max_delay(SECOND / 1000);
        set.add(Task::retrying(retry, factory));
        set.add(Task::new(async move { Ok::<(), BoxError>(()) }).delay(SECOND / 1000).timeout(SECOND));
    };
    TENANT.scope("north", add).await;
    let report = set.drain().await;
    assert_eq!(report.completed, 5);
    let expected = ["first poll", "second poll", "blocking", "cpu", "factory", "attempt", "factory", "attempt"];
    assert_eq!(journal.read(), expected.map(|what| format!("{what} of north")));
}

#[tokio::test]
async fn a_future_that_has_started_is_dropped_inside_however_it_ends() {
    let registry = of_tenant().limit_by_name("limited", 1).build().unwrap();
    let journal = Journal::default();
    let endless = |what| {
        let (start, started) = oneshot::channel();
        let drop_of = DropOf(what, journal.clone());
        let future = async move {
            let _kept = drop_of;
            start.send(()).unwrap();
            pending::<()>().await;
        };
        (Task::new(future), started)
    };
    let test = async {
        for name in ["plain", "limited"] {
            let (task, has_started) = endless("aborted");
            let handle = registry.spawn(task.named(name));
            has_started.await.unwrap();
            handle.abort();
            assert!(matches!(handle.await, Outcome::Aborted));
            let (task, has_started) = endless("timed out");
            let handle = registry.spawn(task.named(name).timeout(SECOND / 100));
            has_started.await.unwrap();
            assert!(matches!(handle.await, Outcome::TimedOut(_)));
            let (task, has_started) = endless("aborted in a set");
            let set = registry.set();
            let id = set.add(task.named(name));
            let drained = set.drain();
            has_started.await.unwrap();
            registry.abort(id);
            assert_eq!(drained.await.aborted, 1);
        }
        let drop_of = DropOf("panicked", journal.clone());
        let panics = async move {
            let _kept = drop_of;
            panic!("as expected");
        };
        assert!(matches!(registry.spawn(Task::new(panics)).await, Outcome::Panicked(_)));
    };
    TENANT.scope("north", test).await;
    registry.wait_idle().await;
    until(|| journal.read().len() == 7).await;
    assert!(journal.read().iter().all(|line| line.ends_with(" of north")), "{:?}", journal.read());
}

#[tokio::test]
async fn a_replay_is_wrapped_anew() {
    let (registry, journal) = (of_tenant().build().unwrap(), Journal::default());
    let noted = journal.clone();
    let retry = RetryPolicy::default().attempts(1);
    let task = Task::retrying(retry, move || {
        noted.note(tenant());
        async { Err::<(), BoxError>("down".into()) }
    });
    let dead = TENANT.scope("north", async { registry.spawn(task).await }).await;
    assert!(dead.is_failure());
    let letter = registry.dead_letters().list()[0].id;
    let replayed = TENANT.scope("south", async { registry.dead_letters().replay(letter).unwrap().await }).await;
    assert!(replayed.is_failure());
    assert_eq!(journal.read(), ["north", "south"]);
}

#[test]
fn what_sentry_captures_has_the_scope_of_the_request_and_nobody_elses() {
    let events = with_captured_events(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(capture());
    });
    let mut seen = Vec::new();
    for event in &events {
        let breadcrumbs: Vec<_> = event.breadcrumbs.iter().filter_map(|crumb| crumb.message.as_deref()).collect();
        seen.push(format!("{}: {}", event.message.as_deref().unwrap(), breadcrumbs.join(", ")));
    }
    seen.sort();
    assert_eq!(seen, ["closure of /a: /a, in task", "future of /a: /a", "future of /b: /b"]);
}

/// Two requests with a hub each, whose tasks run interleaved.
async fn capture() {
    let registry = TaskRegistry::builder()
        .wrap(|_: &TaskInfo| {
            let hub = Arc::new(Hub::new_from_top(Hub::current()));
            move |step| Hub::run(Arc::clone(&hub), || step.run())
        })
        .build()
        .unwrap();
    let crumb = |message: &str| {
        sentry_core::add_breadcrumb(sentry_core::Breadcrumb { message: Some(message.into()), ..Default::default() });
    };
    for path in ["/a", "/b"] {
        let hub = Arc::new(Hub::new_from_top(Hub::current()));
        Hub::run(hub, || {
            crumb(path);
            registry.spawn(async move {
                tokio::task::yield_now().await;
                sentry_core::capture_message(&format!("future of {path}"), sentry_core::Level::Error);
            });
            if path == "/a" {
                registry.spawn_blocking(move || {
                    crumb("in task");
                    sentry_core::capture_message(&format!("closure of {path}"), sentry_core::Level::Error);
                });
            }
        });
    }
    registry.wait_idle().await;
}

#[tokio::test]
async fn an_opentelemetry_context_is_that_of_the_caller() {
    let registry = TaskRegistry::builder()
        .wrap(|_: &TaskInfo| {
            let context = Context::current();
            move |step: TaskStep<'_>| {
                let _attached = context.clone().attach();
                step.run()
            }
        })
        .build()
        .unwrap();
    let trace = TraceId::from_bytes([7; 16]);
    let span = SpanContext::new(trace, SpanId::from_bytes([9; 8]), TraceFlags::SAMPLED, true, TraceState::default());
    let current = || Context::current().span().span_context().trace_id();
    let handle = {
        let _request = Context::new().with_remote_span_context(span).attach();
        registry.spawn_with_output(async move {
            let first = current();
            tokio::task::yield_now().await;
            Ok::<_, BoxError>((first, current()))
        })
    };
    assert_eq!(current(), TraceId::INVALID);
    assert_eq!(handle.await.unwrap(), (trace, trace));
    assert_eq!(current(), TraceId::INVALID);
}

/// Keeps the spans in which each event was emitted, from the root.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

impl<S> Layer<S> for Spans
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_event(&self, event: &tracing::Event<'_>, context: tracing_subscriber::layer::Context<'_, S>) {
        let spans = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let names: Vec<_> = spans.map(|span| span.name()).collect();
        self.0.lock().push(format!("{}: {}", event.metadata().target(), names.join(", ")));
    }
}

#[tokio::test]
async fn a_span_of_ones_own_is_current_in_the_task() {
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let registry = TaskRegistry::builder()
        .wrap(|task: &TaskInfo| {
            let span = tracing::info_span!("database", task = %task.id);
            move |step| span.in_scope(|| step.run())
        })
        .build()
        .unwrap();
    let query = || tracing::info!(target: "query", "select 1");
    let task = async move {
        query();
        tokio::task::yield_now().await;
        query();
    };
    let handle = tracing::info_span!("request").in_scope(|| registry.spawn(task));
    assert!(handle.await.is_completed());
    let lines: Vec<_> = spans.0.lock().iter().filter(|line| line.starts_with("query")).cloned().collect();
    assert_eq!(lines, ["query: request, database", "query: request, database"]);
}

fn journalled(journal: &Journal, name: &'static str) -> impl Fn(&TaskInfo) -> Box<Wrap> + Send + Sync + 'static {
    let journal = journal.clone();
    move |task| {
        journal.note(format!("make {name} for {}", task.name));
        let journal = journal.clone();
        Box::new(move |step| {
            journal.note(format!("enter {name}"));
            let done = step.run();
            journal.note(format!("leave {name}"));
            done
        })
    }
}

type Wrap = dyn Fn(TaskStep<'_>) -> StepDone + Send + Sync;

#[tokio::test]
async fn several_wrappers_nest_and_the_first_is_the_outermost() {
    let journal = Journal::default();
    let builder = TaskRegistry::builder().wrap(journalled(&journal, "outer")).wrap(journalled(&journal, "inner"));
    let registry = builder.build().unwrap();
    let noted = journal.clone();
    let task = Task::new(async move { noted.note("task") }).named("mail");
    assert!(registry.spawn(task).await.is_completed());
    let expected = "make outer for mail, make inner for mail, enter outer, enter inner, task, leave inner, leave outer";
    assert_eq!(journal.read().join(", "), expected);
}

#[tokio::test]
async fn the_hook_is_called_on_the_thread_of_the_caller_before_the_add_returns() {
    let (send, made_on) = mpsc::channel();
    let registry = TaskRegistry::builder()
        .wrap(move |task: &TaskInfo| {
            send.send((task.id, std::thread::current().id())).unwrap();
            |step| step.run()
        })
        .build()
        .unwrap();
    let id = registry.set().add(async {});
    assert_eq!(made_on.try_recv().unwrap(), (id, std::thread::current().id()));
    registry.wait_idle().await;
    assert!(made_on.try_recv().is_err());
}

#[tokio::test]
async fn a_panic_of_the_hook_or_of_a_wrapper_is_counted_and_the_task_runs() {
    let journal = Journal::default();
    let registry = TaskRegistry::builder()
        .wrap(|task: &TaskInfo| {
            assert_ne!(task.name, "no wrapper");
            move |step| step.run()
        })
        .wrap(|task: &TaskInfo| {
            let name = task.name;
            move |step| {
                assert_ne!(name, "before");
                let done = step.run();
                assert_ne!(name, "after");
                done
            }
        })
        .wrap(journalled(&journal, "inner"))
        .build()
        .unwrap();
    for name in ["no wrapper", "before", "after"] {
        let polled = Arc::new(AtomicBool::new(false));
        let is_polled = Arc::clone(&polled);
        let task = Task::new(async move { assert!(!is_polled.swap(true, Ordering::SeqCst)) });
        assert!(registry.spawn(task.named(name)).await.is_completed());
        assert!(polled.load(Ordering::SeqCst));
    }
    assert_eq!(registry.metrics().hook_panics, 3);
    assert_eq!(journal.read().iter().filter(|line| *line == "leave inner").count(), 3);
}

/// Returns what another step has returned, and so does not run its own.
#[tokio::test]
async fn a_step_that_a_wrapper_does_not_run_runs_without_it() {
    let stored = Arc::new(Mutex::new(None::<StepDone>));
    let registry = TaskRegistry::builder()
        .wrap(move |_: &TaskInfo| {
            let stored = Arc::clone(&stored);
            move |step: TaskStep<'_>| {
                if let Some(other) = stored.lock().take() {
                    return other;
                }
                *stored.lock() = Some(step.run());
                panic!("keeps what the step has returned");
            }
        })
        .build()
        .unwrap();
    let mut polls = 0;
    let task = poll_fn(move |context| {
        polls += 1;
        context.waker().wake_by_ref();
        if polls == 3 { Poll::Ready(()) } else { Poll::Pending }
    });
    assert!(registry.spawn(task).await.is_completed());
    assert_eq!(registry.metrics().hook_panics, 2);
}

#[tokio::test]
async fn a_hook_that_adds_tasks_is_not_called_for_them() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let inner = registry.clone();
    let added = journal.clone();
    let outer = TaskRegistry::builder();
    let own = Arc::new(std::sync::OnceLock::<TaskRegistry>::new());
    let itself = Arc::clone(&own);
    let outer = outer
        .wrap(move |task: &TaskInfo| {
            added.note(task.name.to_string());
            inner.spawn(async {});
            if let Some(registry) = itself.get() {
                registry.spawn(Task::new(async {}).named("of the hook"));
            }
            |step| step.run()
        })
        .build()
        .unwrap();
    own.set(outer.clone()).unwrap();
    assert!(outer.spawn(Task::new(async {}).named("first")).await.is_completed());
    outer.wait_idle().await;
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["first"]);
    assert_eq!((outer.metrics().completed, registry.metrics().completed), (2, 1));
}

#[tokio::test]
async fn a_task_that_is_handed_back_keeps_no_wrapper() {
    let (plain, kept) = (TaskRegistry::new(), Arc::new(()));
    let held = Arc::clone(&kept);
    let full = TaskRegistry::builder()
        .capacity(1)
        .wrap(move |_: &TaskInfo| {
            let _held = Arc::clone(&held);
            move |step| {
                let _kept = &_held;
                step.run()
            }
        })
        .build()
        .unwrap();
    let set = full.set();
    set.add(async {});
    assert_eq!(Arc::strong_count(&kept), 3);
    let rejected = set.try_add(async {}).unwrap_err();
    assert_eq!(Arc::strong_count(&kept), 3);
    assert!(plain.spawn(rejected.into_task()).await.is_completed());
    assert_eq!(set.drain().await.completed, 1);
    assert_eq!(Arc::strong_count(&kept), 2);
}

/// Panics when the last reference to it is dropped, at the end of the last attempt.
#[tokio::test]
async fn a_wrapper_that_panics_when_it_is_dropped_changes_no_outcome() {
    let registry = TaskRegistry::builder()
        .wrap(|_: &TaskInfo| {
            let bomb = Bomb;
            move |step| {
                let _kept = &bomb;
                step.run()
            }
        })
        .build()
        .unwrap();
    assert!(registry.spawn(async {}).await.is_completed());
    assert!(registry.spawn_blocking(|| ()).await.is_completed());
    let fails = || async { Err::<(), BoxError>("down".into()) };
    let outcome = registry.spawn(Task::retrying(RetryPolicy::default().attempts(1), fails)).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert!(registry.dead_letters().list()[0].is_replayable);
}
