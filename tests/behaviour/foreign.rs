//! Foreign code that panics, or calls back, wherever it is called: subscribers, wakers, drops.

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures::Stream;
use postlude::{BatchPolicy, RetryPolicy, Task, TaskRegistry, TaskSet};
use tokio::{runtime::Builder, sync::Notify, task::yield_now};
use tracing::{
    Event, Metadata, Subscriber,
    span::{Attributes, Id, Record},
    subscriber::{DefaultGuard, Interest, set_default},
};

use crate::support::{Bomb, assert_conserved, until};

/// Calls `act` with the name of each of a subscriber's methods that is called.
struct Acting<F>(F, AtomicUsize);

impl<F: Fn(&'static str) + Send + Sync + 'static> Acting<F> {
    fn listen(act: F) -> DefaultGuard {
        set_default(Self(act, AtomicUsize::new(1)))
    }
}

impl<F: Fn(&'static str) + Send + Sync + 'static> Subscriber for Acting<F> {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.target() == "postlude" {
            (self.0)("enabled");
        }
        metadata.target() == "postlude"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        (self.0)("new_span");
        Id::from_u64(self.1.fetch_add(1, Ordering::Relaxed) as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {
        (self.0)("record");
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        (self.0)("event");
    }

    fn enter(&self, _: &Id) {
        (self.0)("enter");
    }

    fn exit(&self, _: &Id) {
        (self.0)("exit");
    }

    fn clone_span(&self, id: &Id) -> Id {
        (self.0)("clone_span");
        id.clone()
    }

    fn try_close(&self, _: Id) -> bool {
        (self.0)("try_close");
        true
    }
}

mod subscriber {
    use super::*;

    /// A subscriber that spawns a task for each error, at a registry that is full or closed: each refused task is an error.
    #[tokio::test]
    async fn that_spawns_is_not_called_for_that_again() {
        let registry = TaskRegistry::builder().capacity(1).build().unwrap();
        registry.spawn(pending::<()>());
        let inside = registry.clone();
        let spawned = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&spawned);
        let before = registry.metrics().log_suppressed;
        {
            let _listening = Acting::listen(move |method| {
                if matches!(method, "event" | "new_span") {
                    count.fetch_add(1, Ordering::SeqCst);
                    inside.spawn(async {});
                }
            });
            registry.spawn(async {});
            registry.set().add(async {});
        }
        let metrics = registry.metrics();
        let spawned = spawned.load(Ordering::SeqCst) as u64;
        assert!(spawned >= 4, "a span and a line for each of the two: {spawned}");
        assert_eq!((metrics.discarded, metrics.added), (2 + spawned, 3 + spawned));
        assert!(metrics.log_suppressed >= before + spawned, "their lines are counted");
        assert_conserved(&registry, 3 + spawned);
    }

    /// A subscriber that panics in one of its methods, each time it is called. Each task has the outcome of its own work.
    #[tokio::test]
    async fn that_panics_stops_neither_the_set_nor_idleness() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        for method in ["enabled", "new_span", "record", "event", "enter", "exit", "clone_span", "try_close"] {
            let registry = TaskRegistry::new();
            let _listening = Acting::listen(move |called| assert_ne!(called, method, "a bug in a subscriber"));
            let set = registry.set();
            set.add(Task::new(async {}).named("plain"));
            set.add(Task::new(async { Err::<(), _>("no") }).named("fails"));
            set.add(Task::new(async {}).named("limited").timeout(Duration::from_secs(60)));
            set.add(Task::retrying(RetryPolicy::constant(Duration::ZERO).attempts(2), || async { Err::<(), _>("no") }));
            set.add(Task::blocking(|| {}).named("closure"));
            // The subscriber is called when the span of a task that has panicked is left.
            set.add(Task::new(async { panic!("a bug in a task") }).named("panics"));
            set.add(Task::new(async {}).named("last"));
            let report = set.drain().await;
            let counts = [report.completed, report.failed, report.panicked, report.total()];
            assert_eq!(counts, [4, 2, 1, 7], "{method}: {report:?}");
            assert!(registry.spawn(async {}).await.is_completed(), "{method}");
            registry.wait_idle().await;
            assert_conserved(&registry, 8);
        }
        std::panic::set_hook(hook);
    }
}

mod waker {
    use super::*;

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a bug in a waker");
        }
    }

    fn poll<F: Future>(future: Pin<&mut F>) -> bool {
        future.poll(&mut Context::from_waker(&Waker::from(Arc::new(Panics)))).is_ready()
    }

    /// Somebody waits by a waker that panics, at each place where one can wait.
    #[tokio::test]
    async fn that_panics_stops_neither_the_set_nor_its_caller() {
        let registry = TaskRegistry::new();
        let (gate, set) = (Arc::new(Notify::new()), registry.set());
        let opened = Arc::clone(&gate);
        set.add(async move { opened.notified().await });
        set.add(async {});
        let keep = set.clone();
        let hanging = registry.spawn(pending::<()>());
        let id = hanging.id();
        let mut events = registry.subscribe();
        let (mut drained, mut hanging) = (Box::pin(set.drain()), Box::pin(hanging));
        let idle = registry.clone();
        let mut idle = Box::pin(async move { idle.wait_idle().await });
        yield_now().await;
        assert!(!poll(drained.as_mut()) && !poll(hanging.as_mut()) && !poll(idle.as_mut()));
        let waker = Waker::from(Arc::new(Panics));
        while Pin::new(&mut events).poll_next(&mut Context::from_waker(&waker)).is_ready() {}
        gate.notify_one();
        // Awaiting one of them would replace its waker.
        until(|| registry.metrics().completed == 2).await;
        assert!(registry.abort(id));
        keep.add(async {});
        until(|| registry.metrics().completed == 3).await;
        registry.wait_idle().await;
        // Those of the drain, of the handle and of idleness. That of the events is caught, too.
        assert_eq!(registry.metrics().hook_panics, 3, "they are counted");
        let report = drained.await;
        assert_eq!((report.completed, report.total()), (3, 3));
        assert_conserved(&registry, 4);
    }
}

