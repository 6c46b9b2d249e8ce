//! The time limit of an attempt.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    engine::shared::{Expiry, Shared, TimeLimit},
    ledger::{finished::EndedBy, live::LiveTask},
    model::{Outcome, TaskId, TaskState},
    util::delay_queue::Key,
};

/// Handles an expired entry of the registry's timer.
pub(crate) fn expire(expiry: Expiry) {
    match expiry {
        Expiry::Hold(queue) => queue.release(),
        #[cfg(feature = "http")]
        Expiry::HoldLimit(limit) => limit.expire(),
        Expiry::TimeLimit(limit) => limit.expire(),
    }
}

impl TimeLimit {
    fn expire(self) {
        let Self { shared, id, attempt, duration, retries } = self;
        // The end of the runtime expires every entry. The runtime drops the task then, which has not timed out.
        if shared.ledger.has_runtime_ended() {
            return;
        }
        let is_running = |live: &LiveTask| live.attempt() == attempt && live.state() == TaskState::Running;
        if !shared.with_live(id, |live| is_running(live)).unwrap_or(false) {
            return;
        }
        if retries {
            shared.wake_or_detach(id);
        } else {
            shared.stop(id, |_| Outcome::TimedOut(duration), EndedBy::Caller);
        }
    }
}

/// Keeps a limit in the registry's timer until dropped.
pub(crate) struct TimeLimitGuard<'a> {
    shared: &'a Shared,
    /// `None` if the time can't be represented: the limit is never over.
    until: Option<Instant>,
    key: Option<Key>,
}

impl<'a> TimeLimitGuard<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, id: TaskId, attempt: u32, duration: Duration, retries: bool) -> Self {
        let limit = TimeLimit { shared: Arc::clone(shared), id, attempt, duration, retries };
        let until = shared.timer.now().checked_add(duration);
        let key = shared.timer.insert_after(duration, Expiry::TimeLimit(limit));
        Self { shared, until, key }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| self.shared.timer.now() >= until)
    }
}

impl Drop for TimeLimitGuard<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.timer.remove(key);
        }
    }
}
