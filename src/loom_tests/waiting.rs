//! Tasks that wait where they meet their abort.

use std::{sync::Arc, task::Waker};

use loom::{sync::atomic::Ordering, thread};

use crate::loom_tests::{Woken, check, registry, set};

/// Seeded: `SetQueue::park` looks whether the task is still in the line under one lock, and leaves the waker under another:
/// nobody wakes the drain.
#[test]
fn a_drain_that_waits_learns_of_the_abort_of_its_task() {
    check(|| {
        let registry = registry(None);
        let (tasks, line) = set(&registry);
        let id = tasks.add(async {});
        line.launch(None);
        let work = line.next().unwrap();
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || assert!(registry.abort(id)))
        };
        let woken = Arc::new(Woken::default());
        let waits = line.park(id, Waker::from(Arc::clone(&woken)));
        if woken.0.load(Ordering::SeqCst) {
            assert!(registry.shared.stuck.was_cut(id));
        }
        aborter.join().unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), waits, "it is woken, or sees that it need not wait");
        assert!(registry.shared.stuck.was_cut(id));
        drop(work);
        registry.shared.stuck.remove_cut(id);
    });
}

/// Seeded: `Shared::park` looks whether the task is listed under one lock, and leaves the waker under another.
#[test]
fn a_spawned_task_that_waits_learns_of_its_abort() {
    check(|| {
        let registry = registry(None);
        let id = registry.spawn(async {}).id();
        assert!(registry.shared.start(id));
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || assert!(registry.abort(id)))
        };
        let woken = Arc::new(Woken::default());
        let waits = registry.shared.park(id, Waker::from(Arc::clone(&woken)));
        aborter.join().unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), waits, "it is woken, or sees that it need not wait");
        assert!(registry.shared.stuck.was_cut(id));
        registry.shared.stuck.remove_cut(id);
    });
}
