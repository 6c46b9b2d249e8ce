//! Limits of names that are set, changed and removed at run time.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postlude::{LimitError, Priority, RetryPolicy, Task, TaskHandle, TaskName, TaskRegistry};
use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep},
};

use crate::support::{Journal, SECOND, assert_conserved, until};

async fn turns() {
    for _ in 0..20 {
        yield_now().await;
    }
}

fn naps(registry: &TaskRegistry, count: usize, seconds: u32) -> Vec<TaskHandle> {
    // The sleep begins when the task starts.
    let nap = move || async move { sleep(seconds * SECOND).await };
    (0..count).map(|_| registry.spawn(Task::new(nap()).named("nap"))).collect()
}

#[tokio::test]
async fn zero_is_an_error_that_names_pause() {
    let registry = TaskRegistry::new();
    let error = registry.set_limit("mail", 0).unwrap_err();
    assert!(matches!(error, LimitError::Zero { name, .. } if name == "mail"));
    assert!(error.to_string().contains("`mail`") && error.to_string().contains("`pause`"), "{error}");
    assert!(registry.name_limits().is_empty());
}

#[tokio::test]
async fn a_name_that_was_not_interned_is_an_error_and_is_not_paused() {
    let registry = TaskRegistry::new();
    let [one, other] = ["a", "b"].map(|text| TaskName::intern(text.repeat(129)));
    assert!(matches!(registry.set_limit(one, 1), Err(LimitError::OtherName)));
    assert!(!registry.pause(one) && !registry.is_paused(other));
    assert!(registry.name_limits().is_empty());
}

#[tokio::test(start_paused = true)]
async fn tasks_that_started_before_the_first_limit_are_counted() {
    let registry = TaskRegistry::new();
    naps(&registry, 3, 10);
    let set = registry.set();
    set.add(Task::new(sleep(20 * SECOND)).named("nap"));
    drop(set);
    turns().await;
    registry.set_limit("nap", 2).unwrap();
    assert_eq!(registry.name_limits()["nap"].in_use, 4);
    naps(&registry, 2, 100);
    sleep(9 * SECOND).await;
    assert_eq!(registry.metrics().running, 4);
    // Three have ended, and one of the two starts.
    sleep(2 * SECOND).await;
    assert_eq!((registry.metrics().running, registry.metrics().pending), (2, 1));
    sleep(10 * SECOND).await;
    assert_eq!((registry.metrics().running, registry.metrics().pending), (2, 0));
    registry.wait_idle().await;
    assert_eq!(registry.name_limits()["nap"].in_use, 0);
}

#[tokio::test(start_paused = true)]
async fn a_retrying_task_that_started_before_is_counted_while_it_runs() {
    let registry = TaskRegistry::new();
    let policy = RetryPolicy::constant(10 * SECOND).attempts(2);
    let work = || async {
        sleep(SECOND).await;
        Err::<(), _>("fails")
    };
    registry.spawn(Task::retrying(policy, work).named("nap"));
    turns().await;
    registry.set_limit("nap", 1).unwrap();
    let other = naps(&registry, 1, 2);
    sleep(SECOND / 2).await;
    assert_eq!(registry.metrics().pending, 1);
    // Between its attempts it holds no permit.
    sleep(SECOND).await;
    assert_eq!((registry.metrics().pending, registry.metrics().retrying), (0, 1));
    registry.wait_idle().await;
    assert!(other.into_iter().all(|handle| handle.is_finished()));
    assert_eq!(registry.name_limits()["nap"].in_use, 0);
}

