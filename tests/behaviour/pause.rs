//! Names that are paused and resumed.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use postlude::{DiscardReason, Outcome, RetryPolicy, Task, TaskInfo, TaskRegistry, TaskState, UniquePolicy};
use tokio::{task::yield_now, time::sleep};

use crate::support::{Journal, SECOND, assert_conserved, until};

const HOUR: Duration = Duration::from_secs(3600);

fn note(journal: &Journal, entry: &'static str) -> Task {
    let journal = journal.clone();
    Task::new(async move { journal.note(entry) }).named("mail")
}

async fn turns() {
    for _ in 0..20 {
        yield_now().await;
    }
}

fn states(registry: &TaskRegistry) -> Vec<(TaskState, bool)> {
    registry.tasks().iter().map(|task| (task.state, task.paused)).collect()
}

#[tokio::test(start_paused = true)]
async fn tasks_of_the_name_wait_and_start_in_order_when_it_is_resumed() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    assert!(registry.pause("mail") && !registry.pause("mail"));
    for entry in ["1", "2", "3"] {
        registry.spawn(note(&journal, entry));
    }
    registry.spawn(note(&journal, "other").named("other"));
    sleep(HOUR).await;
    assert_eq!(journal.read(), ["other"]);
    assert_eq!(states(&registry), [(TaskState::Pending, true); 3]);
    assert_eq!(registry.may_start("mail"), 0);
    assert!(registry.is_paused("mail") && !registry.is_paused("other"));
    assert!(registry.resume("mail") && !registry.resume("mail") && !registry.resume("other"));
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["other", "1", "2", "3"]);
}

/// The runtime has not polled them yet.
#[tokio::test]
async fn spawned_tasks_that_were_not_polled_wait() {
    for limit in [None, Some(2)] {
        let mut builder = TaskRegistry::builder();
        if let Some(limit) = limit {
            builder = builder.limit_by_name("mail", limit);
        }
        let (registry, journal) = (builder.build().unwrap(), Journal::default());
        for entry in ["1", "2", "3", "4"] {
            registry.spawn(note(&journal, entry));
        }
        registry.pause("mail");
        turns().await;
        assert!(journal.read().is_empty(), "{limit:?}: {:?}", journal.read());
        assert_eq!(states(&registry), [(TaskState::Pending, true); 4]);
        registry.resume("mail");
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["1", "2", "3", "4"], "{limit:?}");
    }
}

/// They have passed the limit of their name, and wait for `max_concurrent`.
#[tokio::test(start_paused = true)]
async fn tasks_that_wait_for_another_limit_wait_and_hold_nothing() {
    for limits_name in [false, true] {
        let mut builder = TaskRegistry::builder().max_concurrent(1);
        if limits_name {
            builder = builder.limit_by_name("mail", 2);
        }
        let (registry, journal) = (builder.build().unwrap(), Journal::default());
        registry.spawn(Task::new(sleep(SECOND)).named("first"));
        for entry in ["1", "2", "3"] {
            registry.spawn(note(&journal, entry));
        }
        registry.spawn(note(&journal, "other").named("other"));
        turns().await;
        registry.pause("mail");
        sleep(HOUR).await;
        assert_eq!(journal.read(), ["other"], "{limits_name}");
        assert_eq!(registry.may_start("other"), 1);
        registry.resume("mail");
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["other", "1", "2", "3"], "{limits_name}");
    }
}

#[tokio::test(start_paused = true)]
async fn running_tasks_go_on_and_their_retries_wait() {
    let (registry, attempts) = (TaskRegistry::new(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&attempts);
    let policy = RetryPolicy::constant(SECOND).attempts(3);
    let task = Task::retrying(policy, move || {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            sleep(SECOND).await;
            Err::<(), _>("fails")
        }
    });
    let handle = registry.spawn(task.named("mail"));
    turns().await;
    registry.pause("mail");
    assert_eq!(states(&registry), [(TaskState::Running, false)]);
    sleep(HOUR).await;
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
    assert_eq!(states(&registry), [(TaskState::Retrying, true)]);
    registry.resume("mail");
    assert!(matches!(handle.await, Outcome::Failed(_)));
    assert_eq!(attempts.load(Ordering::SeqCst), 3);
    assert_eq!(registry.name_limits()["mail"].in_use, 0);
}

