//! Tasks that must start in time, or not at all.

use std::{
    future::pending,
    sync::{Arc, Weak, mpsc},
    time::Duration,
};

use postlude::{DiscardReason, Outcome, OutcomeKind, RetryPolicy, Task, TaskHandle, TaskRegistry, TaskStatus, attempt};
use tokio::{
    runtime::Builder,
    sync::oneshot,
    time::{Instant, advance, sleep},
};

use crate::support::{Journal, Reports, SECOND, assert_conserved, until};

fn is_expired(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Discarded(DiscardReason::Expired))
}

/// A task that notes `late` when it runs, and what it has captured.
fn late(journal: &Journal) -> (Task, Weak<()>) {
    let (captured, ran) = (Arc::new(()), journal.task("late"));
    let weak = Arc::downgrade(&captured);
    let task = Task::new(async move {
        let _captured = captured;
        ran.await;
    });
    (task, weak)
}

/// Waits for a task that expires after ten seconds, and that would have to wait for longer.
async fn expect_expiry(registry: &TaskRegistry, handle: TaskHandle, captured: &Weak<()>) {
    let (start, id) = (Instant::now(), handle.id());
    sleep(9 * SECOND).await;
    assert!(!handle.is_finished() && captured.upgrade().is_some());
    let outcome = handle.await;
    assert!(is_expired(&outcome), "{outcome}");
    assert_eq!(start.elapsed(), 10 * SECOND);
    until(|| captured.upgrade().is_none()).await;
    let Some(TaskStatus::Ended(report)) = registry.get(id) else { panic!("it is remembered") };
    assert_eq!((report.attempt, report.queued_for, report.ran_for), (0, 10 * SECOND, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn ends_a_spawned_task_that_waits_for_a_permit() {
    let (journal, reports) = (Journal::default(), Reports::default());
    let registry = TaskRegistry::builder().max_concurrent(1).on_failure(reports.hook()).build().unwrap();
    registry.spawn(async { sleep(60 * SECOND).await });
    let (task, captured) = late(&journal);
    let handle = registry.spawn(task.named("late").expires_after(10 * SECOND));
    let next = registry.spawn(journal.task("next"));
    expect_expiry(&registry, handle, &captured).await;
    assert!(next.await.is_completed(), "its permit is not lost");
    assert_eq!(journal.read(), ["next"]);
    let [report] = &reports.read()[..] else { panic!("the hook is called once") };
    assert!(is_expired(&report.outcome) && report.outcome.is_loss() && !report.outcome.is_failure());
    assert_eq!(registry.metrics().by_name()["late"].discarded, 1);
    assert_conserved(&registry, 3);
}

#[tokio::test(start_paused = true)]
async fn ends_a_spawned_task_that_waits_for_its_delay() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let (task, captured) = late(&journal);
    let handle = registry.spawn(task.delay(60 * SECOND).expires_after(10 * SECOND));
    expect_expiry(&registry, handle, &captured).await;
    assert!(journal.read().is_empty());
    assert_conserved(&registry, 1);
}

#[cfg(feature = "rate-limit")]
#[tokio::test(start_paused = true)]
async fn ends_a_spawned_task_that_waits_for_a_rate() {
    use postlude::RateLimit;

    let journal = Journal::default();
    let registry = TaskRegistry::builder().rate_limit("rated", RateLimit::per_minute(1)).build().unwrap();
    assert!(registry.spawn(Task::new(async {}).named("rated")).await.is_completed());
    let (task, captured) = late(&journal);
    let handle = registry.spawn(task.named("rated").expires_after(10 * SECOND));
    expect_expiry(&registry, handle, &captured).await;
    assert!(registry.spawn(Task::new(async {}).named("rated")).await.is_completed());
    assert!(journal.read().is_empty());
    assert_conserved(&registry, 3);
}

#[tokio::test]
async fn ends_a_closure_that_gets_no_thread() {
    let runtime = Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    let (release, held) = mpsc::channel::<()>();
    let (start, started) = oneshot::channel();
    let first = registry.spawn_blocking(move || {
        start.send(()).unwrap();
        held.recv().unwrap_err();
    });
    started.await.unwrap();
    let journal = Journal::default();
    let (noted, captured) = (journal.clone(), Arc::new(()));
    let weak = Arc::downgrade(&captured);
    let closure = Task::blocking(move || {
        let _captured = captured;
        noted.note("late");
    });
    assert!(is_expired(&registry.spawn(closure.expires_after(Duration::from_millis(20))).await));
    until(|| weak.upgrade().is_none()).await;
    let set = registry.set();
    let noted = journal.clone();
    set.add(Task::blocking(move || noted.note("late")).expires_after(Duration::from_millis(20)));
    set.add(journal.task("next"));
    let report = set.drain().await;
    assert_eq!((report.discarded, report.completed), (1, 1));
    drop(release);
    assert!(first.await.is_completed());
    assert_eq!((journal.read(), registry.metrics().stuck), (vec!["next".to_owned()], 0));
    assert_conserved(&registry, 4);
    runtime.shutdown_background();
}

#[tokio::test(start_paused = true)]
async fn ends_a_task_behind_others_of_its_set() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    set.add(async { sleep(60 * SECOND).await });
    let (task, captured) = late(&journal);
    let id = set.add(task.expires_after(10 * SECOND));
    set.add(journal.task("next"));
    let drained = set.drain();
    sleep(9 * SECOND).await;
    assert!(captured.upgrade().is_some());
    sleep(2 * SECOND).await;
    assert!(captured.upgrade().is_none(), "it is dropped at its time, not at its turn");
    assert_eq!(registry.get(id).unwrap().label(), "discarded");
    let report = drained.await;
    assert_eq!((report.completed, report.discarded, journal.read()), (2, 1, vec!["next".to_owned()]));
    assert_conserved(&registry, 3);
}

/// The first task of a set waits in the tokio task that drains the set.
#[tokio::test(start_paused = true)]
async fn ends_the_current_task_of_a_set() {
    for stops in [false, true] {
        let journal = Journal::default();
        let registry = TaskRegistry::builder().limit_by_name("limited", 1).build().unwrap();
        registry.spawn(Task::new(async { sleep(60 * SECOND).await }).named("limited"));
        let set = registry.set();
        if stops {
            set.stop_on_failure();
        }
        let start = Instant::now();
        let (waits, captured) = late(&journal);
        set.add(waits.named("limited").expires_after(10 * SECOND));
        let (delayed, also_captured) = late(&journal);
        set.add(delayed.delay(60 * SECOND).expires_after(20 * SECOND));
        set.add(journal.task("next"));
        let report = set.drain().await;
        assert_eq!((report.completed, report.discarded, start.elapsed()), (1, 2, 20 * SECOND), "stops: {stops}");
        assert_eq!(journal.read(), ["next"]);
        until(|| captured.upgrade().is_none() && also_captured.upgrade().is_none()).await;
        registry.wait_idle().await;
        assert_conserved(&registry, 4);
    }
}

#[tokio::test(start_paused = true)]
async fn ends_a_task_of_an_open_set() {
    let (registry, journal) = (TaskRegistry::builder().capacity(1).build().unwrap(), Journal::default());
    let set = registry.set();
    let (task, captured) = late(&journal);
    set.add(task.expires_after(10 * SECOND));
    assert!(registry.is_full());
    sleep(11 * SECOND).await;
    assert!(captured.upgrade().is_none() && set.is_empty() && !registry.is_full());
    assert_eq!(registry.metrics().open_sets, 0);
    set.add(journal.task("next"));
    assert_eq!(set.drain().await.completed, 1);
    assert_eq!(journal.read(), ["next"]);
    assert_conserved(&registry, 2);
}

#[tokio::test(start_paused = true)]
async fn leaves_a_task_that_has_started() {
    let registry = TaskRegistry::builder().limit_by_name("limited", 9).build().unwrap();
    let slow = || Task::new(async { sleep(60 * SECOND).await }).expires_after(10 * SECOND);
    let handles = [registry.spawn(slow()), registry.spawn(slow().named("limited"))];
    let set = registry.set();
    set.add(slow());
    set.add(slow().named("limited").expires_after(70 * SECOND));
    assert_eq!(set.drain().await.completed, 2);
    for handle in handles {
        assert!(handle.await.is_completed());
    }
}

#[tokio::test(start_paused = true)]
async fn counts_only_the_first_start_of_a_retrying_task() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    let flaky = || {
        let policy = RetryPolicy::constant(60 * SECOND);
        Task::retrying(policy, || async { if attempt() < 3 { Err("not yet") } else { Ok(()) } })
    };
    assert!(registry.spawn(flaky().expires_after(10 * SECOND)).await.is_completed());
    let set = registry.set();
    set.add(flaky().expires_after(10 * SECOND));
    assert_eq!(set.drain().await.completed, 1);

    registry.spawn(async { sleep(60 * SECOND).await });
    assert!(is_expired(&registry.spawn(flaky().expires_after(10 * SECOND)).await));
    assert_eq!(registry.metrics().retries, 4);
}

