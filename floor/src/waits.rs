//! The waits of responses: for the client, with a limit, and for the last write.
//!
//! A server releases some bytes just before it writes them, so a set waits a moment more after its last bytes were
//! released. And a client that does not read must not hold up its tasks for ever, so the wait for it has a limit, from
//! the head of the response on, and again from the end of its body on.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{Arc, Weak, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::Set;

/// How long a set waits for the last write.
const LAST_WRITE: Duration = Duration::from_millis(2);
/// How long a set waits for its client.
const CLIENT: Duration = Duration::from_secs(5);

/// The sets that wait, and a task that ends their waits.
pub(crate) struct Waits {
    /// How many requests are being handled.
    pub(crate) handled: AtomicUsize,
    state: Mutex<State>,
    inserted: Notify,
}

#[derive(Default)]
struct State {
    /// Those that wait for the last write, the earliest first.
    soon: VecDeque<(Instant, Arc<Set>)>,
    /// Those that wait for their client.
    limits: BTreeMap<Key, Arc<Limit>>,
    last_number: u64,
    /// When the task looks next.
    next: Option<Instant>,
}

/// When a wait ends, and a number for those of the same time.
type Key = (Instant, u64);

/// The limit of a set's wait for its client.
pub(crate) struct Limit {
    set: Arc<Set>,
    /// Where the waits have it, and since when it waits.
    wait: Mutex<(Key, Instant)>,
}

impl Waits {
    /// Starts the task, which ends when the waits are dropped.
    #[expect(clippy::disallowed_methods, reason = "a peer of what spawns for others")]
    pub(crate) fn start() -> Arc<Self> {
        let waits = Arc::new(Self { handled: AtomicUsize::new(0), state: Mutex::default(), inserted: Notify::new() });
        tokio::spawn(Self::run(Arc::downgrade(&waits)));
        waits
    }

    async fn run(waits: Weak<Self>) {
        while let Some(waits) = waits.upgrade() {
            match waits.expire(Instant::now()) {
                Some(next) => sleep_until(next).await,
                None => waits.inserted.notified().await,
            }
        }
    }

    /// Ends the waits that are over. Returns when the next one may be.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let (mut over, mut late) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        while state.soon.front().is_some_and(|(at, _)| *at <= now) {
            over.extend(state.soon.pop_front().map(|(_, set)| set));
        }
        while state.limits.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            late.extend(state.limits.pop_first().map(|(_, limit)| limit));
        }
        for limit in late {
            let mut wait = limit.wait.lock();
            if wait.1 + CLIENT <= now {
                over.push(Arc::clone(&limit.set));
            } else {
                wait.0 = (wait.1 + CLIENT, wait.0.1);
                let key = wait.0;
                drop(wait);
                state.limits.insert(key, limit);
            }
        }
        // While there is something to wait for, it looks so often that no insertion has to wake it.
        let is_busy = !state.soon.is_empty() || !state.limits.is_empty() || !over.is_empty();
        state.next = is_busy.then(|| now + LAST_WRITE);
        let next = state.next;
        drop(state);
        over.into_iter().for_each(Set::drain);
        next
    }

    fn insert<R>(&self, insert: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let inserted = insert(&mut state);
        let is_asleep = state.next.is_none();
        drop(state);
        if is_asleep {
            self.inserted.notify_one();
        }
        inserted
    }

    /// There is a response, and its set has a task.
    pub(crate) fn head(&self, set: &Arc<Set>) -> Arc<Limit> {
        let now = Instant::now();
        self.insert(|state| {
            state.last_number += 1;
            let key = (now + CLIENT, state.last_number);
            let limit = Arc::new(Limit { set: Arc::clone(set), wait: Mutex::new((key, now)) });
            state.limits.insert(key, Arc::clone(&limit));
            limit
        })
    }

    /// The bytes were released: drains the set when they had the time to be written.
    pub(crate) fn released(&self, set: Arc<Set>, limit: Option<Arc<Limit>>) {
        let at = Instant::now() + LAST_WRITE;
        self.insert(|state| {
            if let Some(limit) = limit {
                state.limits.remove(&limit.wait.lock().0);
            }
            state.soon.push_back((at, set));
        });
    }
}

impl Limit {
    /// The server has asked for more, or has taken the body to its end.
    pub(crate) fn polled(&self) {
        self.wait.lock().1 = Instant::now();
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        // Ends the task.
        self.inserted.notify_one();
        mem::take(&mut self.state.get_mut().soon).into_iter().for_each(|(_, set)| set.drain());
    }
}
