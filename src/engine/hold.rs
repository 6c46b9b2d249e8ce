//! What keeps a set from draining while its response is on its way to the client, and for how long.

use std::{sync::Arc, time::Duration};

use crate::{
    engine::{set_queue::SetQueue, shared::Expiry},
    util::{
        clock::Timestamp,
        delay_queue::Key,
        loom::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
    },
};

/// A limit that is found over so much too late is not trusted at once: the machine was suspended, and the client has
/// had no chance since.
const SUSPENDED: Duration = Duration::from_secs(1);

/// The holds of a set: one of the response's body, and one of each chunk that the server has not released.
pub(crate) struct HoldState {
    /// Starts at 1, the hold of the body.
    count: AtomicUsize,
    wait: Mutex<Wait>,
}

/// The wait for the client.
#[derive(Default)]
struct Wait {
    body: BodyPhase,
    /// When the server last asked for more, or released a chunk before it could ask. `None`: not since the wait began.
    since: Option<Timestamp>,
    /// Where the timer knows the end of the wait.
    limit: Option<Key>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum BodyPhase {
    /// The server has to ask for the next frame.
    #[default]
    Unpolled,
    /// The server has asked, and the body has none yet. Nobody waits for the client.
    Pending,
    Ended,
}

impl Default for HoldState {
    fn default() -> Self {
        Self { count: AtomicUsize::new(1), wait: Mutex::default() }
    }
}

impl HoldState {
    /// Adds the hold of a chunk.
    pub(crate) fn add(&self) {
        // Relaxed: the chunk is handed to the server after this, so its release happens later.
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Releases a hold. Returns whether it was the last one.
    pub(crate) fn release(&self) -> bool {
        // AcqRel: the last release sees the limit.
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            return true;
        }
        let mut wait = self.wait.lock();
        if wait.body == BodyPhase::Unpolled {
            wait.since = Some(Timestamp::now());
        }
        false
    }

    /// Whether exactly one hold is left.
    pub(crate) fn is_one(&self) -> bool {
        // Relaxed: no data of other threads is read.
        self.count.load(Ordering::Relaxed) == 1
    }

    /// The server has polled the body.
    pub(crate) fn polled(&self, is_pending: bool) {
        let mut wait = self.wait.lock();
        wait.body = if is_pending { BodyPhase::Pending } else { BodyPhase::Unpolled };
        wait.since = Some(Timestamp::now());
    }

    /// The body has ended: from here on, the wait is for its chunks. Whether the timer knows the end of the wait.
    pub(crate) fn body_ended(&self) -> bool {
        let mut wait = self.wait.lock();
        wait.body = BodyPhase::Ended;
        wait.since = Some(Timestamp::now());
        wait.limit.is_some()
    }

    /// How much longer the wait for the client may last; `None` if it is over.
    fn rest(&self, within: Duration, now: Timestamp) -> Option<Duration> {
        let wait = self.wait.lock();
        let waited = match (wait.body, wait.since) {
            (BodyPhase::Pending, _) => Duration::ZERO,
            (BodyPhase::Unpolled | BodyPhase::Ended, since) => since.map_or(within, |since| now.since(since)),
        };
        within.checked_sub(waited).filter(|rest| !rest.is_zero())
    }

    /// Remembers where the timer knows the end of the wait; `false` if nothing is held any more.
    fn set_limit(&self, key: Key) -> bool {
        let mut wait = self.wait.lock();
        // Relaxed: the last release takes the limit under the lock, before this or after.
        let is_held = self.count.load(Ordering::Relaxed) != 0;
        if is_held {
            wait.limit = Some(key);
        }
        is_held
    }

    pub(crate) fn take_limit(&self) -> Option<Key> {
        self.wait.lock().limit.take()
    }
}

/// The limit of a set's wait for its client, as an entry of the registry's timer.
///
/// There is one entry a response. Polls of the body and releases of chunks only note their time, and the entry is
/// inserted again when it expires too early.
pub(crate) struct HoldLimit {
    queue: Arc<SetQueue>,
    within: Duration,
    due: Timestamp,
    /// The limit was already found expired too late once.
    looks_again: bool,
}

impl HoldLimit {
    pub(crate) fn start(queue: &Arc<SetQueue>, within: Duration) {
        Self::insert(queue, within, within, false);
    }

    fn insert(queue: &Arc<SetQueue>, within: Duration, rest: Duration, looks_again: bool) {
        let timer = &queue.shared().timer;
        let due = Timestamp::of(|| timer.now()).plus(rest);
        let limit = Self { queue: Arc::clone(queue), within, due, looks_again };
        // A time that can't be represented never comes.
        let key = due.to_instant().and_then(|at| timer.insert_at(at, Expiry::HoldLimit(limit)));
        if let Some(key) = key {
            if !queue.holds.set_limit(key) {
                timer.remove(key);
            }
        }
    }

    pub(crate) fn expire(self) {
        let Self { queue, within, due, looks_again } = self;
        if queue.shared().timer.is_closed() {
            return queue.hold_limit_over();
        }
        if !queue.is_held() {
            return;
        }
        let now = Timestamp::now();
        match queue.holds.rest(within, now) {
            Some(rest) => Self::insert(&queue, within, rest, false),
            None if !looks_again && now.since(due) >= SUSPENDED => Self::insert(&queue, within, within, true),
            None => queue.hold_limit_over(),
        }
    }
}