mod drops {
    use super::*;

    /// Two values that panic in their drop are never dropped as one, which would end the process.
    #[tokio::test]
    async fn that_panic_are_dropped_one_by_one() {
        struct Item(bool);
        impl Clone for Item {
            fn clone(&self) -> Self {
                Self(false)
            }
        }
        impl Drop for Item {
            fn drop(&mut self) {
                assert!(!self.0, "a bug in a drop");
            }
        }
        let registry = TaskRegistry::builder().history(0).dead_letters(0).build().unwrap();
        // The items of a retrying batch, while it is retried, and when it is aborted before.
        for aborts in [false, true] {
            let policy = BatchPolicy::default().max_items(3);
            let batcher = registry.retrying_batcher("items", policy, RetryPolicy::default(), |_: Vec<Item>| async {});
            for _ in 0..3 {
                batcher.try_push(Item(true)).ok().unwrap();
            }
            if aborts {
                registry.abort_named("items");
            }
            registry.wait_idle().await;
        }
        // Events that nobody reads, and the tasks of a set that is cleared.
        let events = registry.subscribe();
        let set = registry.set();
        for _ in 0..3 {
            registry.spawn(async { Err::<(), _>(Bomb) }).await;
            let bomb = Bomb;
            set.add(async move { drop(bomb) });
        }
        drop(events);
        assert_eq!(set.clear(), 3);
        registry.wait_idle().await;
    }

    /// Each set is held by a task of the one before.
    #[test]
    fn of_a_chain_of_sets_use_no_stack() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
        let mut next: Option<TaskSet> = None;
        for _ in 0..50_000 {
            let set = registry.set();
            let held = next.take();
            set.add(async move { drop(held) });
            next = Some(set);
        }
        drop(next.map(TaskSet::drain));
        drop(runtime);
        let metrics = registry.metrics();
        assert_eq!((metrics.discarded + metrics.aborted, metrics.added), (50_000, 50_000));
    }
}

mod remembered {
    use super::*;

    /// Counts the tasks whose data is alive.
    struct Data(Arc<Mutex<usize>>);

    impl Data {
        fn new(alive: &Arc<Mutex<usize>>) -> Self {
            *alive.lock().unwrap() += 1;
            Self(Arc::clone(alive))
        }
    }

    impl Drop for Data {
        fn drop(&mut self) {
            *self.0.lock().unwrap() -= 1;
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the upload was not stored")]
    struct NotStored(#[source] postlude::BoxError);

    #[tokio::test]
    async fn errors_own_no_refused_task_or_item() {
        let registry = TaskRegistry::builder().capacity(1).build().unwrap();
        let batcher = registry.batcher("items", BatchPolicy::default(), |_: Vec<Data>| async {});
        let alive = Arc::default();
        for round in 0..3 {
            let (inner, batcher, data) = (registry.clone(), batcher.clone(), Data::new(&alive));
            let outcome = registry
                .spawn(async move {
                    match round {
                        0 => drop(inner.try_spawn(async move { drop(data) })?),
                        1 => batcher.try_push(data)?,
                        _ => drop(inner.try_spawn(async move { drop(data) }).map_err(|e| NotStored(e.into()))?),
                    }
                    Ok::<(), postlude::BoxError>(())
                })
                .await;
            let text = outcome.to_string();
            assert!(text.contains("was not accepted") && text.contains("capacity"), "{text}");
        }
        registry.wait_idle().await;
        assert_eq!((*alive.lock().unwrap(), registry.history().len()), (0, 3));
        assert_eq!(registry.dead_letters().len(), 3);
    }

    #[test]
    fn dead_letters_do_not_keep_a_registry_that_was_shut_down() {
        let witness = Arc::new(());
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let registry = TaskRegistry::new();
            let (inner, held) = (registry.clone(), Arc::clone(&witness));
            let task = Task::retrying(RetryPolicy::default().attempts(1), move || {
                let _held = (&inner, &held);
                async { Err::<(), _>("down") }
            });
            registry.spawn(task).await;
            registry.shutdown(Duration::from_secs(1)).await;
            assert_eq!(registry.dead_letters().len(), 1);
        });
        drop(runtime);
        assert_eq!(Arc::strong_count(&witness), 1);
    }
}
