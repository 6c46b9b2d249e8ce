//! A semaphore with a priority queue of waiters, whose limit may change, and which may be paused.
//!
//! # Invariants
//! 1. A permit is free only while the queue is empty: a released permit goes to the first waiter, which leaves the
//!    queue under the same lock. While a change of the limit gives out permits step by step, there are both, and
//!    newcomers join the queue.
//! 2. So an [`Acquire`] that has a ticket and is not in the queue owns a permit. It returns the permit when it is
//!    polled, and releases it if it is dropped instead.
//! 3. While the queue is not empty, one of the waiters watches, or one that was woken will when it is polled. It may leave
//!    the queue before that poll, and then wakes another.
//! 4. A permit and a [`Reservation`] take one place each. Those that have a place are served before the queue. A
//!    reservation that may become a permit is not parked.

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::util::loom::Mutex;

/// How many waiters are served in one step, when a limit is raised.
const WAITERS_PER_STEP: usize = 256;

/// A semaphore whose waiters are served by rank. Tokio's semaphore serves waiters in order of arrival only, a waiter
/// enters the queue only when it is polled, and permits that are in use can't be taken away.
pub(crate) struct PrioritySemaphore {
    state: Mutex<State>,
}

struct State {
    /// How many permits may be in use; `usize::MAX` without a limit.
    limit: usize,
    is_paused: bool,
    /// Nothing is granted before it is known how many permits are in use.
    is_counting: bool,
    in_use: usize,
    /// The places of those that have been granted a permit and wait for something else, sorted.
    reserved: VecDeque<Ticket>,
    /// Those of them that wait for the limit, because it has become lower since.
    parked: BTreeMap<Ticket, Waker>,
    /// How many permits were given out.
    granted: u64,
    /// One of those that wait looks whether any permit is given out.
    is_watched: bool,
    next_number: u64,
    queue: BTreeMap<Ticket, Waker>,
}

/// What is known of a semaphore.
pub(crate) struct Usage {
    /// `None` without a limit.
    pub(crate) limit: Option<usize>,
    /// The permits in use, and those that were given out and are not used yet.
    pub(crate) taken: usize,
    pub(crate) is_paused: bool,
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

    const fn allowed(&self) -> usize {
        if self.is_paused || self.is_counting { 0 } else { self.limit }
    }

    fn taken(&self) -> usize {
        self.in_use.saturating_add(self.reserved.len())
    }

    /// Takes a permit if one is free and nobody waits.
    fn take(&mut self) -> bool {
        let takes = self.queue.is_empty() && self.taken() < self.allowed();
        if takes {
            self.in_use += 1;
            self.granted += 1;
        }
        takes
    }

    /// Whether a reservation may become a permit: those before it may, and there is room for it, too.
    fn is_ready(&self, ticket: Ticket) -> bool {
        self.reserved.partition_point(|other| *other < ticket) < self.allowed().saturating_sub(self.in_use)
    }

    fn remove_reserved(&mut self, ticket: Ticket) {
        if let Ok(position) = self.reserved.binary_search(&ticket) {
            self.reserved.remove(position);
        }
    }

    /// Serves the next of those that wait, if it can be: the first reservation that is parked, or the first of the
    /// queue.
    fn serve_next(&mut self) -> Option<Waker> {
        if let Some(first) = self.parked.first_key_value().map(|(ticket, _)| *ticket) {
            if self.is_ready(first) {
                return self.parked.remove(&first);
            }
        }
        if self.queue.is_empty() || self.taken() >= self.allowed() {
            return None;
        }
        let (_, waker) = self.queue.pop_first()?;
        self.in_use += 1;
        self.granted += 1;
        Some(waker)
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
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Self::with(limit, false)
    }

    /// A semaphore without a limit, which grants nothing before [`counted`](Self::counted) is called.
    pub(crate) fn counting() -> Arc<Self> {
        Self::with(usize::MAX, true)
    }

