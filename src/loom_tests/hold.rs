//! Models of the holds on a set whose response is on its way.

use std::{
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use http::StatusCode;
use loom::thread;

use crate::{
    http::release::Hold,
    loom_tests::{check, registry, run_drains, set},
    model::Ending,
};

/// Seeded: `Hold::release` loads the count and stores it: both holds find another one left, and the set waits for ever.
#[test]
fn the_last_of_two_releases_that_meet_releases_the_set() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        tasks.add(async {});
        let chunk = Hold::of_chunk(Arc::clone(&queue), Duration::MAX);
        let server = thread::spawn(move || chunk.release());
        Hold::of_body(queue, Duration::MAX).body_ended(Ending::Sent(StatusCode::OK));
        server.join().unwrap();
        // What was released expires now; a limit that can't be represented was never inserted.
        registry.shared.timer.close();
        run_drains();
        assert_eq!(registry.metrics().completed, 1, "still held");
    });
}

/// Seeded: `SetQueue::release` does not look at the phase: the set is drained twice at a time.
#[test]
fn a_release_that_meets_the_limit_releases_the_set_once() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        tasks.add(async {});
        let within = Duration::from_secs(1);
        let chunk = Hold::of_chunk(Arc::clone(&queue), within);
        Hold::of_body(Arc::clone(&queue), within).body_ended(Ending::Sent(StatusCode::OK));
        let server = thread::spawn(move || chunk.release());
        queue.hold_limit_over();
        server.join().unwrap();
        registry.shared.timer.poll_expired(&mut Context::from_waker(Waker::noop()));
        registry.shared.timer.close();
        run_drains();
        assert_eq!(registry.metrics().completed, 1);
    });
}
