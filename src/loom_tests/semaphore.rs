//! PrioritySemaphore where they meet those who give up.

use std::{
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use loom::thread;

use crate::{
    loom_tests::{Woken, check, poll_once},
    util::semaphore::PrioritySemaphore,
};

/// Seeded: `Acquire::drop` leaves the queue, and does not look whether it was handed a permit: nobody has it.
#[test]
fn a_permit_that_comes_back_to_one_who_gives_up_goes_to_the_next() {
    check(|| {
        let permits = PrioritySemaphore::new(1);
        let held = poll_once(permits.acquire(Duration::ZERO)).unwrap();
        let mut waiting = [permits.acquire(Duration::ZERO), permits.acquire(Duration::from_secs(1))];
        let woken = Arc::new(Woken::default());
        for waiting in &mut waiting {
            assert!(woken.poll(waiting).is_pending());
        }
        let [gives_up, mut stays] = waiting;
        let other = thread::spawn(move || drop(gives_up));
        drop(held);
        other.join().unwrap();
        assert!(woken.0.load(Ordering::SeqCst), "somebody was told");
        assert!(woken.poll(&mut stays).is_ready());
    });
}

/// Seeded: `Acquire::poll` looks for a free permit under one lock and takes its place in the queue under another: the
/// permit comes back in between, and nobody is woken.
#[test]
fn a_permit_that_comes_back_while_one_joins_the_queue_is_taken() {
    check(|| {
        let permits = PrioritySemaphore::new(1);
        let held = poll_once(permits.acquire(Duration::ZERO)).unwrap();
        let other = thread::spawn(move || drop(held));
        let woken = Arc::new(Woken::default());
        let mut waiting = permits.acquire(Duration::ZERO);
        let polled = woken.poll(&mut waiting);
        other.join().unwrap();
        let permit = match polled {
            Poll::Ready(permit) => permit,
            Poll::Pending => {
                assert!(woken.0.load(Ordering::SeqCst));
                poll_once(waiting).unwrap()
            }
        };
        assert!(poll_once(permits.acquire(Duration::ZERO)).is_none(), "there is one permit");
        drop(permit);
        assert!(poll_once(permits.acquire(Duration::ZERO)).is_some(), "which has come back");
    });
}

/// Seeded: `PrioritySemaphore::enqueue` looks for a free permit under one lock and takes its place under another.
#[test]
fn a_permit_that_comes_back_while_one_joins_before_it_is_polled_is_its_own() {
    check(|| {
        let permits = PrioritySemaphore::new(1);
        let held = poll_once(permits.acquire(Duration::ZERO)).unwrap();
        let other = thread::spawn(move || drop(held));
        let mut joined = permits.enqueue(Duration::ZERO);
        let woken = Arc::new(Woken::default());
        let at_once = woken.poll(&mut joined).is_ready();
        other.join().unwrap();
        assert!(at_once || woken.0.load(Ordering::SeqCst), "told");
        assert!(at_once || woken.poll(&mut joined).is_ready());
        drop(joined);
        assert!(poll_once(permits.acquire(Duration::ZERO)).is_some(), "passed on");
    });
}

/// Seeded: `PrioritySemaphore::set_paused` changes the state, and does not serve those that wait.
#[test]
fn one_who_joins_while_it_is_resumed_is_served() {
    check(|| {
        let permits = PrioritySemaphore::new(1);
        permits.set_paused(true);
        let resumed = Arc::clone(&permits);
        let other = thread::spawn(move || resumed.set_paused(false));
        let woken = Arc::new(Woken::default());
        let mut waiting = permits.acquire(Duration::ZERO);
        let at_once = woken.poll(&mut waiting).is_ready();
        other.join().unwrap();
        assert!(at_once || woken.0.load(Ordering::SeqCst), "told");
        assert!(at_once || woken.poll(&mut waiting).is_ready());
    });
}

/// Seeded: `Reservation::ready` looks under one lock, and leaves its waker under another.
#[test]
fn a_place_that_waits_for_the_limit_is_told_when_it_is_raised_or_another_leaves() {
    for raises in [false, true] {
        check(move || {
            let permits = PrioritySemaphore::new(2);
            let [first, second] = [(); 2].map(|()| permits.try_acquire().unwrap());
            permits.set_limit(Some(1));
            let place = second.reserve(Duration::ZERO);
            let place = place.try_start().err().expect("the other one is in use");
            let other = Arc::clone(&permits);
            let other = thread::spawn(move || {
                if raises {
                    other.set_limit(Some(2));
                    return Some(first);
                }
                drop(first);
                None
            });
            let woken = Arc::new(Woken::default());
            let mut ready = Box::pin(place.ready());
            let at_once = woken.poll(&mut ready).is_ready();
            let first = other.join().unwrap();
            assert!(at_once || woken.0.load(Ordering::SeqCst), "told");
            assert!(at_once || woken.poll(&mut ready).is_ready());
            drop(ready);
            assert!(place.try_start().is_ok());
            drop(first);
        });
    }
}
