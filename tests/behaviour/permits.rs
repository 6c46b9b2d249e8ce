//! The log warns of tasks that hold all permits while others wait for one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postlude::TaskRegistry;
use tokio::{runtime::Builder, time::sleep};
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