#[tokio::test]
async fn closures_wait() {
    let registry = TaskRegistry::new();
    registry.pause("resize");
    let ran = Arc::new(AtomicUsize::new(0));
    let count = || {
        let ran = Arc::clone(&ran);
        move || _ = ran.fetch_add(1, Ordering::SeqCst)
    };
    let handles = [Task::blocking(count()), Task::cpu(count())].map(|task| registry.spawn(task.named("resize")));
    registry.spawn_blocking(|| ()).await;
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    registry.resume("resize");
    for handle in handles {
        assert!(handle.await.is_completed());
    }
    assert_eq!(ran.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_tasks_behind_it_in_its_set_wait() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let set = registry.set();
    for (entry, name) in [("1", "first"), ("2", "mail"), ("3", "last")] {
        set.add(note(&journal, entry).named(name));
    }
    registry.pause("mail");
    let drained = set.drain();
    sleep(HOUR).await;
    assert_eq!(journal.read(), ["1"]);
    assert_eq!(states(&registry), [(TaskState::Pending, true), (TaskState::Pending, false)]);
    registry.resume("mail");
    assert_eq!(drained.await.completed, 3);
    assert_eq!(journal.read(), ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn unnamed_tasks_can_be_paused() {
    let registry = TaskRegistry::new();
    registry.pause("unnamed");
    let handle = registry.spawn(async {});
    sleep(SECOND).await;
    assert_eq!(registry.metrics().pending, 1);
    registry.resume("unnamed");
    assert!(handle.await.is_completed());
}

#[tokio::test(start_paused = true)]
async fn paused_tasks_expire_and_can_be_aborted() {
    let registry = TaskRegistry::builder().limit_by_name("mail", 1).build().unwrap();
    let mail = || Task::new(async {}).named("mail");
    // The first has its permit, and the runtime has not polled it.
    let expires = [registry.spawn(mail().expires_after(SECOND)), registry.spawn(mail().expires_after(SECOND))];
    let aborted = [registry.spawn(mail()), registry.spawn(mail())];
    let stays = registry.spawn(mail());
    registry.pause("mail");
    sleep(HOUR).await;
    for handle in expires {
        assert!(matches!(handle.await, Outcome::Discarded(DiscardReason::Expired)));
    }
    for handle in aborted {
        assert!(handle.abort());
        assert!(matches!(handle.await, Outcome::Aborted));
    }
    registry.resume("mail");
    assert!(stays.await.is_completed());
    assert_eq!(registry.name_limits()["mail"].in_use, 0);
    assert_conserved(&registry, 5);
}

#[tokio::test(start_paused = true)]
async fn tasks_with_a_limited_key_wait_and_keep_the_limit_of_their_key() {
    let registry = TaskRegistry::builder().limit_by_key("mail", 1).build().unwrap();
    let journal = Journal::default();
    registry.pause("mail");
    for (entry, key) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        let journal = journal.clone();
        let work = async move {
            journal.note(entry);
            sleep(SECOND).await;
        };
        registry.spawn(Task::new(work).named("mail").key(key));
    }
    sleep(HOUR).await;
    assert!(journal.read().is_empty());
    assert_eq!(states(&registry), [(TaskState::Pending, true); 3]);
    registry.resume("mail");
    sleep(SECOND / 2).await;
    assert_eq!(journal.read(), ["a1", "b1"]);
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["a1", "b1", "a2"]);
}

#[tokio::test(start_paused = true)]
async fn a_paused_task_with_a_unique_key_is_replaced() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    registry.pause("mail");
    let [first, second] =
        ["1", "2"].map(|entry| registry.spawn(note(&journal, entry).key("a").unique(UniquePolicy::replace())));
    assert!(matches!(first.await, Outcome::Discarded(DiscardReason::Duplicate)));
    sleep(HOUR).await;
    assert_eq!(states(&registry), [(TaskState::Pending, true)]);
    registry.resume("mail");
    assert!(second.await.is_completed());
    assert_eq!(journal.read(), ["2"]);
}

