//! Times where the first clock that the process ever asked was far ahead of all others: alone in its process.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::time::Duration;

use postlude::TaskRegistry;
use tokio::{
    runtime::{Builder, Runtime},
    time::{advance, sleep},
};

fn paused() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

#[test]
fn a_paused_clock_that_was_days_ahead_leaves_the_times_of_others_as_they_are() {
    paused().block_on(async {
        advance(Duration::from_secs(60 * 60 * 24 * 7)).await;
        TaskRegistry::new().spawn(async {}).await;
    });
    paused().block_on(async {
        let registry = TaskRegistry::new();
        let minute = registry.spawn(sleep(Duration::from_secs(60)));
        sleep(Duration::from_secs(10)).await;
        assert_eq!(registry.tasks()[0].age, Duration::from_secs(10));
        minute.await;
        assert_eq!(registry.history()[0].ran_for, Duration::from_secs(60));
    });
}
