//! One timer for all waits of a registry.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{self, Instant},
};

use crate::util::{
    loom::Mutex,
    panic::{catch_panic, drop_catching},
};

/// How many entries one poll of the driver expires before it yields to the runtime.
const ENTRIES_PER_POLL: usize = 64;

/// Keeps the timer armed for a while after the last entry, so that a busy server need not re-arm it on the response
/// path. Arming it may wake a thread that then competes with the task that is about to write the response.
const LINGER: Duration = Duration::from_secs(1);

/// Values that expire, and tasks that [sleep](Self::sleep), on the clock of one runtime.
///
/// A tokio timer for each wait would cost a registration and a waker per wait. Over HTTP/2, a task that is woken or
/// spawned at the end of a body would also run before the task that writes the body. So all waits share one tokio timer
/// and one driver.
///
/// # Invariants
/// 1. While there is an entry, the timer is armed for the earliest entry or an earlier time, or the driver is scheduled
///    to run.
/// 2. When the driver is dropped with its runtime, every entry expires, and every later one expires at once.
/// 3. No other lock of this crate is taken under this lock. Wakers are woken and values expire without it.
pub(crate) struct DelayQueue<T> {
    runtime: Handle,
    /// How long after its insertion a value expires that is given no moment.
    delay: Duration,
    expire: fn(T),
    state: Mutex<State<T>>,
}

struct State<T> {
    /// Values with the queue's own delay, the earliest first.
    soon: VecDeque<(Instant, T)>,
    /// All other entries.
    timed: BTreeMap<Key, Entry<T>>,
    next_number: u64,
    timer: Option<Timer>,
    /// The driver's waker; `None` before its first run.
    driver: Option<Waker>,
    /// Whether an entry was inserted since the driver last found none.
    is_busy: bool,
    /// Whether the runtime has ended.
    is_closed: bool,
}

enum Entry<T> {
    Value(T),
    Sleeper(Waker),
}

/// The key of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    at: Instant,
    /// Distinguishes entries of the same time.
    number: u64,
}

struct Timer {
    at: Instant,
    sleep: Pin<Box<time::Sleep>>,
}