/// A replay is a new task, whose time begins with it.
#[tokio::test(start_paused = true)]
async fn holds_for_a_replay() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    let policy = RetryPolicy::default().attempts(1);
    let fails = Task::retrying(policy, || async { Err::<(), _>("down") }).expires_after(10 * SECOND);
    let id = registry.spawn(fails).await;
    assert_eq!(id.kind(), OutcomeKind::Failed);
    sleep(60 * SECOND).await;
    let letter = registry.dead_letters().list()[0].id;
    assert_eq!(registry.dead_letters().replay(letter).unwrap().await.kind(), OutcomeKind::Failed);
    registry.spawn(async { sleep(60 * SECOND).await });
    let letter = registry.dead_letters().list()[0].id;
    assert!(is_expired(&registry.dead_letters().replay(letter).unwrap().await));
}

#[tokio::test(start_paused = true)]
async fn of_zero_never_starts_and_of_max_never_ends() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    assert!(is_expired(&registry.spawn(Task::new(journal.task("never")).expires_after(Duration::ZERO)).await));
    let noted = journal.clone();
    let closure = Task::blocking(move || noted.note("never")).expires_after(Duration::ZERO);
    assert!(is_expired(&registry.spawn(closure).await));
    let set = registry.set();
    set.add(Task::new(journal.task("never")).expires_after(Duration::ZERO));
    assert!(set.is_empty());
    set.add(Task::new(journal.task("at last")).delay(1000 * 3600 * SECOND).expires_after(Duration::MAX));
    let report = set.drain().await;
    assert_eq!((report.discarded, report.completed, journal.read()), (1, 1, vec!["at last".to_owned()]));
    assert_conserved(&registry, 4);
}

