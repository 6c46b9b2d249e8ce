//! A semaphore with a priority queue of waiters.
//!
//! # Invariants
//! 1. A permit is free only while the queue is empty: a released permit goes to the first waiter, which leaves the
//!    queue under the same lock.
//! 2. So an [`Acquire`] that has a ticket and is not in the queue owns a permit. It returns the permit when it is
//!    polled, and releases it if it is dropped instead.
//! 3. While the queue is not empty, one of the waiters watches, or one that was woken will when it is polled. It may leave
//!    the queue before that poll, and then wakes another.

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

/// A semaphore whose waiters are served by rank. Tokio's semaphore serves waiters in order of arrival only, and a
/// waiter enters the queue only when it is polled.
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

/// A position in the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    rank: Duration,
    /// Waiters of one rank are served in order of arrival.
    number: u64,
}

impl State {
    fn next_ticket(&mut self, rank: Duration) -> Ticket {
        let number = self.next_number;
        self.next_number += 1;
        Ticket { rank, number }
    }

    /// If nobody watches, the waker of the waiter that is likely to wait longest: its poll makes it watch.
    fn next_watcher(&mut self) -> Option<Waker> {
        if self.is_watched {
            return None;
        }
        let mut last = self.queue.last_entry()?;
        Some(mem::replace(last.get_mut(), Waker::noop().clone()))
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

    /// Takes a permit if one is free. Then nobody waits.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.state.lock();
        state.free = state.free.checked_sub(1)?;
        state.granted += 1;
        drop(state);
        Some(Permit(Arc::clone(self)))
    }

    /// Waits for a permit, and enters the queue at the first poll. The lowest rank is served first, then in order of
    /// arrival.
    pub(crate) fn acquire(self: &Arc<Self>, rank: Duration) -> Acquire {
        Acquire { semaphore: Arc::clone(self), rank, ticket: None }
    }

    /// Like [`acquire`](Self::acquire), but enters the queue, or takes a permit, now.
    pub(crate) fn enqueue(self: &Arc<Self>, rank: Duration) -> Acquire {
        let mut state = self.state.lock();
        let ticket = state.next_ticket(rank);
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

    /// The number of free permits.
    pub(crate) fn free(&self) -> usize {
        self.state.lock().free
    }

    /// The number of waiters.
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

/// The one of those that wait that looks whether any permit is given out. When it is dropped, another one takes over.
pub(crate) struct Watch(pub(crate) Arc<PrioritySemaphore>);

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_watched = false;
        let next = state.next_watcher();
        drop(state);
        wake(next);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A permit. Released when dropped.
pub(crate) struct Permit(Arc<PrioritySemaphore>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Waits for a [`Permit`].
///
/// # Cancel safety
/// If it is dropped, it leaves the queue, or releases the permit that it owns.
pub(crate) struct Acquire {
    semaphore: Arc<PrioritySemaphore>,
    rank: Duration,
    /// Set from [`enqueue`](PrioritySemaphore::enqueue) or the first poll on, until the [`Permit`] is returned.
    ticket: Option<Ticket>,
}

impl Acquire {
    pub(crate) const fn rank(&self) -> Duration {
        self.rank
    }

    /// Waits for the permit, or until this is the one that has to watch, because no other waiter does.
    pub(crate) fn poll_permit_or_watch(&mut self, context: &mut Context<'_>) -> Poll<Result<Permit, Watch>> {
        match Pin::new(&mut *self).poll(context) {
            Poll::Ready(permit) => Poll::Ready(Ok(permit)),
            Poll::Pending => self.watch().map_or(Poll::Pending, |watch| Poll::Ready(Err(watch))),
        }
    }

    /// Makes this the one that watches, if it waits and no other watches.
    fn watch(&self) -> Option<Watch> {
        let mut state = self.semaphore.state.lock();
        let waits = self.ticket.is_some_and(|ticket| state.queue.contains_key(&ticket));
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
                let ticket = state.next_ticket(this.rank);
                this.ticket = Some(ticket);
                state.queue.insert(ticket, waker)
            }
            Some(ticket) => {
                let Some(waiting) = state.queue.get_mut(&ticket) else {
                    let next = state.next_watcher();
                    drop(state);
                    wake(next);
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
        let removed = state.queue.remove(&ticket);
        let next = if removed.is_some() { state.next_watcher() } else { None };
        drop(state);
        wake(next);
        if removed.is_none() {
            self.semaphore.release();
        }
    }
}
