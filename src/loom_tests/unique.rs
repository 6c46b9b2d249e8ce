//! UniqueKeys where a task that replaces another one meets its start or its end.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use loom::thread;

use crate::{
    limits::unique::{Claimed, UniqueKeys},
    loom_tests::{Woken, check},
    model::{KeyOfName, TaskId, TaskKey, UniquePolicy},
    util::clock::Timestamp,
};

const OLD: TaskId = TaskId { number: 1, index: 0 };
const NEW: TaskId = TaskId { number: 2, index: 0 };

fn key() -> KeyOfName {
    KeyOfName { name: "name".into(), key: TaskKey::from(1) }
}

/// Claims the key: the task that it replaces, and whether it must wait.
fn claim(keys: &UniqueKeys, id: TaskId) -> (Option<TaskId>, bool) {
    match keys.claim(&key(), id, UniquePolicy::replace(), Timestamp::now()) {
        Claimed::Accepted(accepted) => (accepted.replaces, accepted.waits),
        Claimed::Duplicate(of) => panic!("a duplicate of {of}"),
    }
}

/// Seeded: `begin` looks for the holder under one lock and notes the start under another: both tasks run.
#[test]
fn a_task_that_starts_while_it_is_replaced_runs_or_is_replaced() {
    check(|| {
        let keys = Arc::new(UniqueKeys::new());
        claim(&keys, OLD);
        let starting = Arc::clone(&keys);
        let other = thread::spawn(move || starting.begin(&key(), OLD).is_ok());
        let (replaced, waits) = claim(&keys, NEW);
        let has_started = other.join().unwrap();
        assert_eq!((replaced.is_none(), waits), (has_started, has_started));
        assert_eq!(keys.begin(&key(), NEW).is_ok(), !has_started);
    });
}

/// Seeded: `release` takes the waker under one lock and makes the next task the holder under another: nobody wakes it.
#[test]
fn a_task_that_waits_has_its_turn_when_the_other_one_ends() {
    check(|| {
        let keys = Arc::new(UniqueKeys::new());
        claim(&keys, OLD);
        assert!(keys.begin(&key(), OLD).is_ok());
        let ending = Arc::clone(&keys);
        let other = thread::spawn(move || ending.release(&key(), OLD));
        let (_, waits) = claim(&keys, NEW);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let polled = keys.poll_turn(&key(), NEW, &Context::from_waker(&waker));
        other.join().unwrap();
        if polled.is_pending() {
            assert!(waits && woken.0.load(Ordering::SeqCst));
        }
        let turn = keys.poll_turn(&key(), NEW, &Context::from_waker(Waker::noop()));
        assert!(matches!(turn, Poll::Ready(Ok(()))) && keys.begin(&key(), NEW).is_ok());
    });
}