/// After a jump of the clock, the tasks may be polled before the timer.
#[tokio::test(start_paused = true)]
async fn a_task_does_not_start_late_however_late_the_timer_is() {
    let (registry, journal) =
        (TaskRegistry::builder().limit_by_name("limited", 1).build().unwrap(), Journal::default());
    let task = || Task::new(journal.task("late")).expires_after(10 * SECOND);
    // The driver of the timer has run, and runs again only when the runtime looks at its timers.
    tokio::task::yield_now().await;
    let noted = journal.clone();
    let set = registry.set();
    set.add(task());
    set.add(task().named("limited"));
    set.add(task().delay(SECOND));
    set.add(Task::blocking(move || noted.note("late")).expires_after(10 * SECOND));
    let drained = set.drain();
    let spawned =
        [registry.spawn(task()), registry.spawn(task().named("limited")), registry.spawn(task().delay(SECOND))];
    // Without a yield, so nothing is polled before the jump.
    let jump = advance(3600 * SECOND);
    let (_, report) = tokio::join!(jump, drained);
    assert_eq!(report.discarded, 4);
    for handle in spawned {
        assert!(is_expired(&handle.await));
    }
    assert!(journal.read().is_empty());
    assert_conserved(&registry, 7);
}

#[tokio::test(start_paused = true)]
async fn counts_from_the_add_that_accepts_the_task() {
    let (registry, journal) = (TaskRegistry::builder().capacity(1).build().unwrap(), Journal::default());
    let first = registry.spawn(pending::<()>());
    let set = registry.set();
    let rejected = set.try_add(Task::new(journal.task("ran")).expires_after(10 * SECOND)).unwrap_err();
    sleep(60 * SECOND).await;
    first.abort();
    assert_eq!(registry.metrics().discarded, 0);
    set.add(rejected.into_task());
    sleep(9 * SECOND).await;
    assert_eq!(set.drain().await.completed, 1);
    assert_eq!(journal.read(), ["ran"]);
}

/// On the clock of the registry's runtime, wherever the task is added.
#[test]
fn is_timed_by_the_runtime_of_the_registry() {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    runtime.block_on(advance(3600 * SECOND));
    let (set, journal) = (registry.set(), Journal::default());
    set.add(Task::new(journal.task("in time")).expires_after(10 * SECOND));
    set.add(Task::new(journal.task("late")).expires_after(5 * SECOND));
    runtime.block_on(async {
        sleep(9 * SECOND).await;
        assert_eq!(set.len(), 1);
        set.drain().await;
    });
    assert_eq!(journal.read(), ["in time"]);
    assert_conserved(&registry, 2);
}

#[tokio::test(start_paused = true)]
async fn of_very_many_tasks_ends_each() {
    const MANY: u32 = 20_000;
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    registry.spawn(async { sleep(3600 * SECOND).await });
    let set = registry.set();
    let task = |n: u32| Task::new(async {}).expires_after((n % 7 + 1) * SECOND);
    for n in 0..MANY {
        set.add(task(n));
    }
    let handles: Vec<_> = (0..MANY).map(|n| registry.spawn(task(n))).collect();
    for handle in handles {
        assert!(is_expired(&handle.await));
    }
    assert_eq!((set.len(), registry.metrics().discarded), (0, u64::from(2 * MANY)));
    assert_conserved(&registry, u64::from(2 * MANY + 1));
}

#[test]
fn a_runtime_that_ends_is_the_reason_before_the_time_is_over() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    let handle = registry.spawn(Task::new(async {}).delay(60 * SECOND).expires_after(30 * SECOND));
    drop(runtime);
    let report = &registry.history()[0];
    assert_eq!(report.id, handle.id());
    assert!(matches!(report.outcome, Outcome::Discarded(DiscardReason::RuntimeEnded)), "{}", report.outcome);
}
