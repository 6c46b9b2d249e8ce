//! A dead letter stays where it is while its replay is refused.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use postlude::{DeadLetters, ReplayError, RetryPolicy, Task, TaskId, TaskRegistry};

/// What another thread does with the letters while a replay is asked about.
type Meanwhile = fn(&DeadLetters, TaskId);

/// A registry with one letter, whose replays are refused, and its id.
async fn letter(meanwhile: Meanwhile) -> (TaskRegistry, TaskId) {
    let is_replaying = Arc::new(AtomicBool::new(false));
    let (flag, id) = (is_replaying.clone(), Arc::new(OnceLock::new()));
    let (registry, letter_id) = (Arc::new(OnceLock::<TaskRegistry>::new()), id.clone());
    let own = registry.clone();
    let builder = TaskRegistry::builder().admit(move |_| {
        if !flag.load(Ordering::SeqCst) {
            return Ok(());
        }
        let (letters, id) = (own.get().unwrap().dead_letters(), *letter_id.get().unwrap());
        std::thread::spawn(move || meanwhile(&letters, id)).join().unwrap();
        Err("not now".into())
    });
    let built = builder.build().unwrap();
    registry.set(built.clone()).unwrap();
    let failing = Task::retrying(RetryPolicy::default().attempts(1), || async { Err::<(), _>("down") });
    let handle = built.spawn(failing);
    id.set(handle.id()).unwrap();
    let id = handle.id();
    handle.await;
    built.wait_idle().await;
    is_replaying.store(true, Ordering::SeqCst);
    (built, id)
}

#[tokio::test]
async fn others_see_it_and_cannot_replay_it_twice() {
    let (registry, id) = letter(|letters, id| {
        assert_eq!((letters.len(), letters.list().len()), (1, 1));
        assert!(letters.find(id).unwrap().is_replayable);
        assert!(matches!(letters.replay(id), Err(ReplayError::InProgress { .. })));
    })
    .await;
    for _ in 0..2 {
        let error = registry.dead_letters().replay(id).unwrap_err();
        assert!(matches!(error, ReplayError::Rejected { .. }), "{error}");
    }
    assert_eq!(registry.dead_letters().len(), 1);
}

#[tokio::test]
async fn one_that_is_discarded_meanwhile_does_not_come_back() {
    let (registry, id) = letter(|letters, id| assert!(letters.discard(id))).await;
    let error = registry.dead_letters().replay(id).unwrap_err();
    assert!(matches!(error, ReplayError::Rejected { .. }), "{error}");
    assert!(registry.dead_letters().is_empty());
    assert!(matches!(registry.dead_letters().replay(id), Err(ReplayError::Unknown { .. })));
}
