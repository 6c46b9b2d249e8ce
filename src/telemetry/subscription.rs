//! The events of tasks as a stream, which costs nothing without readers.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use rustc_hash::FxHashMap;

use crate::{
    model::TaskEvent,
    telemetry::EventRef,
    util::{
        loom::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
        panic::{catch_panic, drop_catching},
    },
};

/// The number of events that are kept for slow readers.
const MAX_KEPT: usize = 4096;

/// A subscription to the events of tasks: see [`TaskRegistry::subscribe`](crate::TaskRegistry::subscribe).
pub struct TaskEvents {
    buffer: Arc<EventBuffer>,
    number: u64,
    /// The number of the next event to read.
    next: u64,
}

impl TaskEvents {
    /// Receives the next event; `None` after the registry is dropped.
    ///
    /// # Cancel safety
    /// This method is cancel safe: if the future is dropped, no event is lost.
    pub async fn recv(&mut self) -> Option<TaskEvent> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        let waker = context.waker().clone();
        let mut state = self.buffer.state.lock();
        let missed = state.first.saturating_sub(self.next);
        if missed > 0 {
            self.next = state.first;
            return Poll::Ready(Some(TaskEvent::Missed(missed)));
        }
        let index = usize::try_from(self.next - state.first).unwrap_or(usize::MAX);
        if let Some(event) = state.events.get(index) {
            self.next += 1;
            return Poll::Ready(Some(event.clone()));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        let replaced = state.waiting.insert(self.number, waker);
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Stream for TaskEvents {
    type Item = TaskEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        self.get_mut().poll_recv(context)
    }
}

impl Drop for TaskEvents {
    fn drop(&mut self) {
        let mut state = self.buffer.state.lock();
        let waker = state.waiting.remove(&self.number);
        state.readers -= 1;
        let unread = if state.readers == 0 {
            self.buffer.has_readers.store(false, Ordering::Relaxed);
            state.evict_all()
        } else {
            VecDeque::new()
        };
        drop(state);
        drop_catching(waker);
        unread.into_iter().for_each(drop_catching);
    }
}

impl fmt::Debug for TaskEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskEvents").field("next", &self.next).finish_non_exhaustive()
    }
}

/// The latest events, and the wakers of the readers that wait for the next one. Tokio's channels do not fit: they drop
/// evicted values under their lock, and an event may hold a user error, whose `Drop` is foreign code.
#[derive(Default)]
pub(crate) struct EventBuffer {
    /// Written under the lock and read without it. Relaxed is enough: a reader may miss an event that happens while it
    /// subscribes.
    has_readers: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the oldest event that is kept.
    first: u64,
    events: VecDeque<TaskEvent>,
    readers: usize,
    subscribed: u64,
    waiting: FxHashMap<u64, Waker>,
    closed: bool,
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn evict_all(&mut self) -> VecDeque<TaskEvent> {
        self.first = self.end();
        mem::take(&mut self.events)
    }
}

impl EventBuffer {
    pub(crate) fn subscribe(buffer: &Arc<Self>) -> TaskEvents {
        let mut state = buffer.state.lock();
        state.readers += 1;
        state.subscribed += 1;
        buffer.has_readers.store(true, Ordering::Relaxed);
        TaskEvents { buffer: Arc::clone(buffer), number: state.subscribed, next: state.end() }
    }

    pub(crate) fn has_readers(&self) -> bool {
        self.has_readers.load(Ordering::Relaxed)
    }

    /// Adds an event. Never call this under a lock: it wakes readers and drops the evicted event.
    pub(crate) fn push(&self, event: EventRef<'_>) {
        let event = match event {
            EventRef::Added(task) => TaskEvent::Added(task.clone()),
            EventRef::Started(task) => TaskEvent::Started(task.clone()),
            EventRef::AttemptFailed(report) => TaskEvent::AttemptFailed(report.clone()),
            EventRef::Finished(report) => TaskEvent::Finished(report.clone()),
        };
        let mut state = self.state.lock();
        if state.readers == 0 {
            drop(state);
            drop_catching(event);
            return;
        }
        let evicted = if state.events.len() < MAX_KEPT { None } else { state.events.pop_front() };
        state.first += u64::from(evicted.is_some());
        state.events.push_back(event);
        let waiting = mem::take(&mut state.waiting);
        drop(state);
        drop_catching(evicted);
        wake_all(waiting);
    }

    /// Marks the end of the stream. Kept events can still be read.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let waiting = mem::take(&mut state.waiting);
        drop(state);
        wake_all(waiting);
    }
}

/// Wakes the readers. A waker may be foreign code, because a reader may run on another executor than tokio's.
fn wake_all(waiting: FxHashMap<u64, Waker>) {
    for waker in waiting.into_values() {
        drop(catch_panic(|| waker.wake()));
    }
}