    fn with(limit: usize, is_counting: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                limit,
                is_paused: false,
                is_counting,
                in_use: 0,
                reserved: VecDeque::new(),
                parked: BTreeMap::new(),
                granted: 0,
                is_watched: false,
                next_number: 0,
                queue: BTreeMap::new(),
            }),
        })
    }

    /// Takes a permit if one is free. Then nobody waits.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let taken = self.state.lock().take();
        taken.then(|| Permit(Arc::clone(self)))
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
        if !state.take() {
            state.queue.insert(ticket, Waker::noop().clone());
        }
        drop(state);
        Acquire { semaphore: Arc::clone(self), rank, ticket: Some(ticket) }
    }

    /// A permit for something that has started before the limit was set: whatever the limit is.
    pub(crate) fn adopt(self: &Arc<Self>) -> Permit {
        self.state.lock().in_use += 1;
        Permit(Arc::clone(self))
    }

    /// All that have started before were [adopted](Self::adopt).
    pub(crate) fn counted(&self) {
        self.change(|state| state.is_counting = false);
    }

    /// Sets the limit; `None` for no limit. Permits that are in use stay so.
    pub(crate) fn set_limit(&self, limit: Option<usize>) {
        self.change(|state| state.limit = limit.unwrap_or(usize::MAX));
    }

    /// Stops giving out permits, or goes on. Returns whether that is new.
    pub(crate) fn set_paused(&self, pauses: bool) -> bool {
        self.change(|state| mem::replace(&mut state.is_paused, pauses) != pauses)
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let changed = change(&mut self.state.lock());
        loop {
            let mut state = self.state.lock();
            let served: Vec<_> = (0..WAITERS_PER_STEP).map_while(|_| state.serve_next()).collect();
            drop(state);
            if served.is_empty() {
                return changed;
            }
            served.into_iter().for_each(Waker::wake);
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.state.lock().is_paused
    }

    /// The limit, the permits that were given out, and whether it is paused.
    pub(crate) fn usage(&self) -> Usage {
        let state = self.state.lock();
        let limit = Some(state.limit).filter(|limit| *limit < usize::MAX);
        Usage { limit, taken: state.taken(), is_paused: state.is_paused }
    }

    /// How many permits were given out.
    pub(crate) fn granted(&self) -> u64 {
        self.state.lock().granted
    }

    /// The number of free permits.
    pub(crate) fn free(&self) -> usize {
        let state = self.state.lock();
        if state.allowed() == usize::MAX { usize::MAX } else { state.allowed().saturating_sub(state.taken()) }
    }

    /// The number of waiters.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().queue.len()
    }

    fn release(&self) {
        let mut state = self.state.lock();
        state.in_use -= 1;
        let next = state.serve_next();
        drop(state);
        wake(next);
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

impl Permit {
    /// Whether what was given the permit may start with it: the limit has not become too low since.
    pub(crate) fn may_start(&self) -> bool {
        let state = self.0.state.lock();
        state.taken() <= state.allowed()
    }

    /// Gives the permit back, and keeps its place.
    pub(crate) fn reserve(self, rank: Duration) -> Reservation {
        let semaphore = Arc::clone(&self.0);
        let mut state = semaphore.state.lock();
        let ticket = state.next_ticket(rank);
        let position = state.reserved.partition_point(|other| *other < ticket);
        state.reserved.insert(position, ticket);
        drop(state);
        // Released below, when the place is taken: so nobody else is given the place.
        drop(self);
        Reservation { semaphore, ticket }
    }
}

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
            None if state.take() => {
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

/// The place of something that was given a permit, and waits for something else before it starts.
///
/// # Cancel safety
/// If it is dropped, the place goes to the next waiter.
pub(crate) struct Reservation {
    semaphore: Arc<PrioritySemaphore>,
    ticket: Ticket,
}

impl Reservation {
    /// The permit, if the limit allows it now.
    pub(crate) fn try_start(self) -> Result<Permit, Self> {
        let semaphore = Arc::clone(&self.semaphore);
        let mut state = semaphore.state.lock();
        if !state.is_ready(self.ticket) {
            drop(state);
            return Err(self);
        }
        state.remove_reserved(self.ticket);
        state.in_use += 1;
        drop(state);
        Ok(Permit(semaphore))
    }

    /// Waits until the limit is likely to allow a start.
    pub(crate) async fn ready(&self) {
        poll_fn(|context| {
            let waker = context.waker().clone();
            let mut state = self.semaphore.state.lock();
            let is_ready = state.is_ready(self.ticket);
            let replaced = if is_ready { None } else { state.parked.insert(self.ticket, waker) };
            drop(state);
            drop(replaced);
            if is_ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.semaphore.state.lock();
        // Unless it has become a permit.
        state.remove_reserved(self.ticket);
        let parked = state.parked.remove(&self.ticket);
        let next = state.serve_next();
        drop(state);
        drop(parked);
        wake(next);
    }
}
