//! The time limit of an attempt.

use std::{sync::Arc, time::Duration};

use crate::{
    engine::shared::{Expiry, Shared, TimeLimit},
    ledger::{finished::EndedBy, live::LiveTask},
    model::{Outcome, TaskId, TaskState},
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

/// Starts the time limit of attempt `attempt`, which began at `started`. The timer forgets it when the guard is
/// dropped.
pub(crate) fn start(
    shared: &Arc<Shared>,
    id: TaskId,
    attempt: u32,
    duration: Duration,
    retries: bool,
    started: Timestamp,
) -> Option<EntryGuard> {
    let limit = TimeLimit { shared: Arc::clone(shared), id, attempt, duration, retries };
    // A time that can't be represented never comes.
    let key = shared.timer.insert_at(started.plus(duration).to_instant()?, Expiry::TimeLimit(limit))?;
    Some(EntryGuard::new(&shared.timer, key))
}
