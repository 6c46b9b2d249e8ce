//! Tasks that are spawned again and again.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use postlude::{RepeatHandle, RepeatPolicy, Task, TaskRegistry, TaskState};
use tokio::time::Instant;

use crate::support::{Journal, Reports, SECOND, assert_conserved};

/// Notes at which second each run starts, and takes `seconds`.
fn run(start: Instant, journal: &Journal, seconds: u32) -> impl Future<Output = ()> + Send + use<> {
    let journal = journal.clone();
    async move {
        journal.note(start.elapsed().as_secs().to_string());
        tokio::time::sleep(seconds * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn starts_at_once_and_at_each_beat() {
    let (registry, journal, start) = (TaskRegistry::new(), Journal::default(), Instant::now());
    let noted = journal.clone();
    registry.spawn_every(10 * SECOND, move || run(start, &noted, 1));
    tokio::time::sleep(35 * SECOND).await;
    assert_eq!(journal.read(), ["0", "10", "20", "30"]);
    assert_eq!(registry.metrics().completed, 4);
    assert_conserved(&registry, 4);
}

/// Runs never overlap.
#[tokio::test(start_paused = true)]
async fn skips_missed_beats() {
    let (registry, journal, start) = (TaskRegistry::new(), Journal::default(), Instant::now());
    let noted = journal.clone();
    let policy = RepeatPolicy::every(10 * SECOND).first_after(3 * SECOND);
    registry.spawn_every(policy, move || run(start, &noted, 25));
    tokio::time::sleep(70 * SECOND).await;
    assert_eq!(journal.read(), ["3", "33", "63"]);
}

#[tokio::test(start_paused = true)]
async fn each_run_is_a_task_of_its_own() {
    let reports = Reports::default();
    let registry = TaskRegistry::builder().on_failure(reports.hook()).build().unwrap();
    let runs = AtomicU32::new(0);
    let line = line!() + 1;
    let repetition = registry.spawn_every(10 * SECOND, move || {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        Task::new(async move {
            match run {
                0 => Err("failed"),
                1 => panic!("panicked"),
                2 => std::future::pending().await,
                _ => Ok(()),
            }
        })
        .named("sweep")
        .timeout(SECOND)
    });
    tokio::time::sleep(45 * SECOND).await;
    let metrics = registry.metrics();
    assert_eq!((metrics.failed, metrics.panicked, metrics.timed_out, metrics.completed), (1, 1, 1, 2));
    for report in reports.read() {
        assert_eq!((report.name.as_str(), report.location.line()), ("sweep", line));
    }
    assert!(!repetition.is_stopped());
}

#[tokio::test(start_paused = true)]
async fn factory_that_panics_is_called_again() {
    let registry = TaskRegistry::new();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    registry.spawn_every(10 * SECOND, move || {
        assert_ne!(counted.fetch_add(1, Ordering::SeqCst), 0, "the first call panics");
        async {}
    });
    tokio::time::sleep(25 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let metrics = registry.metrics();
    assert_eq!((metrics.hook_panics, metrics.completed), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn is_idle_between_runs() {
    let registry = TaskRegistry::new();
    registry.spawn_every(10 * SECOND, || async {});
    tokio::time::sleep(SECOND).await;
    assert!(registry.tasks().is_empty());
    let start = Instant::now();
    registry.wait_idle().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// One run, and then the beat.
#[tokio::test(start_paused = true)]
async fn after_jump_of_clock() {
    let (registry, journal, start) = (TaskRegistry::new(), Journal::default(), Instant::now());
    let noted = journal.clone();
    registry.spawn_every(10 * SECOND, move || run(start, &noted, 0));
    tokio::time::sleep(SECOND).await;
    tokio::time::advance(1000 * SECOND).await;
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(journal.read(), ["0", "1001", "1010", "1020"]);
}

#[tokio::test(start_paused = true)]
async fn at_capacity_discards_run() {
    let registry = TaskRegistry::builder().capacity(1).build().unwrap();
    let busy = registry.spawn(std::future::pending::<()>());
    registry.spawn_every(10 * SECOND, || async {});
    tokio::time::sleep(15 * SECOND).await;
    assert_eq!(registry.metrics().discarded, 2);
    busy.abort();
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(registry.metrics().completed, 1);
}

#[tokio::test(start_paused = true)]
async fn lists_current_run() {
    let registry = TaskRegistry::new();
    registry.spawn_every(10 * SECOND, || Task::new(std::future::pending::<()>()).named("sweep"));
    tokio::time::sleep(100 * SECOND).await;
    let [task] = &registry.tasks()[..] else { panic!("one run, and no other before it ends") };
    assert_eq!((task.name.as_str(), task.state), ("sweep", TaskState::Running));
}

#[tokio::test(start_paused = true)]
async fn shutdown_stops_it() {
    let registry = TaskRegistry::new();
    let sleepy = registry.spawn_every(10 * SECOND, || async { tokio::time::sleep(5 * SECOND).await });
    let rare = registry.spawn_every(RepeatPolicy::every(3600 * SECOND).first_after(3600 * SECOND), || async {});
    tokio::time::sleep(11 * SECOND).await;
    let start = Instant::now();
    let report = registry.shutdown(60 * SECOND).await;
    assert!(report.is_clean() && start.elapsed() < 5 * SECOND, "{report}");
    assert!(sleepy.is_stopped() && rare.is_stopped());
    tokio::time::sleep(7200 * SECOND).await;
    assert_eq!(registry.metrics().added, 2);

    let late = registry.spawn_every(SECOND, || async {});
    assert!(late.is_stopped());
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(registry.metrics().added, 2);
}

#[test]
fn end_of_runtime_stops_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    let early = registry.spawn_every(SECOND, || async {});
    assert!(!early.is_stopped());
    drop(runtime);
    assert!(early.is_stopped());
    assert!(registry.spawn_every(SECOND, || async {}).is_stopped());
    assert_conserved(&registry, 0);
}

mod stop {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lets_current_run_end() {
        let registry = TaskRegistry::new();
        let sleepy = || async { tokio::time::sleep(5 * SECOND).await };
        let repetition = registry.spawn_every(10 * SECOND, sleepy);
        tokio::time::sleep(12 * SECOND).await;
        repetition.stop();
        assert!(repetition.is_stopped());
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(registry.metrics().completed, 2);

        let repetition = registry.spawn_every(10 * SECOND, sleepy);
        tokio::time::sleep(12 * SECOND).await;
        repetition.abort();
        tokio::time::sleep(60 * SECOND).await;
        let metrics = registry.metrics();
        assert_eq!((metrics.completed, metrics.aborted), (3, 1));
        assert_conserved(&registry, 4);
    }
}

mod abort {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn while_a_run_is_made() {
        let registry = TaskRegistry::new();
        let handle: Arc<OnceLock<RepeatHandle>> = Arc::default();
        let own = Arc::clone(&handle);
        let policy = RepeatPolicy::every(10 * SECOND).first_after(SECOND);
        let repetition = registry.spawn_every(policy, move || {
            own.get().unwrap().abort();
            std::future::pending::<()>()
        });
        handle.set(repetition).unwrap();
        tokio::time::sleep(60 * SECOND).await;
        let metrics = registry.metrics();
        assert_eq!((metrics.added, metrics.aborted), (1, 1));
    }
}

mod jitter {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stays_within_bound() {
        let (registry, start) = (TaskRegistry::new(), Instant::now());
        let journal = Journal::default();
        let noted = journal.clone();
        registry.spawn_every(RepeatPolicy::every(100 * SECOND).jitter(10 * SECOND), move || {
            noted.note(start.elapsed().as_millis().to_string());
            async {}
        });
        tokio::time::sleep(100 * 100 * SECOND - SECOND).await;
        let starts: Vec<u64> = journal.read().iter().map(|start| start.parse().unwrap()).collect();
        assert_eq!(starts.len(), 100);
        let late: Vec<u64> = starts.iter().map(|start| start % 100_000).collect();
        assert!(late.iter().all(|lateness| *lateness <= 10_001), "{late:?}");
        assert!(late.iter().any(|lateness| *lateness != late[0]), "drawn anew each time: {late:?}");
        assert!(starts.iter().enumerate().all(|(run, start)| start / 100_000 == run as u64), "{starts:?}");
    }
}
