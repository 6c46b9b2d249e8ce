//! Tasks that failed for good: kept, listed, replayed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use postlude::{
    DeadLetter, DiscardReason, Outcome, RejectReason, ReplayError, RetryPolicy, Task, TaskId, TaskRegistry,
};
use tokio::time::Instant;

use crate::support::{Bomb, Reports, SECOND, assert_conserved};

/// The receiver of a task: down until it recovers.
#[derive(Clone, Default)]
struct Receiver(Arc<AtomicBool>);

impl Receiver {
    fn recover(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn deliver(&self) -> Task {
        let receiver = self.clone();
        Task::retrying(RetryPolicy::constant(SECOND).attempts(3), move || {
            let up = receiver.0.load(Ordering::SeqCst);
            async move { if up { Ok(()) } else { Err("receiver is down") } }
        })
        .named("webhook")
    }
}

async fn dead(registry: &TaskRegistry, receiver: &Receiver) -> TaskId {
    let handle = registry.spawn(receiver.deliver());
    let id = handle.id();
    assert!(matches!(handle.await, Outcome::Failed(_)));
    id
}

fn ids(letters: &[DeadLetter]) -> Vec<TaskId> {
    letters.iter().map(|letter| letter.id).collect()
}

#[tokio::test(start_paused = true)]
async fn keep_each_attempt() {
    let registry = TaskRegistry::new();
    let set = registry.set();
    let id = set.add(Receiver::default().deliver());
    set.drain().await;
    let letter = registry.dead_letters().find(id).unwrap();
    assert_eq!((letter.id, letter.name.as_str(), letter.set), (id, "webhook", id.set()));
    assert!(letter.location.file() == file!());
    assert!(letter.is_replayable && letter.replay_of.is_none());
    let numbers: Vec<_> = letter.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(letter.attempts.iter().all(|attempt| attempt.outcome.to_string() == "failed: receiver is down"));
    let text = letter.to_string();
    assert!(text.contains("attempt 3") && text.contains("receiver is down"), "{text}");
    assert_eq!((registry.metrics().dead_letters, registry.metrics().failed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn keep_last_attempts_of_very_many() {
    let registry = TaskRegistry::new();
    let policy = RetryPolicy::constant(SECOND).attempts(100);
    registry.spawn(Task::retrying(policy, || async { Err::<(), _>("down") })).await;
    let attempts = &registry.dead_letters().list()[0].attempts;
    assert_eq!((attempts.len(), attempts[0].number, attempts[31].number), (32, 69, 100));
}

#[tokio::test(start_paused = true)]
async fn omit_aborted_cleared_and_completed() {
    let registry = TaskRegistry::builder().capacity(2).build().unwrap();
    let (hangs, _other) = (registry.spawn(std::future::pending::<()>()), registry.spawn(async {}));
    registry.spawn(async {});
    hangs.abort();
    registry.wait_idle().await;
    let set = registry.set();
    set.add(async {});
    set.clear();
    registry.wait_idle().await;
    assert_eq!(registry.metrics().completed, 1);
    assert!(registry.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn omit_task_aborted_in_last_attempt() {
    let registry = TaskRegistry::new();
    let once = RetryPolicy::default().attempts(1);
    let handle = registry.spawn(Task::retrying(once, std::future::pending::<()>));
    tokio::task::yield_now().await;
    handle.abort();
    assert!(matches!(handle.await, Outcome::Aborted));
    let closed = registry.spawn(Receiver::default().deliver().delay(Duration::MAX));
    registry.shutdown(SECOND).await;
    assert!(matches!(closed.await, Outcome::Discarded(DiscardReason::Closed)));
    assert!(registry.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_factory_that_panics_in_drop() {
    for kept in [1, 0] {
        let registry = TaskRegistry::builder().dead_letters(kept).build().unwrap();
        let bomb = Bomb;
        let task = Task::retrying(RetryPolicy::constant(SECOND), move || {
            let _held = &bomb;
            async { Err::<(), _>("the error") }
        });
        let outcome = registry.spawn(task).await;
        assert!(matches!(outcome, Outcome::Failed(_)), "{kept} kept: {outcome}");
        assert_eq!(registry.metrics().failed, 1);
    }
}

mod limit {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn evicts_and_counts_oldest() {
        let registry = TaskRegistry::builder().dead_letters(2).build().unwrap();
        let receivers: Vec<_> = (0..4).map(|_| Receiver::default()).collect();
        let mut dead_ids = Vec::new();
        for receiver in &receivers {
            dead_ids.push(dead(&registry, receiver).await);
        }
        registry.wait_idle().await;
        assert_eq!(ids(&registry.dead_letters().list()), dead_ids[2..]);
        let metrics = registry.metrics();
        assert_eq!((metrics.dead_letters, metrics.dead_letters_evicted, metrics.dead_letter_capacity), (2, 2, 2));
        let webhook = &metrics.by_name()["webhook"];
        assert_eq!((webhook.dead_letters, webhook.dead_letters_evicted), (2, 2));
        let held: Vec<_> = receivers.iter().map(|receiver| Arc::strong_count(&receiver.0)).collect();
        assert_eq!(held, [1, 1, 2, 2], "a letter holds on to what its factory has captured");

        let error = registry.dead_letters().replay(dead_ids[0]).unwrap_err();
        assert!(matches!(error, ReplayError::Unknown { id, .. } if id == dead_ids[0]));
        assert!(registry.dead_letters().discard(dead_ids[3]));
        assert!(!registry.dead_letters().discard(dead_ids[3]));
        assert_eq!(Arc::strong_count(&receivers[3].0), 1);
        assert_eq!(registry.metrics().by_name()["webhook"].dead_letters, 1);
        assert_eq!(registry.dead_letters().clear(), 1);
        assert_eq!(Arc::strong_count(&receivers[2].0), 1);
        let metrics = registry.metrics();
        let webhook = &metrics.by_name()["webhook"];
        assert_eq!((metrics.dead_letters, webhook.dead_letters, webhook.dead_letters_evicted), (0, 0, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn of_zero_keeps_nothing() {
        let called = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&called);
        let builder = TaskRegistry::builder().dead_letters(0);
        let registry = builder.on_dead_letter(move |_| noted.store(true, Ordering::SeqCst)).build().unwrap();
        let receiver = Receiver::default();
        dead(&registry, &receiver).await;
        registry.wait_idle().await;
        assert!(registry.dead_letters().is_empty() && !called.load(Ordering::SeqCst));
        assert_eq!(Arc::strong_count(&receiver.0), 1);
    }
}

mod replay {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_a_new_task() {
        let reports = Reports::default();
        let registry = TaskRegistry::builder().on_failure(reports.hook()).build().unwrap();
        let receiver = Receiver::default();
        let first = dead(&registry, &receiver).await;

        let replay = registry.dead_letters().replay(first).unwrap();
        let second = replay.id();
        assert_ne!(first, second);
        assert!(registry.tasks().iter().all(|task| (task.id, task.replay_of) == (second, Some(first))));
        assert_eq!(registry.tasks().len(), 1);
        assert!(registry.dead_letters().is_empty());
        assert!(matches!(replay.await, Outcome::Failed(_)));
        let letter = registry.dead_letters().find(second).unwrap();
        assert_eq!((letter.name.as_str(), letter.replay_of, letter.attempts.len()), ("webhook", Some(first), 3));
        assert_eq!(reports.read()[1].replay_of, Some(first));

        receiver.recover();
        let replay = registry.dead_letters().replay(second).unwrap();
        assert!(replay.await.is_completed());
        assert!(registry.dead_letters().is_empty());
        let metrics = registry.metrics();
        assert_eq!((metrics.added, metrics.failed, metrics.completed, metrics.retries), (3, 2, 1, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_timeout_and_policy_but_not_delay() {
        let registry = TaskRegistry::new();
        let hangs = Task::retrying(RetryPolicy::constant(SECOND).attempts(2), std::future::pending::<()>);
        let outcome = registry.spawn(hangs.timeout(5 * SECOND).delay(60 * SECOND)).await;
        assert!(matches!(outcome, Outcome::TimedOut(_)));
        let start = Instant::now();
        let id = registry.dead_letters().list()[0].id;
        assert!(matches!(registry.dead_letters().replay(id).unwrap().await, Outcome::TimedOut(_)));
        assert_eq!(start.elapsed(), 11 * SECOND);
    }

    #[tokio::test]
    async fn twice_at_once_succeeds_once() {
        let registry = TaskRegistry::builder().on_failure(|_| ()).build().unwrap();
        for _ in 0..200 {
            let once = RetryPolicy::default().attempts(1);
            let handle = registry.spawn(Task::retrying(once, || async { Err::<(), _>("down") }));
            let id = handle.id();
            handle.await;
            registry.wait_idle().await;
            let replay = || {
                let registry = registry.clone();
                std::thread::spawn(move || registry.dead_letters().replay(id).map(drop))
            };
            let (one, other) = (replay(), replay());
            let mut results = [one.join().unwrap(), other.join().unwrap()];
            results.sort_by_key(Result::is_err);
            assert!(
                matches!(results, [Ok(()), Err(ReplayError::Unknown { .. } | ReplayError::InProgress { .. })]),
                "{results:?}"
            );
            registry.wait_idle().await;
            assert_eq!(registry.dead_letters().clear(), 1, "that of the replay");
        }
        assert_conserved(&registry, 400);
    }

    #[tokio::test(start_paused = true)]
    async fn of_single_attempt_fails() {
        let registry = TaskRegistry::new();
        let handle = registry.spawn(Task::new(async { Err::<(), _>("gone") }).named("once"));
        let id = handle.id();
        handle.await;
        registry.spawn(Task::blocking(|| panic!("burst"))).await;
        registry.spawn(Task::new(std::future::pending::<()>()).timeout(SECOND)).await;
        registry.wait_idle().await;
        let letters = registry.dead_letters().list();
        let outcomes: Vec<_> = letters.iter().map(|letter| letter.attempts[0].outcome.label()).collect();
        assert_eq!(outcomes, ["failed", "panicked", "timed_out"]);
        assert!(letters.iter().all(|letter| !letter.is_replayable && letter.attempts.len() == 1));
        let error = registry.dead_letters().replay(id).unwrap_err();
        assert!(matches!(error, ReplayError::NotReplayable { id: named, .. } if named == id));
        assert!(error.to_string().contains("Task::retrying"), "{error}");
        assert_eq!(registry.dead_letters().len(), 3);
        assert!(registry.dead_letters().replay_all().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn that_is_rejected_keeps_letter() {
        let registry = TaskRegistry::builder().capacity(1).build().unwrap();
        let receiver = Receiver::default();
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(dead(&registry, &receiver).await);
            registry.wait_idle().await;
        }
        let busy = registry.spawn(std::future::pending::<()>());
        let error = registry.dead_letters().replay(all[1]).unwrap_err();
        assert!(matches!(error, ReplayError::Rejected { reason: RejectReason::Capacity, .. }), "{error}");
        assert_eq!(ids(&registry.dead_letters().list()), all);
        assert_conserved(&registry, 4);

        busy.abort();
        receiver.recover();
        let handles = registry.dead_letters().replay_all();
        assert_eq!(handles.len(), 1, "there is room for one");
        assert_eq!(ids(&registry.dead_letters().list()), all[1..]);
        registry.wait_idle().await;

        registry.shutdown(SECOND).await;
        let error = registry.dead_letters().replay(all[2]).unwrap_err();
        assert!(matches!(error, ReplayError::Rejected { reason: RejectReason::Closed, .. }), "{error}");
        assert_eq!(ids(&registry.dead_letters().list()), all[1..]);
    }
}

mod replay_all {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn replays_every_letter() {
        let registry = TaskRegistry::new();
        let receiver = Receiver::default();
        for _ in 0..5 {
            dead(&registry, &receiver).await;
        }
        registry.spawn(async { Err::<(), _>("only once") }).await;
        receiver.recover();
        let handles = registry.dead_letters().replay_all();
        assert_eq!(handles.len(), 5);
        for handle in handles {
            assert!(handle.await.is_completed());
        }
        assert_eq!(registry.dead_letters().len(), 1);
    }
}

mod on_dead_letter {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_called_once_and_may_replay() {
        let registry: Arc<Mutex<Option<TaskRegistry>>> = Arc::default();
        let seen: Arc<Mutex<Vec<TaskId>>> = Arc::default();
        let receiver = Receiver::default();
        let hook = {
            let (registry, seen, receiver) = (Arc::clone(&registry), Arc::clone(&seen), receiver.clone());
            move |letter: &DeadLetter| {
                seen.lock().unwrap().push(letter.id);
                let registry = registry.lock().unwrap().clone().unwrap();
                assert!(registry.dead_letters().find(letter.id).is_some());
                receiver.recover();
                registry.dead_letters().replay(letter.id).unwrap();
            }
        };
        let built = TaskRegistry::builder().on_dead_letter(hook).build().unwrap();
        *registry.lock().unwrap() = Some(built.clone());
        let id = dead(&built, &receiver).await;
        built.wait_idle().await;
        assert_eq!(*seen.lock().unwrap(), [id]);
        let metrics = built.metrics();
        assert_eq!((metrics.failed, metrics.completed, metrics.dead_letters, metrics.hook_panics), (1, 1, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn panic_is_counted() {
        let registry = TaskRegistry::builder().on_dead_letter(|_| panic!("no post today")).build().unwrap();
        dead(&registry, &Receiver::default()).await;
        registry.wait_idle().await;
        assert_eq!((registry.metrics().hook_panics, registry.dead_letters().len()), (1, 1));
    }
}
