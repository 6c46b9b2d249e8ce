//! Observers, subscribers and the history.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use postlude::{
    RejectReason, RetryPolicy, Task, TaskEvent, TaskEvents, TaskInfo, TaskObserver, TaskRegistry, TaskReport,
    TaskState, TaskStatus,
};

use crate::support::{Journal, assert_conserved, until};

/// Notes what it sees.
struct Noting(Journal);

impl TaskObserver for Noting {
    fn added(&self, task: &TaskInfo) {
        assert_eq!(task.state, TaskState::Pending);
        self.0.note(format!("{} added", task.name));
    }

    fn started(&self, task: &TaskInfo) {
        assert_eq!(task.state, TaskState::Running);
        self.0.note(format!("{} started", task.name));
    }

    fn attempt_failed(&self, report: &TaskReport) {
        self.0.note(format!("{} attempt {} {}", report.name, report.attempt, report.outcome));
    }

    fn finished(&self, report: &TaskReport) {
        self.0.note(format!("{} {}", report.name, report.outcome.label()));
    }
}

fn noting() -> (TaskRegistry, Journal) {
    let journal = Journal::default();
    (TaskRegistry::builder().observe(Noting(journal.clone())).build().unwrap(), journal)
}

#[tokio::test]
async fn sees_tasks_of_a_set() {
    let (registry, journal) = noting();
    let set = registry.set();
    set.add(Task::new(async {}).named("a"));
    set.add(Task::new(async { Err::<(), _>("no") }).named("b").timeout(Duration::from_secs(60)));
    set.drain().await;
    registry.wait_idle().await;
    let expected = ["a added", "b added", "a started", "a completed", "b started", "b failed"];
    assert_eq!(journal.read(), expected);
}

#[tokio::test]
async fn sees_spawned_and_blocking_tasks() {
    let (registry, journal) = noting();
    registry.spawn(Task::new(async {}).named("c")).await;
    registry.spawn(Task::blocking(|| panic!("a bug")).named("d")).await;
    registry.wait_idle().await;
    let expected = ["c added", "c started", "c completed", "d added", "d started", "d panicked"];
    assert_eq!(journal.read(), expected);
}

#[tokio::test(start_paused = true)]
async fn sees_each_attempt_and_one_end() {
    let (registry, journal) = noting();
    let mut events = registry.subscribe();
    let policy = RetryPolicy::constant(Duration::from_secs(1)).attempts(3);
    let id = registry.spawn(Task::retrying(policy, || async { Err::<(), _>("down") }).named("mail")).id();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(registry.get(id).unwrap().label(), "retrying");
    registry.wait_idle().await;
    let expected = [
        "mail added",
        "mail started",
        "mail attempt 1 failed: down",
        "mail started",
        "mail attempt 2 failed: down",
        "mail started",
        "mail failed",
    ];
    assert_eq!(journal.read(), expected);
    let Some(TaskStatus::Ended(report)) = registry.get(id) else { panic!("it has ended") };
    assert_eq!(report.attempt, 3);
    let mut labels = Vec::new();
    for _ in expected {
        labels.push(events.recv().await.unwrap().label());
    }
    let attempt = ["started", "attempt_failed"];
    assert_eq!(labels, [&["added"][..], &attempt, &attempt, &["started", "finished"]].concat());
}

/// It sees nothing of a rejected task.
#[tokio::test]
async fn sees_added_and_finished_of_task_that_never_starts() {
    let journal = Journal::default();
    let registry = TaskRegistry::builder().capacity(1).observe(Noting(journal.clone())).build().unwrap();
    let set = registry.set();
    set.add(Task::new(async {}).named("first"));
    set.add(Task::new(async {}).named("too many"));
    registry.spawn(Task::new(async {}).named("this too"));
    assert!(registry.try_spawn(async {}).is_err());
    set.clear();
    let expected = [
        "first added",
        "too many added",
        "too many discarded",
        "this too added",
        "this too discarded",
        "first discarded",
    ];
    assert_eq!(journal.read(), expected);
}

/// It harms neither the task nor the next observer.
#[tokio::test]
async fn panic_is_counted() {
    struct Panicking;
    impl TaskObserver for Panicking {
        fn added(&self, _: &TaskInfo) {
            panic!("added");
        }
        fn started(&self, _: &TaskInfo) {
            panic!("started");
        }
        fn finished(&self, _: &TaskReport) {
            panic!("finished");
        }
    }
    let journal = Journal::default();
    let registry = TaskRegistry::builder().observe(Panicking).observe(Noting(journal.clone())).build().unwrap();
    registry.set().add(Task::new(async {}).named("a"));
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["a added", "a started", "a completed"]);
    assert_eq!(registry.metrics().hook_panics, 3);
}

