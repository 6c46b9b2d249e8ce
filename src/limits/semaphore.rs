//! A number of permits, and the queue of those who wait for one.
//!
//! # Invariants
//! 1. A permit is free only while nobody waits: one that comes back is handed to the first of the queue, which
//!    leaves it under the same lock.
//! 2. So whoever is no longer in the queue has a permit. It is in a [`Permit`], or in a [`Waiting`] that has yet to
//!    be polled, and passes it on if it is dropped instead.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::util::loom::Mutex;

pub(crate) struct Permits {
    state: Mutex<State>,
}

struct State {
    free: usize,
    /// Numbers the places, so that those of one rank leave in the order in which they came.
    next: u64,
    queue: BTreeMap<Place, Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    rank: Duration,
    number: u64,
}

impl State {
    fn draw(&mut self, rank: Duration) -> Place {
        let number = self.next;
        self.next += 1;
        Place { rank, number }
    }
}

impl Permits {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { free: count, next: 0, queue: BTreeMap::new() }) })
    }

    /// Waits for a permit: the lowest rank first, then the first that came. The rank is asked for only if there is
    /// a queue, and if the task has not [joined](Self::join) it. Cancel safe: given up, it leaves the queue, or passes on
    /// what it was handed.
    pub(crate) async fn acquire(self: &Arc<Self>, joined: Option<Waiting>, rank: impl FnOnce() -> Duration) -> Permit {
        if let Some(waiting) = joined {
            return waiting.await;
        }
        if let Some(permit) = self.try_acquire() {
            return permit;
        }
        self.wait(rank()).await
    }

    fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.state.lock();
        state.free = state.free.checked_sub(1)?;
        Some(Permit(Arc::clone(self)))
    }

    pub(crate) fn wait(self: &Arc<Self>, rank: Duration) -> Waiting {
        Waiting { permits: Arc::clone(self), rank, place: None }
    }

    /// The same with a place in the queue from now on, or a permit.
    pub(crate) fn join(self: &Arc<Self>, rank: Duration) -> Waiting {
        let mut state = self.state.lock();
        let place = state.draw(rank);
        match state.free.checked_sub(1) {
            Some(free) => state.free = free,
            None => {
                state.queue.insert(place, Waker::noop().clone());
            }
        }
        drop(state);
        Waiting { permits: Arc::clone(self), rank, place: Some(place) }
    }

    /// Of a single permit: how many have it or wait for it, as far as anybody cares to count.
    #[cfg(feature = "rate-limit")]
    pub(crate) fn taken(&self) -> u32 {
        let state = self.state.lock();
        u32::try_from(state.queue.len() + usize::from(state.free == 0)).unwrap_or(u32::MAX)
    }

    fn give_back(&self) {
        let mut state = self.state.lock();
        let first = state.queue.pop_first();
        if first.is_none() {
            state.free += 1;
        }
        drop(state);
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }
}

/// Gives the permit back when it is dropped.
pub(crate) struct Permit(Arc<Permits>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

pub(crate) struct Waiting {
    permits: Arc<Permits>,
    rank: Duration,
    /// From the first poll on, or from before it, until there is a [`Permit`].
    place: Option<Place>,
}

impl Waiting {
    pub(crate) const fn rank(&self) -> Duration {
        self.rank
    }
}

impl Future for Waiting {
    type Output = Permit;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        let this = self.get_mut();
        let waker = context.waker().clone();
        let mut state = this.permits.state.lock();
        let replaced = match this.place {
            None if state.free > 0 => {
                state.free -= 1;
                drop(state);
                return Poll::Ready(Permit(Arc::clone(&this.permits)));
            }
            None => {
                let place = state.draw(this.rank);
                this.place = Some(place);
                state.queue.insert(place, waker)
            }
            Some(place) => {
                let Some(waiting) = state.queue.get_mut(&place) else {
                    drop(state);
                    this.place = None;
                    return Poll::Ready(Permit(Arc::clone(&this.permits)));
                };
                Some(std::mem::replace(waiting, waker))
            }
        };
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let mut state = self.permits.state.lock();
        let left = state.queue.remove(&place);
        drop(state);
        if left.is_none() {
            self.permits.give_back();
        }
    }
}