#[cfg(feature = "rate-limit")]
#[tokio::test(start_paused = true)]
async fn tasks_with_a_rate_wait_and_keep_it() {
    let rate = postlude::RateLimit::per_second(1);
    let registry = TaskRegistry::builder().rate_limit("mail", rate).build().unwrap();
    let journal = Journal::default();
    registry.pause("mail");
    for entry in ["1", "2", "3"] {
        registry.spawn(note(&journal, entry));
    }
    sleep(HOUR).await;
    assert!(journal.read().is_empty());
    assert_eq!(registry.may_start("mail"), 0);
    registry.resume("mail");
    sleep(SECOND / 2).await;
    assert_eq!(journal.read(), ["1"]);
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_and_reports_paused_tasks_when_nothing_else_is_left() {
    let registry = TaskRegistry::new();
    let begun = tokio::time::Instant::now();
    registry.pause("mail");
    registry.spawn(Task::new(async {}).named("mail"));
    let set = registry.set();
    for name in ["first", "mail", "behind"] {
        set.add(Task::new(async {}).named(name));
    }
    drop(set);
    registry.spawn(Task::new(sleep(10 * SECOND)).named("runs"));
    let report = registry.shutdown(HOUR).await;
    assert!(begun.elapsed() < 60 * SECOND, "it did not wait for them");
    assert_eq!((report.completed, report.aborted.len()), (2, 0));
    let named = |task: &TaskInfo| (task.name.as_str(), task.paused);
    let mut lost: Vec<_> = report.discarded.iter().map(named).collect();
    lost.sort_unstable();
    assert_eq!(lost, [("behind", false), ("mail", true), ("mail", true)]);
    assert!(report.to_string().contains("`mail` (tests/behaviour/pause.rs"), "{report}");
    assert!(report.to_string().contains("pending, paused, "), "{report}");
    assert_conserved(&registry, 5);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_resumed_during_a_shutdown_runs() {
    let registry = TaskRegistry::new();
    registry.pause("mail");
    let mail = registry.spawn(Task::new(async {}).named("mail"));
    let other = registry.clone();
    registry.spawn(async move {
        sleep(10 * SECOND).await;
        other.resume("mail");
    });
    assert!(registry.shutdown(HOUR).await.is_clean());
    assert!(mail.await.is_completed());
}

#[tokio::test(start_paused = true)]
async fn paused_tasks_and_those_behind_them_are_left_out_of_the_ages() {
    let registry = TaskRegistry::new();
    registry.pause("mail");
    registry.spawn(Task::new(async {}).named("mail"));
    let set = registry.set();
    set.add(Task::new(async {}).named("mail"));
    set.add(Task::new(async {}).named("behind"));
    drop(set.drain());
    sleep(60 * SECOND).await;
    let metrics = registry.metrics();
    assert_eq!((metrics.pending, metrics.oldest_pending), (3, Duration::ZERO));
    assert_eq!(metrics.by_name()["mail"].oldest_pending, 60 * SECOND);
    assert_eq!((registry.oldest_pending().await, registry.ages().await.pending), (Duration::ZERO, Duration::ZERO));
    // Another task that waits counts.
    registry.pause("other");
    registry.spawn(Task::new(async {}).named("other"));
    sleep(SECOND).await;
    registry.resume("other");
    registry.set_limit("other", 1).unwrap();
    registry.spawn(Task::new(pending::<()>()).named("other"));
    registry.spawn(Task::new(async {}).named("other"));
    sleep(10 * SECOND).await;
    assert_eq!(registry.metrics().oldest_pending, 10 * SECOND);
    assert_eq!((registry.oldest_pending().await, registry.ages().await.pending), (10 * SECOND, 10 * SECOND));
}

#[tokio::test]
async fn the_metrics_of_a_name_tell() {
    let registry = TaskRegistry::builder().limit_by_name("mail", 3).build().unwrap();
    registry.pause("report");
    registry.spawn(Task::new(pending::<()>()).named("mail"));
    turns().await;
    let metrics = registry.metrics();
    let [mail, report] = ["mail", "report"].map(|name| &metrics.by_name()[name]);
    assert_eq!((mail.paused, mail.limit, mail.in_use, mail.running), (false, Some(3), 1, 1));
    assert_eq!((report.paused, report.limit, report.in_use, report.pending), (true, None, 0, 0));
}

#[tokio::test]
async fn a_change_of_limits_is_told_from_the_call_on() {
    let registry = TaskRegistry::new();
    let changes: [fn(&TaskRegistry); 4] = [
        |registry| _ = registry.pause("mail"),
        |registry| registry.set_limit("mail", 3).unwrap(),
        |registry| registry.remove_limit("mail"),
        |registry| _ = registry.resume("mail"),
    ];
    for change in changes {
        let changed = registry.limits_changed();
        change(&registry);
        changed.await;
    }
    let changed = registry.limits_changed();
    registry.resume("mail");
    tokio::select! {
        biased;
        () = changed => panic!("nothing has changed"),
        () = yield_now() => {}
    }
}

/// A name that is paused and resumed by other threads while tasks of it are spawned loses none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_task_is_lost_or_left_while_threads_pause_and_resume() {
    for limit in [1, 3, usize::MAX] {
        let registry = TaskRegistry::builder().max_concurrent(2).build().unwrap();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let registry = registry.clone();
                thread::spawn(move || {
                    for _ in 0..200 {
                        registry.pause("mail");
                        registry.spawn(Task::new(yield_now()).named("mail"));
                        registry.set_limit("mail", limit).unwrap();
                        let set = registry.set();
                        set.add(Task::new(async {}).named("mail"));
                        set.add(Task::blocking(|| ()).named("mail"));
                        drop(set);
                        registry.resume("mail");
                    }
                })
            })
            .collect();
        until(|| threads.iter().all(thread::JoinHandle::is_finished)).await;
        registry.resume("mail");
        registry.wait_idle().await;
        assert_conserved(&registry, 1_800);
        assert_eq!(registry.metrics().completed, 1_800);
        until(|| registry.name_limits()["mail"].in_use == 0).await;
    }
}