#[tokio::test]
async fn is_not_called_for_its_own_refused_adds() {
    struct Eager {
        registry: Mutex<Option<TaskRegistry>>,
        calls: AtomicU64,
    }
    impl Eager {
        fn add(&self) {
            self.calls.fetch_add(1, Ordering::Relaxed);
            if let Some(registry) = self.registry.lock().unwrap().clone() {
                registry.spawn(async {});
            }
        }
    }
    impl TaskObserver for Eager {
        fn added(&self, _: &TaskInfo) {
            self.add();
        }
        fn finished(&self, _: &TaskReport) {
            self.add();
        }
    }
    let eager = Arc::new(Eager { registry: Mutex::default(), calls: AtomicU64::new(0) });
    let registry = TaskRegistry::builder().capacity(1).observe(eager.clone()).build().unwrap();
    *eager.registry.lock().unwrap() = Some(registry.clone());
    let set = registry.set();
    set.add(async {}); // takes the only place
    registry.spawn(async {});
    assert_eq!(eager.calls.load(Ordering::Relaxed), 3, "two that were added, one of which was discarded at once");
    let metrics = registry.metrics();
    assert_eq!(metrics.discarded, 4, "that one, and what was added at each of the three: {metrics:?}");
    *eager.registry.lock().unwrap() = None;
}

/// A failure hook sees failures only.
#[tokio::test]
async fn takes_closures_and_arcs() {
    let (ends, failures) = (Journal::default(), Journal::default());
    let (first, second, third) = (ends.clone(), ends.clone(), failures.clone());
    let registry = TaskRegistry::builder()
        .observe(Arc::new(move |report: &TaskReport| first.note(report.name.as_str())))
        .observe(move |report: &TaskReport| second.note(report.outcome.label()))
        .on_failure(move |report| third.note(report.name.as_str()))
        .build()
        .unwrap();
    registry.spawn(Task::new(async {}).named("fine")).await;
    registry.spawn(Task::new(async { Err::<(), _>("no") }).named("broken")).await;
    registry.wait_idle().await;
    assert_eq!(ends.read(), ["fine", "completed", "broken", "failed"]);
    assert_eq!(failures.read(), ["broken"]);
}

#[tokio::test]
async fn of_another_registry_is_called() {
    let (second, journal) = noting();
    let spawns = second.clone();
    let first = TaskRegistry::builder().on_failure(move |_| drop(spawns.spawn(Task::new(async {}).named("alert"))));
    let first = first.build().unwrap();
    first.spawn(async { Err::<(), _>("down") }).await;
    first.wait_idle().await;
    second.wait_idle().await;
    assert_eq!(journal.read().len(), 3, "added, started and finished: {:?}", journal.read());

    let closed = TaskRegistry::builder().admit(|_| Err("not here".into())).build().unwrap();
    let spawns = closed;
    let asking = TaskRegistry::builder().admit(move |_| spawns.try_spawn(async {}).map(drop).map_err(Into::into));
    let refused = asking.build().unwrap().try_spawn(async {}).unwrap_err();
    assert_eq!(refused.reason(), RejectReason::Refused);
}

mod subscribe {
    use super::*;

    fn labels(events: &[TaskEvent]) -> Vec<&'static str> {
        events.iter().map(TaskEvent::label).collect()
    }

    #[tokio::test]
    async fn reads_from_now_on() {
        let registry = TaskRegistry::new();
        registry.spawn(async {}).await;
        let events = registry.subscribe();
        let id = registry.spawn(async {}).id();
        registry.wait_idle().await;
        let read: Vec<_> = events.take(3).collect().await;
        assert_eq!(labels(&read), ["added", "started", "finished"]);
        assert!(read.iter().all(|event| event.id() == Some(id)));
    }

    #[tokio::test]
    async fn wakes_and_ends_with_registry() {
        let registry = TaskRegistry::new();
        let mut events = registry.subscribe();
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            while let Some(event) = events.recv().await {
                read.push(event);
            }
            read
        });
        tokio::task::yield_now().await;
        registry.spawn(async {});
        registry.wait_idle().await;
        drop(registry);
        assert_eq!(labels(&reader.await.unwrap()), ["added", "started", "finished"]);
    }

    #[tokio::test]
    async fn counts_missed_events() {
        let registry = TaskRegistry::new();
        let mut slow = registry.subscribe();
        for _ in 0..2_000 {
            registry.spawn(async {});
        }
        registry.wait_idle().await;
        let mut fresh = registry.subscribe();
        registry.spawn(async {});
        registry.wait_idle().await;

        let Some(TaskEvent::Missed(missed)) = slow.recv().await else {
            panic!("6,003 events, room for 4,096")
        };
        assert_eq!(missed, 6_003 - 4_096);
        for _ in 0..4_096 {
            assert!(!matches!(slow.recv().await, Some(TaskEvent::Missed(_)) | None));
        }
        assert!(futures::poll!(std::pin::pin!(slow.recv())).is_pending(), "that was all");
        assert_eq!(fresh.recv().await.unwrap().label(), "added", "each reader has a pace of its own");
    }
}

mod history {
    use super::*;

    /// An error whose `Drop` goes back to the registry.
    struct Clinging(TaskRegistry);

    impl Drop for Clinging {
        fn drop(&mut self) {
            self.0.spawn(async {});
            drop(self.0.history());
            panic!("in the drop of an error");
        }
    }

