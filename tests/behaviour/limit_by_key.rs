//! Limits on the tasks of a name for each key.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use postlude::{BuildError, Outcome, Priority, RetryPolicy, Task, TaskKey, TaskRegistry};
use tokio::{sync::Semaphore, task::yield_now};

use crate::support::{Journal, assert_conserved, until};

fn task(work: impl Future<Output = ()> + Send + 'static, key: impl Into<TaskKey>) -> Task {
    Task::new(work).named("thumbnail").key(key)
}

#[test]
fn zero_and_two_limits_are_errors() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let builder = || TaskRegistry::builder().handle(runtime.handle().clone());
    let zero = builder().limit_by_key("thumbnail", 0).build().unwrap_err();
    assert!(matches!(zero, BuildError::ZeroLimitOfName { setting: "limit_by_key", .. }), "{zero}");
    let two = builder().limit_by_key("thumbnail", 1).limit_by_key("thumbnail", 2).build().unwrap_err();
    assert!(matches!(two, BuildError::TwoLimitsOfName { setting: "limit_by_key", .. }), "{two}");
    assert!(builder().limit_by_key("thumbnail", 1).limit_by_name("thumbnail", 2).build().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_key_exceeds_its_limit_and_all_run() {
    let registry = TaskRegistry::builder().limit_by_key("thumbnail", 2).limit_by_name("thumbnail", 5).build().unwrap();
    let running: Arc<Mutex<BTreeMap<u32, usize>>> = Arc::default();
    for number in 0..2_000_u32 {
        let (key, running) = (number % 7, Arc::clone(&running));
        let work = async move {
            *running.lock().unwrap().entry(key).or_default() += 1;
            yield_now().await;
            let mut all = running.lock().unwrap();
            assert!(all[&key] <= 2 && all.values().sum::<usize>() <= 5, "{all:?}");
            *all.get_mut(&key).unwrap() -= 1;
        };
        if number % 2 == 0 {
            registry.spawn(task(work, key));
        } else {
            registry.set().add(task(work, key));
        }
    }
    registry.wait_idle().await;
    assert_eq!(registry.metrics().completed, 2_000);
    assert_conserved(&registry, 2_000);
}

#[tokio::test]
async fn first_in_first_out_within_a_key_and_by_priority() {
    let registry = TaskRegistry::builder().limit_by_key("thumbnail", 1).build().unwrap();
    let (journal, gate) = (Journal::default(), Arc::new(Semaphore::new(0)));
    let first = Arc::clone(&gate);
    registry.spawn(task(async move { first.acquire().await.unwrap().forget() }, "a"));
    for name in ["1", "2", "3"] {
        registry.spawn(task(journal.task(name), "a"));
    }
    registry.spawn(task(journal.task("first"), "a").priority(Priority::High));
    registry.spawn(task(journal.task("other"), "b")).await;
    gate.add_permits(1);
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["other", "first", "1", "2", "3"]);
}

/// A key with very many tasks does not delay one with few, although all came later and share the limit of the name.
#[tokio::test]
async fn a_key_with_many_tasks_does_not_delay_one_with_few() {
    let registry = TaskRegistry::builder().limit_by_key("thumbnail", 2).limit_by_name("thumbnail", 2).build().unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..100_000 {
        let done = Arc::clone(&done);
        registry.spawn(task(
            async move {
                yield_now().await;
                done.fetch_add(1, Ordering::SeqCst);
            },
            "many",
        ));
    }
    let few: Vec<_> = (0..3).map(|_| registry.spawn(task(yield_now(), "few"))).collect();
    for task in few {
        assert!(task.await.is_completed());
    }
    assert!(done.load(Ordering::SeqCst) < 100, "{done:?}");
    registry.wait_idle().await;
    assert_eq!(done.load(Ordering::SeqCst), 100_000);
}

#[tokio::test]
async fn tasks_without_a_key_and_of_other_names_are_not_limited() {
    let registry = TaskRegistry::builder().limit_by_key("thumbnail", 1).build().unwrap();
    registry.spawn(task(std::future::pending(), "a"));
    yield_now().await;
    let completes =
        [Task::new(async {}).named("thumbnail"), Task::new(async {}).named("other").key("a"), task(async {}, "b")];
    for task in completes {
        assert!(registry.spawn(task).await.is_completed());
    }
}

#[tokio::test]
async fn a_closure_that_goes_on_holds_its_permit() {
    let registry = TaskRegistry::builder().limit_by_key("thumbnail", 1).build().unwrap();
    let (release, held) = mpsc::channel::<()>();
    let closure = Task::blocking(move || _ = held.recv()).named("thumbnail").key("a");
    let first = registry.spawn(closure.timeout(Duration::from_millis(5)));
    assert!(matches!(first.await, Outcome::TimedOut(_)));
    let second = registry.spawn(task(async {}, "a"));
    for _ in 0..50 {
        yield_now().await;
    }
    assert!(!second.is_finished());
    drop(release);
    assert!(second.await.is_completed());
}

#[tokio::test(start_paused = true)]
async fn a_retrying_task_holds_no_permit_between_attempts() {
    let registry = TaskRegistry::builder().limit_by_key("thumbnail", 1).build().unwrap();
    let policy = RetryPolicy::constant(Duration::from_secs(60)).attempts(2);
    let retrying = registry.spawn(Task::retrying(policy, || async { Err::<(), _>("fails") }).named("thumbnail").key(1));
    until(|| registry.metrics().retries > 0 || registry.tasks()[0].attempt == 1).await;
    assert!(registry.spawn(task(async {}, 1)).await.is_completed());
    assert!(!retrying.is_finished());
    retrying.await;
}

#[tokio::test]
async fn those_that_wait_can_be_aborted() {
    let registry = TaskRegistry::builder().limit_by_key("thumbnail", 1).build().unwrap();
    let first = registry.spawn(task(std::future::pending(), "a"));
    let waiting: Vec<_> = (0..10).map(|_| registry.spawn(task(async {}, "a"))).collect();
    yield_now().await;
    for task in &waiting[1..] {
        assert!(task.abort());
    }
    first.abort();
    assert!(waiting.into_iter().next().unwrap().await.is_completed());
    registry.wait_idle().await;
    assert_conserved(&registry, 11);
}
