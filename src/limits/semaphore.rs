//! A number of permits, and the queue of the tasks that wait for one.
//!
//! # Invariants
//! 1. A permit is free only while the queue is empty: one that is released is handed to the first of the queue, which
//!    leaves the queue under the same lock.
//! 2. So an [`Acquire`] that has a ticket and is not in the queue has been handed a permit. It returns it when it is
//!    polled, and releases it if it is dropped instead.

use std::{
    collections::BTreeMap,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::util::loom::Mutex;

/// A semaphore whose waiters are served by rank. Tokio's serves them in order of arrival only, and a waiter of tokio's
/// has no place in the queue before it is polled.
pub(crate) struct PrioritySemaphore {
    state: Mutex<State>,
}

struct State {
    free: usize,
    /// How many permits were given out.
    granted: u64,
    /// One of those that wait looks whether any permit is given out.
    is_watched: bool,
    next_number: u64,
    queue: BTreeMap<Ticket, Waker>,
}

/// A place in the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    rank: Duration,
    /// Those of one rank leave in the order in which they came.
    number: u64,
}

impl State {
    fn draw(&mut self, rank: Duration) -> Ticket {
        let number = self.next_number;
        self.next_number += 1;
        Ticket { rank, number }
    }
}

impl PrioritySemaphore {
    pub(crate) fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                free: permits,
                granted: 0,
                is_watched: false,
                next_number: 0,
                queue: BTreeMap::new(),
            }),
        })
    }

    /// Waits for a permit, from the first poll on: the lowest rank first, then the first that came.
    pub(crate) fn acquire(self: &Arc<Self>, rank: Duration) -> Acquire {
        Acquire { semaphore: Arc::clone(self), rank, ticket: None }
    }

    /// The same with a place in the queue, or a permit, from now on.
    pub(crate) fn enqueue(self: &Arc<Self>, rank: Duration) -> Acquire {
        let mut state = self.state.lock();
        let ticket = state.draw(rank);
        match state.free.checked_sub(1) {
            Some(free) => {
                state.free = free;
                state.granted += 1;
            }
            None => {
                state.queue.insert(ticket, Waker::noop().clone());
            }
        }
        drop(state);
        Acquire { semaphore: Arc::clone(self), rank, ticket: Some(ticket) }
    }

    /// How many permits were given out.
    pub(crate) fn granted(&self) -> u64 {
        self.state.lock().granted
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().queue.len()
    }

    fn release(&self) {
        let mut state = self.state.lock();
        let first = state.queue.pop_first();
        match first {
            Some(_) => state.granted += 1,
            None => state.free += 1,
        }
        drop(state);
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }
}

/// The one of those that wait that looks whether any permit is given out.
pub(crate) struct Watch(pub(crate) Arc<PrioritySemaphore>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.state.lock().is_watched = false;
    }
}

/// Released when it is dropped.
pub(crate) struct Permit(Arc<PrioritySemaphore>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Waits for a [`Permit`].
///
/// # Cancel safety
/// Dropped, it leaves the queue, or passes on the permit that it was handed.
pub(crate) struct Acquire {
    semaphore: Arc<PrioritySemaphore>,
    rank: Duration,
    /// From the first poll on, or from before it, until there is a [`Permit`].
    ticket: Option<Ticket>,
}

impl Acquire {
    pub(crate) const fn rank(&self) -> Duration {
        self.rank
    }

    /// Makes this the one that watches, if it has to wait and no other watches.
    pub(crate) fn watch(&self) -> Option<Watch> {
        let mut state = self.semaphore.state.lock();
        let waits = match &self.ticket {
            Some(ticket) => state.queue.contains_key(ticket),
            None => state.free == 0,
        };
        if !waits || mem::replace(&mut state.is_watched, true) {
            return None;
        }
        drop(state);
        Some(Watch(Arc::clone(&self.semaphore)))
    }
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        let this = self.get_mut();
        let waker = context.waker().clone();
        let mut state = this.semaphore.state.lock();
        let replaced = match this.ticket {
            None if state.free > 0 => {
                state.free -= 1;
                state.granted += 1;
                drop(state);
                return Poll::Ready(Permit(Arc::clone(&this.semaphore)));
            }
            None => {
                let ticket = state.draw(this.rank);
                this.ticket = Some(ticket);
                state.queue.insert(ticket, waker)
            }
            Some(ticket) => {
                let Some(waiting) = state.queue.get_mut(&ticket) else {
                    drop(state);
                    this.ticket = None;
                    return Poll::Ready(Permit(Arc::clone(&this.semaphore)));
                };
                Some(mem::replace(waiting, waker))
            }
        };
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.semaphore.state.lock();
        let left = state.queue.remove(&ticket);
        drop(state);
        if left.is_none() {
            self.semaphore.release();
        }
    }
}