    impl fmt::Debug for Clinging {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Clinging")
        }
    }

    impl fmt::Display for Clinging {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("in the display of an error")
        }
    }

    impl Error for Clinging {}

    async fn forget_errors(subscribe: Option<fn(&TaskRegistry) -> TaskEvents>) {
        let registry = TaskRegistry::builder().history(1).dead_letters(0).build().unwrap();
        let events = subscribe.map(|subscribe| subscribe(&registry));
        for _ in 0..10 {
            let set = registry.set();
            for _ in 0..300 {
                let registry = registry.clone();
                set.add(async move { Err::<(), _>(Clinging(registry)) });
            }
            let clinging = Clinging(registry.clone());
            registry.spawn(async move { Err::<(), _>(clinging) });
            drop(set);
        }
        registry.wait_idle().await;
        let metrics = registry.metrics();
        assert_eq!(metrics.failed, 3_010);
        assert!(metrics.completed > 0, "what the drops have spawned: {metrics:?}");
        drop(events);
        assert_eq!(registry.history().len(), 1);
        registry.spawn(async {}).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keeps_last_outcomes() {
        let registry = TaskRegistry::builder().history(100).build().unwrap();
        for _ in 0..1_000 {
            let set = registry.set();
            for _ in 0..999 {
                set.add(async {});
            }
            set.add(async { Err::<(), _>("the last one") });
            set.drain().await;
        }
        let last = registry.spawn(async {});
        let id = last.id();
        last.await;
        registry.wait_idle().await;
        assert_conserved(&registry, 1_000_001);

        let history = registry.history();
        assert_eq!(history.len(), 100);
        assert_eq!(history[0].id, id, "the latest first");
        assert_eq!(history[1].outcome.to_string(), "failed: the last one");
        assert!(history.is_sorted_by_key(|report| report.ended_ago));
        assert!(history.iter().all(|report| registry.get(report.id).is_some()));
    }

    #[tokio::test]
    async fn of_zero_keeps_nothing() {
        let registry = TaskRegistry::builder().history(0).build().unwrap();
        let id = registry.spawn(async { Err::<(), _>("no") }).id();
        assert!(registry.get(id).is_some());
        registry.wait_idle().await;
        assert!(registry.get(id).is_none());
        assert!(registry.history().is_empty());
    }

    #[tokio::test]
    async fn drops_evicted_error_without_lock() {
        // Once the history is the last that holds it, once the feed.
        forget_errors(None).await;
        forget_errors(Some(TaskRegistry::subscribe)).await;
    }
}

mod get {
    use super::*;

    #[tokio::test]
    async fn pending_running_and_ended() {
        let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let set = registry.set();
        let first = set.add(Task::new(async { finished.await.map_err(|_| "gone") }).named("first"));
        let second = set.add(Task::new(async { Err::<(), _>("no such mailbox") }).named("second"));
        let spawned = registry.spawn(Task::new(async {}).named("spawned"));
        let drained = set.drain();
        tokio::task::yield_now().await;
        let label = |id| registry.get(id).map(|status| status.label());
        until(|| label(spawned.id()) == Some("completed") && label(first) == Some("running")).await;
        assert_eq!(label(second), Some("pending"));
        finish.send(()).unwrap();
        drained.await;

        assert_eq!(label(first), Some("completed"));
        let Some(TaskStatus::Ended(report)) = registry.get(second) else { panic!("it has ended") };
        assert_eq!((report.id, report.name.as_str(), report.attempt, report.set), (second, "second", 1, second.set()));
        assert_eq!(report.outcome.to_string(), "failed: no such mailbox");
        assert!(report.location.file() == file!());
        assert!(registry.get("4711.3".parse().unwrap()).is_none());
        assert!(registry.get("4711".parse().unwrap()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn report_has_durations() {
        let registry = TaskRegistry::new();
        let second = Duration::from_secs(1);
        let set = registry.set();
        let id = set.add(async move { tokio::time::sleep(2 * second).await });
        tokio::time::sleep(3 * second).await;
        set.drain().await;
        tokio::time::sleep(4 * second).await;
        let Some(TaskStatus::Ended(report)) = registry.get(id) else { panic!("it has ended") };
        let seconds = [report.queued_for, report.ran_for, report.ended_ago].map(|d| d.as_secs_f64().round());
        assert_eq!(seconds, [3.0, 2.0, 4.0]);
    }
}

mod spans {
    use super::*;

    /// A subscriber that panics whenever a span is left.
    struct PanicsOnExit;

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for PanicsOnExit {
        fn on_exit(&self, _: &tracing::Id, _: tracing_subscriber::layer::Context<'_, S>) {
            panic!("on exit");
        }
    }

    #[tokio::test]
    async fn panic_of_subscriber_costs_one_outcome() {
        use tracing_subscriber::layer::SubscriberExt as _;

        let registry = TaskRegistry::new();
        let set = registry.set();
        {
            let subscriber = tracing_subscriber::registry().with(PanicsOnExit);
            let _listening = tracing::subscriber::set_default(subscriber);
            set.add(async {});
        }
        set.add(async {});
        let report = set.drain().await;
        assert_eq!(report.total(), 2);
        assert_conserved(&registry, 2);
    }
}
