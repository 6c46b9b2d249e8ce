//! The time limit of an attempt.

use std::{sync::Arc, time::Duration};

use crate::{
    engine::shared::{Expiry, Shared, TimeLimit},
    ledger::{finished::EndedBy, live::LiveTask},
    model::{Outcome, TaskId, TaskState},
    task::work::RunningLimit,
    util::{clock::Timestamp, delay_queue::EntryGuard},
};

/// Handles an expired entry of the registry's timer.
pub(crate) fn expire(expiry: Expiry) {
    match expiry {
        Expiry::Hold(queue) => queue.release(),
        #[cfg(feature = "http")]
        Expiry::HoldLimit(limit) => limit.expire(),
        Expiry::TimeLimit(limit) => limit.expire(),
        Expiry::StartLimit(limit) => limit.expire(),
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

/// Starts the time limit of attempt `attempt`, which began at `started`.
pub(crate) fn start(
    shared: &Arc<Shared>,
    id: TaskId,
    attempt: u32,
    duration: Duration,
    retries: bool,
    started: Timestamp,
) -> RunningLimit {
    let limit = TimeLimit { shared: Arc::clone(shared), id, attempt, duration, retries };
    let until = started.plus(duration);
    let key = until.to_instant().and_then(|until| shared.timer.insert_at(until, Expiry::TimeLimit(limit)));
    RunningLimit::new(until, duration, key.map(|key| EntryGuard::new(&shared.timer, key)))
}
