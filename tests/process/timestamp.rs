//! Timestamps if the first clock that the process ever asked was far ahead of all others.

use std::time::Duration;

use postlude::TaskRegistry;
use tokio::{
    runtime::{Builder, Runtime},
    time::{advance, sleep},
};

use crate::{Test, child};

pub(crate) const TESTS: &[Test] =
    &[("timestamp::of_other_clocks_do_not_depend_on_first_clock", of_other_clocks_do_not_depend_on_first_clock)];

fn paused() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// In a child, which has asked no clock before.
fn of_other_clocks_do_not_depend_on_first_clock() {
    assert!(child::start(&["timestamp"]).wait().unwrap().success());
}

pub(crate) fn child() {
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
