//! Who is told of tasks: observers, subscribers, history.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use futures::StreamExt;
use postlude::{
    DiscardReason, Outcome, RejectReason, RetryPolicy, Task, TaskEvent, TaskEvents, TaskInfo, TaskObserver,
    TaskRegistry, TaskReport, TaskState, TaskStatus,
};

use crate::support::{Journal, assert_conserved};

/// Notes what it is told.
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
async fn an_observer_is_told_of_each_task_as_it_comes_starts_and_ends() {
    let (registry, journal) = noting();
    let set = registry.set();
    set.add(Task::new(async {}).named("a"));
    set.add(Task::new(async { Err::<(), _>("no") }).named("b").timeout(Duration::from_secs(60)));
    set.drain().await;
    registry.wait_idle().await;
    let told = ["a added", "b added", "a started", "a completed", "b started", "b failed"];
    assert_eq!(journal.read(), told);
}

#[tokio::test]
async fn so_it_is_of_spawned_and_of_blocking_tasks() {
    let (registry, journal) = noting();
    registry.spawn(Task::new(async {}).named("c")).await;
    registry.spawn(Task::blocking(|| panic!("a bug")).named("d")).await;
    registry.wait_idle().await;
    let told = ["c added", "c started", "c completed", "d added", "d started", "d panicked"];
    assert_eq!(journal.read(), told);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_of_when_it_starts_and_when_it_fails_and_the_end_comes_once() {
    let (registry, journal) = noting();
    let mut events = registry.subscribe();
    let policy = RetryPolicy::constant(Duration::from_secs(1)).attempts(3);
    let id = registry.spawn(Task::retrying(policy, || async { Err::<(), _>("down") }).named("mail")).id();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(registry.get(id).unwrap().label(), "retrying");
    registry.wait_idle().await;
    let told = [
        "mail added",
        "mail started",
        "mail attempt 1 failed: down",
        "mail started",
        "mail attempt 2 failed: down",
        "mail started",
        "mail failed",
    ];
    assert_eq!(journal.read(), told);
    let Some(TaskStatus::Ended(report)) = registry.get(id) else { panic!("it has ended") };
    assert_eq!(report.attempt, 3);
    let mut labels = Vec::new();
    for _ in told {
        labels.push(events.recv().await.unwrap().label());
    }
    let attempt = ["started", "attempt_failed"];
    assert_eq!(labels, [&["added"][..], &attempt, &attempt, &["started", "finished"]].concat());
}

#[tokio::test]
async fn a_task_that_never_starts_is_told_of_as_added_and_ended_and_one_handed_back_not_at_all() {
    let journal = Journal::default();
    let registry = TaskRegistry::builder().capacity(1).observe(Noting(journal.clone())).build().unwrap();
    let set = registry.set();
    set.add(Task::new(async {}).named("first"));
    set.add(Task::new(async {}).named("too many"));
    registry.spawn(Task::new(async {}).named("this too"));
    assert!(registry.try_spawn(async {}).is_err());
    set.clear();
    let told = [
        "first added",
        "too many added",
        "too many discarded",
        "this too added",
        "this too discarded",
        "first discarded",
    ];
    assert_eq!(journal.read(), told);
}

/// Counts what it is told.
#[derive(Default)]
struct Counting {
    added: AtomicU64,
    started: AtomicU64,
    finished: AtomicU64,
}

impl TaskObserver for Counting {
    fn added(&self, _: &TaskInfo) {
        self.added.fetch_add(1, Ordering::Relaxed);
    }

    fn started(&self, _: &TaskInfo) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    fn finished(&self, _: &TaskReport) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_observers_count_is_what_the_registry_counts_when_it_is_idle() {
    let counting = Arc::new(Counting::default());
    let registry = TaskRegistry::builder().max_concurrent(3).observe(counting.clone()).build().unwrap();
    let adders: Vec<_> = (0..4)
        .map(|adder| {
            let registry = registry.clone();
            tokio::spawn(async move {
                for i in 0..200 {
                    let set = registry.set();
                    set.add(async {});
                    let id = set.add(async { Err::<(), _>("no") });
                    let handle = registry.spawn(tokio::task::yield_now());
                    match (i + adder) % 4 {
                        0 => drop(registry.abort(id)),
                        1 => drop(handle.abort()),
                        2 => drop(set.clear()),
                        _ => {}
                    }
                }
            })
        })
        .collect();
    for adder in adders {
        adder.await.unwrap();
    }
    registry.wait_idle().await;
    assert_conserved(&registry, 2400);
    let metrics = registry.metrics();
    assert_eq!(counting.added.load(Ordering::Relaxed), 2400);
    assert_eq!(counting.finished.load(Ordering::Relaxed), 2400, "all told before it is idle: {metrics:?}");
    let started = counting.started.load(Ordering::Relaxed);
    assert!(started >= metrics.completed + metrics.failed, "{started}: {metrics:?}");
    assert!(started <= 2400 - metrics.discarded, "{started}: {metrics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_idle_only_when_the_observers_were_told() {
    let (release, released) = mpsc::channel::<()>();
    let (entered, entering) = mpsc::channel();
    let released = Mutex::new(released);
    let slow = move |_: &TaskReport| {
        entered.send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
    };
    let registry = TaskRegistry::builder().observe(slow).build().unwrap();
    registry.spawn(async {});
    tokio::task::spawn_blocking(move || entering.recv().unwrap()).await.unwrap();
    assert_eq!(registry.metrics().completed, 1, "counted");
    let mut idle = std::pin::pin!(registry.wait_idle());
    assert!(futures::poll!(&mut idle).is_pending(), "and not yet told");
    release.send(()).unwrap();
    idle.await;
}

#[tokio::test]
async fn a_panic_of_an_observer_is_counted_and_harms_neither_the_task_nor_the_next_observer() {
    struct Bomb;
    impl TaskObserver for Bomb {
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
    let registry = TaskRegistry::builder().observe(Bomb).observe(Noting(journal.clone())).build().unwrap();
    registry.set().add(Task::new(async {}).named("a"));
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["a added", "a started", "a completed"]);
    assert_eq!(registry.metrics().hook_panics, 3);
}

#[tokio::test]
async fn an_observer_that_adds_at_a_full_registry_is_not_told_of_that() {
    struct Eager {
        registry: Mutex<Option<TaskRegistry>>,
        told: AtomicU64,
    }
    impl Eager {
        fn add(&self) {
            self.told.fetch_add(1, Ordering::Relaxed);
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
    let eager = Arc::new(Eager { registry: Mutex::default(), told: AtomicU64::new(0) });
    let registry = TaskRegistry::builder().capacity(1).observe(eager.clone()).build().unwrap();
    *eager.registry.lock().unwrap() = Some(registry.clone());
    let set = registry.set();
    set.add(async {}); // takes the only place
    registry.spawn(async {});
    assert_eq!(eager.told.load(Ordering::Relaxed), 3, "two that were added, one of which was discarded at once");
    let metrics = registry.metrics();
    assert_eq!(metrics.discarded, 4, "that one, and what was added at each of the three: {metrics:?}");
    *eager.registry.lock().unwrap() = None;
}

#[tokio::test]
async fn closures_and_arcs_observe_and_a_failure_hook_hears_of_failures_alone() {
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

#[test]
fn a_loss_is_what_nobody_took_back() {
    let discarded = |reason| Outcome::Discarded(reason);
    let cases = [
        (Outcome::Completed, false),
        (Outcome::Failed(postlude::BoxError::from("no").into()), true),
        (Outcome::TimedOut(Duration::ZERO), true),
        (Outcome::Aborted, true),
        (discarded(DiscardReason::Ending), false),
        (discarded(DiscardReason::Cleared), false),
        (discarded(DiscardReason::Capacity), true),
        (discarded(DiscardReason::Closed), true),
        (discarded(DiscardReason::RuntimeEnded), true),
        (discarded(DiscardReason::PreviousFailed), true),
        (discarded(DiscardReason::Refused), true),
    ];
    for (outcome, is_loss) in cases {
        assert_eq!(outcome.is_loss(), is_loss, "{outcome}");
    }
}

fn labels(events: &[TaskEvent]) -> Vec<&'static str> {
    events.iter().map(TaskEvent::label).collect()
}

#[tokio::test]
async fn a_subscriber_reads_what_happens_from_now_on() {
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
async fn a_subscriber_that_waits_is_woken_and_the_stream_ends_with_the_registry() {
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
async fn a_subscriber_that_does_not_read_loses_the_oldest_and_learns_how_many() {
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

/// An error whose `Drop` goes back to the registry.
struct Clinging(TaskRegistry);

impl Drop for Clinging {
    fn drop(&mut self) {
        self.0.spawn(async {});
        assert!(!self.0.history().is_empty());
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

#[tokio::test]
async fn an_error_that_is_forgotten_is_dropped_under_no_lock_and_its_panic_goes_nowhere() {
    // Once the history is the last that holds it, once the feed.
    forget_errors(None).await;
    forget_errors(Some(TaskRegistry::subscribe)).await;
}

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

#[tokio::test]
async fn a_task_can_be_asked_for_while_it_waits_runs_and_when_it_has_ended() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    let set = registry.set();
    let first = set.add(Task::new(async { finished.await.map_err(|_| "gone") }).named("first"));
    let second = set.add(Task::new(async { Err::<(), _>("no such mailbox") }).named("second"));
    let spawned = registry.spawn(Task::new(async {}).named("spawned"));
    let drained = set.drain();
    tokio::task::yield_now().await;
    let label = |id| registry.get(id).map(|status| status.label());
    while label(spawned.id()) != Some("completed") || label(first) != Some("running") {
        tokio::task::yield_now().await;
    }
    assert_eq!(label(second), Some("pending"));
    finish.send(()).unwrap();
    drained.await;

    assert_eq!(label(first), Some("completed"));
    let Some(TaskStatus::Ended(report)) = registry.get(second) else { panic!("it has ended") };
    assert_eq!((report.id, report.name.as_str(), report.attempt, report.set), (second, "second", 1, second.set()));
    assert_eq!(report.outcome.to_string(), "failed: no such mailbox");
    assert!(report.location.file().ends_with("observe.rs"));
    assert!(registry.get("4711.3".parse().unwrap()).is_none());
    assert!(registry.get("4711".parse().unwrap()).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_report_of_an_ended_task_says_how_long_it_waited_ran_and_how_long_ago_it_ended() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_outcomes_of_a_million_are_remembered_and_no_more() {
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
async fn without_a_history_only_what_lives_is_known() {
    let registry = TaskRegistry::builder().history(0).build().unwrap();
    let id = registry.spawn(async { Err::<(), _>("no") }).id();
    assert!(registry.get(id).is_some());
    registry.wait_idle().await;
    assert!(registry.get(id).is_none());
    assert!(registry.history().is_empty());
}

#[tokio::test]
async fn what_a_hook_adds_to_another_registry_is_told_and_asked_about_there() {
    let (second, told) = noting();
    let spawns = second.clone();
    let first = TaskRegistry::builder().on_failure(move |_| drop(spawns.spawn(Task::new(async {}).named("alert"))));
    let first = first.build().unwrap();
    first.spawn(async { Err::<(), _>("down") }).await;
    first.wait_idle().await;
    second.wait_idle().await;
    assert_eq!(told.read().len(), 3, "added, started and finished: {:?}", told.read());

    let closed = TaskRegistry::builder().admit(|_| Err("not here".into())).build().unwrap();
    let spawns = closed;
    let asking = TaskRegistry::builder().admit(move |_| spawns.try_spawn(async {}).map(drop).map_err(Into::into));
    let refused = asking.build().unwrap().try_spawn(async {}).unwrap_err();
    assert_eq!(refused.reason(), RejectReason::Refused);
}
