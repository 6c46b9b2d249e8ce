//! Since when the oldest tasks have been waiting or running.

use std::time::Duration;

use crate::{ledger::live::LiveTask, util::clock::Timestamp};

/// Since when the oldest of some tasks have been pending, or in their current attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Oldest {
    pub(crate) pending: Option<Timestamp>,
    pub(crate) running: Option<Timestamp>,
}

impl Oldest {
    pub(crate) fn of(task: &LiveTask) -> Self {
        Self { pending: task.pending_since(), running: task.running_since() }
    }

    /// That of both together.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.pending = earlier(self.pending, other.pending);
        self.running = earlier(self.running, other.running);
    }

    /// The ages of the pending and of the running one; zero without one.
    pub(crate) fn ages(self, now: Timestamp) -> [Duration; 2] {
        [self.pending, self.running].map(|since| age(since, now))
    }
}

/// The earlier of two times, if there are two.
pub(crate) fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// The time since then; zero without one.
pub(crate) fn age(since: Option<Timestamp>, now: Timestamp) -> Duration {
    since.map(|since| now.since(since)).unwrap_or_default()
}