impl<T: Send + 'static> DelayQueue<T> {
    /// A queue on the clock of `runtime`. A value that is [inserted](Self::insert) expires after `delay`.
    pub(crate) fn new(runtime: Handle, delay: Duration, expire: fn(T)) -> Arc<Self> {
        let state = State {
            soon: VecDeque::new(),
            timed: BTreeMap::new(),
            next_number: 0,
            timer: None,
            driver: None,
            is_busy: false,
            is_closed: false,
        };
        Arc::new(Self { runtime, delay, expire, state: Mutex::new(state) })
    }

    /// Whether the runtime has a timer. Tokio has no other way to check this.
    pub(crate) fn has_timer(runtime: &Handle) -> bool {
        let made = catch_panic(|| {
            let _entered = runtime.enter();
            drop(time::sleep(Duration::ZERO));
        });
        made.is_ok()
    }

    /// The time on the runtime's clock, which may be paused even if the caller's clock is not.
    pub(crate) fn now(&self) -> Instant {
        // Code that runs in the runtime has its clock, and entering a runtime costs more than asking which one it is.
        if Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id()) {
            return Instant::now();
        }
        let now = catch_panic(|| {
            let _entered = self.runtime.enter();
            Instant::now()
        });
        // On a thread that is ending, entering a runtime panics.
        now.unwrap_or_else(|_| Instant::now())
    }

    /// Expires the value after the queue's own delay.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only responses are held"))]
    pub(crate) fn insert(self: &Arc<Self>, value: T) {
        let at = self.now() + self.delay;
        if let Err(value) = self.write(at, value, |state, value| state.soon.push_back((at, value))) {
            (self.expire)(value);
        }
    }

    /// Expires the value after `delay`, unless it is removed before. `None` if there is nothing to remove: the value
    /// has expired at once because the runtime has ended, or it never expires because the time can't be represented.
    #[cfg_attr(all(not(feature = "http"), not(test)), expect(dead_code, reason = "only responses are held"))]
    pub(crate) fn insert_after(self: &Arc<Self>, delay: Duration, value: T) -> Option<Key> {
        self.insert_at(self.now().checked_add(delay)?, value)
    }

    /// The same at a moment of the runtime's clock.
    pub(crate) fn insert_at(self: &Arc<Self>, at: Instant, value: T) -> Option<Key> {
        match self.write(at, value, |state, value| state.add(at, Entry::Value(value))) {
            Ok(key) => Some(key),
            Err(value) => {
                (self.expire)(value);
                None
            }
        }
    }

    /// The number of entries.
    #[cfg(test)]
    #[cfg(not(postlude_loom))]
    pub(crate) fn len(&self) -> usize {
        let state = self.state.lock();
        state.soon.len() + state.timed.len()
    }

    /// Whether every entry expires at once, because the runtime has ended.
    #[cfg(feature = "http")]
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Removes an entry, and drops it without the lock. A panic of its drop is caught.
    pub(crate) fn remove(&self, key: Key) {
        let removed = self.state.lock().timed.remove(&key);
        drop_catching(removed);
    }

    /// Waits for `duration`, or forever if the time can't be represented.
    pub(crate) fn sleep(self: &Arc<Self>, duration: Duration) -> Sleep<T> {
        Sleep { queue: Arc::clone(self), until: self.now().checked_add(duration), key: None }
    }

    /// Adds an entry, and arms the timer or spawns the driver if needed. Returns the value if the runtime has ended.
    fn write<V, R>(self: &Arc<Self>, at: Instant, value: V, add: impl FnOnce(&mut State<T>, V) -> R) -> Result<R, V> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(value);
        }
        let added = add(&mut state, value);
        state.is_busy = true;
        if state.is_late(at) {
            drop(state);
            self.arm(at);
        }
        Ok(added)
    }

    /// Spawns the driver, once. `on_end` is called when the runtime ends; it must not keep the queue alive.
    #[cfg_attr(all(test, postlude_loom), expect(dead_code, reason = "models have no runtime that runs"))]
    #[expect(clippy::disallowed_methods, reason = "the driver belongs to no task")]
    pub(crate) fn start(self: &Arc<Self>, on_end: impl FnOnce() + Send + 'static) {
        let driver = DelayDriver { queue: Arc::downgrade(self), on_end: Some(Box::new(on_end)) };
        drop(self.runtime.spawn(driver));
    }

    /// Arms the driver's timer without waking the driver, because the driver would then run before other tasks that the
    /// caller wakes.
    fn arm(&self, at: Instant) {
        // If the runtime has ended, or this thread is ending, there is no timer.
        let sleep = catch_panic(|| {
            let _entered = self.runtime.enter();
            Box::pin(time::sleep_until(at))
        });
        let mut state = self.state.lock();
        // If the driver has not run yet, it will arm the timer itself.
        let Some(driver) = state.driver.clone() else { return };
        if !state.is_late(at) {
            return;
        }
        let polled = sleep.and_then(|mut sleep| {
            let is_over = catch_panic(|| sleep.as_mut().poll(&mut Context::from_waker(&driver)))?.is_ready();
            Ok((sleep, is_over))
        });
        let Ok((sleep, false)) = polled else {
            drop(state);
            return driver.wake();
        };
        let replaced = state.timer.replace(Timer { at, sleep });
        drop(state);
        drop(replaced);
    }

    /// Expires entries that are due. Returns their number and the time of the next poll.
    pub(crate) fn poll_expired(&self, context: &mut Context<'_>) -> (usize, Option<Instant>) {
        let now = self.now();
        let mut state = self.state.lock();
        if !state.driver.as_ref().is_some_and(|driver| driver.will_wake(context.waker())) {
            state.driver = Some(context.waker().clone());
        }
        let due = state.take_due(now);
        let next = state.earliest().or_else(|| mem::take(&mut state.is_busy).then(|| now + LINGER));
        // Drop the timer if it was armed for another time or has fired.
        let spent = state.timer.take_if(|timer| {
            next != Some(timer.at)
                || catch_panic(|| timer.sleep.as_mut().poll(context)).map_or(true, |poll| poll.is_ready())
        });
        drop(state);
        drop(spent);
        let count = due.len();
        self.expire_all(due);
        (count, next)
    }

    /// Expires every entry, and from now on each new one at once.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let soon = mem::take(&mut state.soon);
        let timed = mem::take(&mut state.timed);
        let timer = state.timer.take();
        drop(state);
        drop(timer);
        let soon = soon.into_iter().map(|(_, value)| Entry::Value(value));
        self.expire_all(soon.chain(timed.into_values()));
    }

    fn expire_all(&self, entries: impl IntoIterator<Item = Entry<T>>) {
        for entry in entries {
            match entry {
                Entry::Value(value) => (self.expire)(value),
                // The waker may be foreign code, if the sleeping task runs on another executor than tokio's.
                Entry::Sleeper(waker) => drop(catch_panic(|| waker.wake())),
            }
        }
    }
}

impl<T> State<T> {
    /// Whether the timer would fire too late for this time.
    fn is_late(&self, at: Instant) -> bool {
        self.timer.as_ref().is_none_or(|timer| at < timer.at)
    }

    fn earliest(&self) -> Option<Instant> {
        let soon = self.soon.front().map(|(at, _)| *at);
        let timed = self.timed.first_key_value().map(|(key, _)| key.at);
        soon.into_iter().chain(timed).min()
    }

    fn add(&mut self, at: Instant, entry: Entry<T>) -> Key {
        self.next_number += 1;
        let key = Key { at, number: self.next_number };
        self.timed.insert(key, entry);
        key
    }

