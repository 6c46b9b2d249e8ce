//! The time limit of an attempt.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    engine::{queue::SetQueue, shared::Shared},
    ledger::finished::EndedBy,
    model::{Outcome, TaskId, TaskState},
    util::delay_queue::Key,
};

/// What the registry's timer does when an entry expires.
pub(crate) enum Expiry {
    /// A set has waited long enough for its response.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only responses are held"))]
    Hold(Arc<SetQueue>),
    /// The time of an attempt is over.
    Limit(Limit),
}

impl Expiry {
    pub(crate) fn run(self) {
        match self {
            Self::Hold(queue) => queue.release(),
            Self::Limit(limit) => limit.expire(),
        }
    }
}

/// The time limit of one attempt of a future.
///
/// A future that waits is dropped by the task that runs it. A future that is inside a poll can't be dropped: its task ends
/// without it, and its set goes on. If another attempt may follow, that has to wait until the poll returns.
pub(crate) struct Limit {
    shared: Arc<Shared>,
    id: TaskId,
    attempt: u32,
    duration: Duration,
    retries: bool,
}

impl Limit {
    fn expire(self) {
        let Self { shared, id, attempt, duration, retries } = self;
        let runs =
            |live: &crate::ledger::live::LiveTask| live.attempt() == attempt && live.state() == TaskState::Running;
        if !shared.with_live(id, |live| runs(live)).unwrap_or(false) {
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
pub(crate) struct LimitGuard<'a> {
    shared: &'a Shared,
    /// `None`: the moment can't be represented, so the limit is never over.
    until: Option<Instant>,
    key: Option<Key>,
}

impl<'a> LimitGuard<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, id: TaskId, attempt: u32, duration: Duration, retries: bool) -> Self {
        let limit = Limit { shared: Arc::clone(shared), id, attempt, duration, retries };
        let until = shared.timer.now().checked_add(duration);
        let key = shared.timer.insert_after(duration, Expiry::Limit(limit));
        Self { shared, until, key }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| self.shared.timer.now() >= until)
    }
}

impl Drop for LimitGuard<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.timer.remove(key);
        }
    }
}