/// Once a pause has returned and those that had started have ended, nothing starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_while_it_is_paused_whatever_is_spawned_meanwhile() {
    let (registry, started) = (TaskRegistry::new(), Arc::new(AtomicUsize::new(0)));
    let running = Arc::new(AtomicUsize::new(0));
    for round in 0..100 {
        let spawner = {
            let (registry, started, running) = (registry.clone(), Arc::clone(&started), Arc::clone(&running));
            thread::spawn(move || {
                for _ in 0..100 {
                    let (started, running) = (Arc::clone(&started), Arc::clone(&running));
                    registry.spawn(
                        Task::new(async move {
                            running.fetch_add(1, Ordering::SeqCst);
                            started.fetch_add(1, Ordering::SeqCst);
                            running.fetch_sub(1, Ordering::SeqCst);
                        })
                        .named("mail"),
                    );
                }
            })
        };
        registry.pause("mail");
        until(|| registry.metrics().running == 0 && running.load(Ordering::SeqCst) == 0).await;
        let before = started.load(Ordering::SeqCst);
        until(|| spawner.is_finished()).await;
        turns().await;
        assert_eq!(started.load(Ordering::SeqCst), before, "{round}");
        registry.resume("mail");
        registry.wait_idle().await;
    }
    assert_eq!(started.load(Ordering::SeqCst), 10_000);
}