#[tokio::test]
async fn closures_that_started_before_are_counted() {
    let registry = TaskRegistry::new();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = oneshot::channel();
    let closure = registry.spawn(
        Task::blocking(move || {
            begin.send(()).unwrap();
            stopped.recv().unwrap_err();
        })
        .named("nap"),
    );
    begun.await.unwrap();
    registry.set_limit("nap", 1).unwrap();
    let next = registry.spawn(Task::new(async {}).named("nap"));
    turns().await;
    assert!(!next.is_finished());
    drop(stop);
    assert!(closure.await.is_completed() && next.await.is_completed());
    until(|| registry.name_limits()["nap"].in_use == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_lower_limit_waits_for_those_that_run_and_keeps_the_order() {
    let registry = TaskRegistry::builder().limit_by_name("nap", 4).build().unwrap();
    let journal = Journal::default();
    for (entry, seconds) in [("1", 4), ("2", 3), ("3", 2), ("4", 1), ("5", 1), ("6", 1), ("7", 1)] {
        let journal = journal.clone();
        registry.spawn(
            Task::new(async move {
                journal.note(entry);
                sleep(seconds * SECOND).await;
            })
            .named("nap"),
        );
    }
    turns().await;
    registry.set_limit("nap", 1).unwrap();
    sleep(Duration::from_millis(3_500)).await;
    assert_eq!(journal.read(), ["1", "2", "3", "4"]);
    let begun = Instant::now();
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["1", "2", "3", "4", "5", "6", "7"]);
    assert_eq!(begun.elapsed().as_millis(), 3_500, "one at a time");
}

/// They have their permits, and the runtime has not polled them, or they wait for `max_concurrent`.
#[tokio::test(start_paused = true)]
async fn a_lower_limit_holds_for_those_that_have_permits_and_have_not_started() {
    for max_concurrent in [1, 100] {
        let builder = TaskRegistry::builder().limit_by_name("nap", 4).max_concurrent(max_concurrent);
        let registry = builder.build().unwrap();
        let (journal, now) = (Journal::default(), Arc::new(AtomicUsize::new(0)));
        if max_concurrent == 1 {
            registry.spawn(sleep(SECOND));
        }
        for entry in ["1", "2", "3", "4", "5", "6"] {
            let (journal, now) = (journal.clone(), Arc::clone(&now));
            registry.spawn(
                Task::new(async move {
                    journal.note(entry);
                    assert_eq!(now.fetch_add(1, Ordering::SeqCst), 0, "{entry} runs alone");
                    sleep(SECOND).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                })
                .named("nap"),
            );
        }
        if max_concurrent == 1 {
            turns().await;
        }
        registry.set_limit("nap", 1).unwrap();
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["1", "2", "3", "4", "5", "6"], "{max_concurrent}");
        assert_eq!(registry.metrics().panicked, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_higher_limit_and_none_start_those_that_wait() {
    let registry = TaskRegistry::builder().limit_by_name("nap", 1).build().unwrap();
    naps(&registry, 1_000, 10);
    for (limit, running) in [(Some(3), 3), (Some(3), 3), (Some(700), 700), (None, 1_000)] {
        match limit {
            Some(limit) => registry.set_limit("nap", limit).unwrap(),
            None => registry.remove_limit("nap"),
        }
        sleep(Duration::from_millis(1)).await;
        assert_eq!(registry.metrics().running, running);
    }
    assert_eq!(registry.name_limits()["nap"].limit, None);
    assert_eq!(registry.may_start("nap"), usize::MAX);
    registry.set_limit("nap", 1_001).unwrap();
    assert_eq!(registry.may_start("nap"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_and_a_limit_are_apart() {
    let registry = TaskRegistry::new();
    registry.set_limit("nap", 2).unwrap();
    registry.pause("nap");
    naps(&registry, 5, 1);
    registry.set_limit("nap", 3).unwrap();
    sleep(SECOND).await;
    assert_eq!(registry.metrics().pending, 5);
    registry.remove_limit("nap");
    sleep(SECOND).await;
    assert_eq!(registry.metrics().pending, 5);
    registry.set_limit("nap", 3).unwrap();
    registry.resume("nap");
    sleep(SECOND / 2).await;
    assert_eq!(registry.metrics().running, 3);
}

#[tokio::test(start_paused = true)]
async fn priorities_hold_at_a_limit_that_is_set_later() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    registry.spawn(Task::new(sleep(SECOND)).named("nap"));
    turns().await;
    registry.set_limit("nap", 1).unwrap();
    for (entry, priority) in [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)] {
        let journal = journal.clone();
        registry.spawn(Task::new(async move { journal.note(entry) }).named("nap").priority(priority));
    }
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["high", "normal", "low"]);
}

/// A limit that is set while many threads spawn is never exceeded by tasks that start after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_limit_that_is_set_while_tasks_are_spawned_holds() {
    for _ in 0..50 {
        let registry = TaskRegistry::new();
        let now = Arc::new(AtomicUsize::new(0));
        let spawner = {
            let (registry, now) = (registry.clone(), Arc::clone(&now));
            std::thread::spawn(move || {
                for _ in 0..300 {
                    let now = Arc::clone(&now);
                    registry.spawn(
                        Task::new(async move {
                            now.fetch_add(1, Ordering::SeqCst);
                            yield_now().await;
                            now.fetch_sub(1, Ordering::SeqCst);
                        })
                        .named("nap"),
                    );
                }
            })
        };
        registry.set_limit("nap", 2).unwrap();
        // Those that ran before have ended, and from then on there are two at most.
        until(|| now.load(Ordering::SeqCst) <= 2).await;
        while !spawner.is_finished() || registry.metrics().running > 0 {
            assert!(now.load(Ordering::SeqCst) <= 2);
            yield_now().await;
        }
        registry.wait_idle().await;
        assert_conserved(&registry, 300);
        assert_eq!(registry.name_limits()["nap"].in_use, 0);
    }
}

#[tokio::test]
async fn a_task_that_is_aborted_before_it_starts_gives_its_place_back() {
    let registry = TaskRegistry::builder().limit_by_name("nap", 2).build().unwrap();
    let handles: Vec<_> = (0..4).map(|_| registry.spawn(Task::new(pending::<()>()).named("nap"))).collect();
    registry.set_limit("nap", 1).unwrap();
    turns().await;
    for handle in &handles[..3] {
        assert!(handle.abort());
    }
    turns().await;
    assert_eq!((registry.metrics().running, registry.metrics().pending), (1, 0));
    handles[3].abort();
    turns().await;
    assert_eq!(registry.name_limits()["nap"].in_use, 0);
}
