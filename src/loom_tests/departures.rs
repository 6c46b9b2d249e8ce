//! Models of responses that are leaving.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use loom::thread;

use crate::{
    http::release::Departure,
    loom_tests::{check, registry, run_drains, set},
    model::Ending,
};

/// Seeded: `Timetable::turn` looks again, after its lock, whether what it found held is held, and passes over the rest:
/// the task stays pending.
#[test]
fn a_release_that_meets_a_turn_of_the_timetable_is_noticed() {
    check(|| {
        let registry = registry(None);
        registry.inner.no_timer.store(true, Ordering::SeqCst);
        let timetable = &registry.inner.timetable;
        // So that a turn is at hand.
        timetable.soon(&set(&registry).1);
        let (tasks, line) = set(&registry);
        tasks.add(async {});
        // Without a limit, to be launched only if the release is noticed.
        let departure = || Departure { line: Arc::clone(&line), launch_within: Duration::MAX };
        let chunk = departure().watch(Bytes::from_static(b"an answer"));
        departure().body_ended(timetable, Ending::Sent(StatusCode::OK));
        let server = thread::spawn(move || drop(chunk));
        let (due, _) = timetable.turn(&mut Context::from_waker(Waker::noop()));
        server.join().unwrap();
        due.into_iter().for_each(|line| line.left());
        // Launches what is noted.
        timetable.end();
        run_drains();
        assert_eq!(registry.metrics().completed, 1, "still leaving");
    });
}