    fn take_due(&mut self, now: Instant) -> Vec<Entry<T>> {
        let mut due = Vec::with_capacity(self.soon.len().min(ENTRIES_PER_POLL));
        while due.len() < ENTRIES_PER_POLL && self.soon.front().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.soon.pop_front().map(|(_, value)| Entry::Value(value)));
        }
        while due.len() < ENTRIES_PER_POLL && self.timed.first_key_value().is_some_and(|(key, _)| key.at <= now) {
            due.extend(self.timed.pop_first().map(|(_, entry)| entry));
        }
        // Free memory when most of the capacity is unused.
        if self.soon.capacity() > 1024 && self.soon.len() < self.soon.capacity() / 8 {
            self.soon.shrink_to(self.soon.len() * 2);
        }
        due
    }
}

impl<T> Drop for DelayQueue<T> {
    fn drop(&mut self) {
        // Wake the driver, so that it ends.
        if let Some(driver) = self.state.get_mut().driver.take() {
            driver.wake();
        }
    }
}

/// Removes an entry when dropped.
pub(crate) struct EntryGuard {
    queue: Arc<dyn Remove>,
    key: Key,
}

impl EntryGuard {
    pub(crate) fn new<T: Send + 'static>(queue: &Arc<DelayQueue<T>>, key: Key) -> Self {
        Self { queue: Arc::clone(queue) as Arc<dyn Remove>, key }
    }
}

impl Drop for EntryGuard {
    fn drop(&mut self) {
        self.queue.remove(self.key);
    }
}

/// A queue of values of any type.
trait Remove: Send + Sync {
    fn remove(&self, key: Key);
}

impl<T: Send + 'static> Remove for DelayQueue<T> {
    fn remove(&self, key: Key) {
        Self::remove(self, key);
    }
}

/// The one task that expires entries. It does not keep the queue alive, and ends with it. If it is dropped before, the
/// runtime has ended.
struct DelayDriver<T: Send + 'static> {
    queue: Weak<DelayQueue<T>>,
    /// Taken when the runtime ends.
    on_end: Option<Box<dyn FnOnce() + Send>>,
}

impl<T: Send + 'static> Future for DelayDriver<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(queue) = self.queue.upgrade() else { return Poll::Ready(()) };
        let (count, next) = queue.poll_expired(context);
        match next {
            _ if count == ENTRIES_PER_POLL => context.waker().wake_by_ref(),
            Some(at) => queue.arm(at),
            None => {}
        }
        Poll::Pending
    }
}

impl<T: Send + 'static> Drop for DelayDriver<T> {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.upgrade() {
            // First, because what expires looks at the state that this leaves.
            if let Some(on_end) = self.on_end.take() {
                on_end();
            }
            queue.close();
        }
    }
}

/// A wait on the clock of the queue's runtime. It ends at once when that runtime has ended.
///
/// # Cancel safety
/// If it is dropped, its entry is removed.
pub(crate) struct Sleep<T> {
    queue: Arc<DelayQueue<T>>,
    /// `None` to wait forever.
    until: Option<Instant>,
    /// Set at the first poll.
    key: Option<Key>,
}

impl<T: Send + 'static> Future for Sleep<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(until) = this.until else { return Poll::Pending };
        let waker = context.waker().clone();
        let Some(key) = this.key else {
            if this.queue.now() >= until {
                return Poll::Ready(());
            }
            return match this.queue.write(until, waker, |state, waker| state.add(until, Entry::Sleeper(waker))) {
                Ok(key) => {
                    this.key = Some(key);
                    Poll::Pending
                }
                Err(_) => Poll::Ready(()),
            };
        };
        let mut state = this.queue.state.lock();
        match state.timed.get_mut(&key) {
            None => Poll::Ready(()),
            Some(entry) => {
                let replaced = mem::replace(entry, Entry::Sleeper(waker));
                drop(state);
                drop_catching(replaced);
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Sleep<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let removed = self.queue.state.lock().timed.remove(&key);
            drop_catching(removed);
        }
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use std::task::Wake;

    use super::*;

    /// Panics in its drop.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a bug in a drop");
        }
    }

    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {}
    }

    /// Polls with a waker that panics when the entry's clone of it, the last one, is dropped.
    fn poll<T: Send + 'static>(sleep: Pin<&mut Sleep<T>>) -> bool {
        let waker = Waker::from(Arc::new(Bomb));
        let is_ready = sleep.poll(&mut Context::from_waker(&waker)).is_ready();
        drop_catching(waker);
        is_ready
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_drop_of_an_entry_is_caught() {
        let queue = DelayQueue::new(Handle::current(), Duration::ZERO, drop_catching::<Bomb>);
        let key = queue.insert_after(Duration::from_secs(1), Bomb).unwrap();
        queue.remove(key);
        let mut sleep = Box::pin(queue.sleep(Duration::from_secs(1)));
        for _ in 0..2 {
            assert!(!poll(sleep.as_mut()));
        }
    }
}
