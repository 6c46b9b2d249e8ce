//! The log warns of tasks that hold all permits while others wait for one.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postlude::{Task, TaskRegistry};
use tokio::{runtime::Builder, sync::oneshot, time::sleep};
use tracing::{
    Event, Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

/// Counts the warnings about tasks that wait.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl Warnings {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::WARN && metadata.fields().field("waiting").is_some()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn with_paused_time(test: impl AsyncFnOnce(Warnings)) {
    let warnings = Warnings::default();
    let _default = tracing::subscriber::set_default(warnings.clone());
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(test(warnings));
}

#[test]
fn tasks_that_wait_for_tasks_are_warned_of_after_a_minute_and_then_more_rarely() {
    with_paused_time(async |warnings| {
        let registry = TaskRegistry::builder().max_concurrent(2).build().unwrap();
        for _ in 0..2 {
            let inner = registry.clone();
            registry.spawn(async move {
                sleep(Duration::from_secs(1)).await;
                inner.spawn(async {}).await;
            });
        }
        let mut seen = Vec::new();
        for seconds in [60, 2, 118, 4] {
            sleep(Duration::from_secs(seconds)).await;
            seen.push(warnings.count());
        }
        assert_eq!(seen, [0, 1, 1, 2]);
    });
}

/// The task that watched has got its permit, and waits for the one behind it, which was there before.
#[test]
fn a_task_that_waits_for_one_behind_it_is_warned_of() {
    with_paused_time(async |warnings| {
        let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
        registry.spawn(sleep(Duration::from_secs(1)));
        let (done, is_done) = oneshot::channel();
        registry.spawn(async { _ = is_done.await });
        registry.spawn(async { _ = done.send(()) });
        sleep(Duration::from_secs(62)).await;
        assert_eq!(warnings.count(), 1);
    });
}

#[test]
fn tasks_that_wait_are_warned_of_although_those_in_front_were_aborted() {
    with_paused_time(async |warnings| {
        let registry = TaskRegistry::builder().limit_by_name("report", 1).build().unwrap();
        let report = || Task::new(pending::<()>()).named("report");
        registry.spawn(report());
        let waiting = [report(), report(), report()].map(|task| registry.spawn(task));
        sleep(Duration::from_secs(1)).await;
        // The first of them watched, and the last does now. Both go.
        waiting[0].abort();
        sleep(Duration::from_secs(1)).await;
        waiting[2].abort();
        sleep(Duration::from_secs(61)).await;
        assert_eq!(warnings.count(), 1);
    });
}

#[test]
fn a_line_that_moves_is_not_warned_of() {
    with_paused_time(async |warnings| {
        let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
        for _ in 0..10 {
            registry.spawn(sleep(Duration::from_secs(50)));
        }
        registry.wait_idle().await;
        assert_eq!((registry.metrics().completed, warnings.count()), (10, 0));
    });
}
