//! What a shutdown does after its deadline is bounded, and its report is honest.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use postlude::{Outcome, Task, TaskRegistry, TaskReport, TaskStatus};
use tokio::{runtime::Builder, task::yield_now, time::advance};
use tracing::{
    Event, Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

use crate::support::{assert_conserved, until};

/// How many tasks of a kind a shutdown names.
const NAMED: usize = 10_000;

/// Tasks that wait, half of them spawned and half in one set.
async fn many(registry: &TaskRegistry, each: usize) {
    for _ in 0..each {
        registry.spawn(pending::<()>());
    }
    let set = registry.set();
    for _ in 0..each {
        set.add(pending::<()>());
    }
    set.drain();
    while registry.metrics().running <= each as u64 {
        yield_now().await;
    }
}

/// Counts the lines of the log.
#[derive(Clone, Default)]
struct Lines {
    of_tasks: Arc<AtomicUsize>,
    of_counts: Arc<AtomicUsize>,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        let has = |name| event.fields().any(|field| field.name() == name);
        let lines = if has("unnamed") { &self.of_counts } else { &self.of_tasks };
        lines.fetch_add(1, Ordering::SeqCst);
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn names_and_logs_so_many_of_each_kind_and_counts_the_others() {
    let lines = Lines::default();
    let _default = tracing::subscriber::set_default(lines.clone());
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let registry = TaskRegistry::builder().settle(Duration::ZERO).build().unwrap();
        many(&registry, NAMED + 2_000).await;
        let before = lines.of_tasks.load(Ordering::SeqCst);
        let report = registry.shutdown(Duration::ZERO).await;
        assert_eq!((report.aborted.len(), report.discarded.len()), (NAMED, NAMED));
        // Of the set, one had started.
        assert_eq!(report.unnamed, 2_001 + 1_999);
        assert!(!report.is_clean());
        assert!(report.to_string().ends_with("and 4000 more"));
        assert_eq!(lines.of_tasks.load(Ordering::SeqCst) - before, 2 * NAMED);
        assert_eq!(lines.of_counts.load(Ordering::SeqCst), 1);
        assert_conserved(&registry, 2 * (NAMED as u64 + 2_000));
        let again = registry.shutdown(Duration::ZERO).await;
        assert_eq!((again.aborted.len(), again.unnamed), (NAMED, report.unnamed));
    });
}

#[test]
fn calls_nothing_stuck_that_had_no_time_to_be_dropped() {
    for workers in [0, 2] {
        let mut builder = if workers == 0 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        let runtime = builder.worker_threads(workers.max(1)).enable_all().build().unwrap();
        runtime.block_on(async {
            let registry = TaskRegistry::builder().settle(Duration::ZERO).build().unwrap();
            many(&registry, 20_000).await;
            let report = registry.shutdown(Duration::ZERO).await;
            assert!(report.stuck.is_empty(), "{} stuck", report.stuck.len());
            registry.wait_idle().await;
            assert_conserved(&registry, 40_000);
            assert_eq!(registry.metrics().running, 0);
            // Dropping what the shutdown left may take longer than the time within which a task is dropped.
            until(|| registry.metrics().stuck == 0).await;
        });
    }
}

/// Tasks that were aborted count as stuck only if they have had their turn to be dropped.
#[test]
fn counts_nothing_as_stuck_while_others_are_being_dropped() {
    const TASKS: usize = 200;
    let mut builder = Builder::new_current_thread();
    let runtime = builder.event_interval(10).enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let registry = TaskRegistry::new();
        let held = Arc::new(());
        let wait = |held: Arc<()>| async move {
            pending::<()>().await;
            drop(held);
        };
        let ids: Vec<_> = (0..TASKS).map(|_| registry.spawn(wait(held.clone())).id()).collect();
        until(|| registry.metrics().running == TASKS as u64).await;
        assert!(ids.into_iter().all(|id| registry.abort(id)));
        let not_dropped = || Arc::strong_count(&held) - 1;
        assert_eq!((not_dropped(), registry.metrics().stuck), (TASKS, 0));
        // More than the time within which a task is dropped, but a part of the tasks gets its turn only now.
        advance(Duration::from_millis(60)).await;
        assert!((1..TASKS).contains(&not_dropped()), "{}", not_dropped());
        assert_eq!(registry.metrics().stuck, 0);
    });
}

