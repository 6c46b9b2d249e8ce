//! Tasks that wait, or are polled, where they meet their abort.

use std::{sync::Arc, task::Waker};

use loom::{sync::atomic::Ordering, thread};

use crate::{
    engine::{
        drain::next,
        set_queue::PollPermission,
        shared::{OfName, Start},
    },
    loom_tests::{SPAWNED, Woken, check, registry, run_drains, set},
};

/// Seeded: `PollMark::stop` stores `STOPPED` without a look whether the task is inside a poll: the drain that polls it
/// goes on with the set, and so does another.
#[test]
fn an_abort_that_meets_a_poll_leaves_the_set_to_one_drain() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        let id = tasks.add(async {});
        tasks.add(async {});
        queue.drain(None);
        SPAWNED.with_borrow_mut(Vec::clear);
        let work = next(&queue).unwrap();
        assert!(queue.with_live(id, |live| live.park(Waker::noop().clone())).is_some() && queue.end_poll(id));
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || assert!(registry.abort(id)))
        };
        // The drain is woken for another reason.
        let goes_on = match queue.begin_poll(id) {
            PollPermission::Granted => queue.end_poll(id),
            PollPermission::Stopped => true,
            PollPermission::Superseded => false,
        };
        aborter.join().unwrap();
        let is_superseded = !goes_on || matches!(queue.begin_poll(id), PollPermission::Superseded);
        drop(work);
        registry.shared.abandoned.dropped(id);
        let others = SPAWNED.with_borrow(Vec::len);
        assert_eq!(others, usize::from(is_superseded), "one drain, this one or another");
        if is_superseded {
            run_drains();
        } else {
            super::drain(&queue);
        }
        let metrics = registry.metrics();
        assert_eq!((metrics.aborted, metrics.completed), (1, 1), "{metrics:?}");
    });
}

/// Seeded: the drain leaves its waker after it has marked the task as waiting: nobody wakes the drain.
#[test]
fn a_drain_that_waits_learns_of_the_abort_of_its_task() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        let id = tasks.add(async {});
        queue.drain(None);
        let work = next(&queue).unwrap();
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || assert!(registry.abort(id)))
        };
        let woken = Arc::new(Woken::default());
        let is_live = queue.with_live(id, |live| live.park(Waker::from(Arc::clone(&woken)))).is_some();
        let waits = is_live && queue.end_poll(id);
        aborter.join().unwrap();
        assert!(!waits || woken.0.load(Ordering::SeqCst), "it is woken, or need not wait");
        drop(work);
        assert!(registry.shared.abandoned.dropped(id).is_some());
        assert!(registry.shared.abandoned.not_dropped() == 0);
    });
}

/// Seeded: `Spawned::park` looks whether the task is live under one lock, and leaves the waker under another.
#[test]
fn a_spawned_task_that_waits_learns_of_its_abort() {
    check(|| {
        let registry = registry(None);
        let id = registry.spawn(async {}).id();
        assert!(matches!(registry.shared.start(id, OfName::None), Start::At(_)));
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || assert!(registry.abort(id)))
        };
        let woken = Arc::new(Woken::default());
        let waits = registry.shared.with_live(id, |live| live.park(Waker::from(Arc::clone(&woken)))).is_some();
        aborter.join().unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), waits, "it is woken, or need not wait");
        assert!(registry.shared.abandoned.is_stopped(id));
        assert!(registry.shared.abandoned.dropped(id).is_some());
    });
}