#[tokio::test(start_paused = true)]
async fn lets_others_run_while_it_ends_very_many() {
    let registry = TaskRegistry::builder().settle(Duration::ZERO).build().unwrap();
    many(&registry, 5_000).await;
    let turns = Arc::new(AtomicU64::new(0));
    let count = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            count.fetch_add(1, Ordering::SeqCst);
            yield_now().await;
        }
    });
    registry.shutdown(Duration::ZERO).await;
    other.abort();
    // It ends 256 at a time.
    assert!(turns.load(Ordering::SeqCst) >= 10_000 / 256, "{turns:?}");
    assert_conserved(&registry, 10_000);
}

/// The hooks take longer than a shutdown goes on beyond its time.
#[tokio::test]
async fn counts_what_it_has_no_time_to_end_and_ends_it_in_the_background() {
    const TASKS: u64 = 1_500;
    let slow = |_: &TaskReport| std::thread::sleep(Duration::from_millis(1));
    let registry = TaskRegistry::builder().settle(Duration::ZERO).on_failure(slow).build().unwrap();
    for _ in 0..TASKS {
        registry.spawn(pending::<()>());
    }
    let report = registry.shutdown(Duration::ZERO).await;
    let named = (report.aborted.len() + report.discarded.len()) as u64;
    assert!(named < TASKS, "{named} were ended in time");
    assert_eq!(named + report.unnamed, TASKS);
    until(|| registry.tasks().is_empty()).await;
    assert_conserved(&registry, TASKS);
}

#[tokio::test(start_paused = true)]
async fn starts_no_task_of_a_set_that_it_ends() {
    let registry = TaskRegistry::builder().settle(Duration::ZERO).build().unwrap();
    let late = Arc::new(AtomicU64::new(0));
    let set = registry.set();
    for _ in 0..5_000 {
        let (registry, late) = (registry.clone(), late.clone());
        set.add(async move {
            late.fetch_add(u64::from(registry.is_closed()), Ordering::SeqCst);
            yield_now().await;
        });
    }
    let drained = set.drain();
    yield_now().await;
    let report = registry.shutdown(Duration::ZERO).await;
    let drained = drained.await;
    assert_eq!(drained.discarded, report.discarded.len() as u64);
    assert!(drained.discarded > 4_000, "{drained:?}");
    assert_eq!(late.load(Ordering::SeqCst), 0);
    assert_conserved(&registry, 5_000);
}

#[tokio::test(start_paused = true)]
async fn ends_what_is_due_after_the_deadline_of_a_set_of_very_many() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    set.stop_on_failure();
    set.add(Task::new(async {}).delay(Duration::from_secs(3600)));
    for _ in 0..2_000 {
        set.add(async {});
    }
    set.drain();
    yield_now().await;
    let start = tokio::time::Instant::now();
    let report = registry.shutdown(Duration::from_secs(60)).await;
    assert_eq!((report.discarded.len(), report.aborted.len()), (2_001, 0), "{report}");
    // At the first look, and not a few at each look.
    assert!(start.elapsed() < Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn reports_what_a_failure_has_stopped() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    set.stop_on_failure();
    set.add(async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Err::<(), _>("no")
    });
    let behind = set.add(Task::new(async {}).named("behind"));
    set.drain();
    yield_now().await;
    let report = registry.shutdown(Duration::from_secs(10)).await;
    assert_eq!((report.discarded.len(), report.discarded[0].id), (1, behind), "{report}");
    assert!(!report.is_clean());
}

#[test]
fn a_closure_that_never_got_a_thread_is_not_stuck() {
    let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    let (release, held) = mpsc::channel::<()>();
    runtime.spawn_blocking(move || _ = held.recv());
    runtime.block_on(async {
        let registry = TaskRegistry::builder().settle(Duration::ZERO).build().unwrap();
        let [aborted, discarded] = [(); 2].map(|()| registry.spawn(Task::blocking(|| {})));
        // Their tasks acquire permits, and wait for a thread.
        yield_now().await;
        aborted.abort();
        assert!(matches!(aborted.await, Outcome::Aborted));
        let report = registry.shutdown(Duration::ZERO).await;
        assert!(report.stuck.is_empty(), "{report}");
        assert_eq!(registry.metrics().stuck, 0);
        let Some(TaskStatus::Ended(ended)) = registry.get(discarded.id()) else { panic!("it has ended") };
        assert_eq!((ended.outcome.label(), ended.attempt), ("discarded", 0));
    });
    drop(release);
}
