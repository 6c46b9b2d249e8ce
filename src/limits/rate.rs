//! The pace of the tasks of a name: one after another waits until the rate lets it start.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use crate::{
    engine::shared::Inner,
    limits::semaphore::{Permit, Permits},
    model::{RateLimit, TaskId},
    util::{loom::Mutex, timer},
};

pub(crate) struct Pace {
    limiter: RateLimiter<NotKeyed, InMemoryState, SinceStart, NoOpMiddleware<Nanos>>,
    /// Held by the one that watches the clock; the others wait for it, by priority.
    head: Arc<Permits>,
    interval: Duration,
    /// When the next one may start, as far as is known.
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let places = NonZeroU32::new(limit.places()).unwrap_or(NonZeroU32::MIN);
        // Never zero; if it were, once a nanosecond is what comes closest.
        let quota = Quota::with_period(limit.interval()).unwrap_or_else(|| Quota::per_second(NonZeroU32::MAX));
        let limiter = RateLimiter::direct_with_clock(quota.allow_burst(places), SinceStart(Instant::now()));
        Self { limiter, head: Permits::new(1), interval: limit.interval(), next: Mutex::new(Instant::now()) }
    }

    /// Waits for its place at the head of those who wait for the rate.
    pub(crate) async fn head(&self, inner: &Inner, id: TaskId, rank: impl FnOnce() -> Duration) -> Permit {
        // A guess, until it is at the head itself: nobody knows who gives up, or comes with a higher priority.
        let ahead = self.head.taken();
        if ahead > 0 {
            inner.note_due(id, self.interval.saturating_mul(ahead.saturating_add(1)));
        }
        self.head.acquire(None, rank).await
    }

    /// Waits, at the head, until one more task may start, to all appearances.
    pub(crate) async fn keep(&self, inner: &Inner, id: TaskId) {
        loop {
            let wait = self.next.lock().saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return;
            }
            inner.note_due(id, wait);
            timer::sleep(inner, wait).await;
        }
    }

    /// Takes the start of one task; `false` if it is too early.
    pub(crate) fn take(&self) -> bool {
        let Err(early) = self.limiter.check() else {
            return true;
        };
        let wait = early.wait_time_from(self.limiter.clock().now());
        *self.next.lock() = Instant::now() + wait;
        false
    }
}

/// Tokio's clock, which tests can pause.
#[derive(Clone, Debug)]
struct SinceStart(Instant);

impl Clock for SinceStart {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX / 2))
    }
}
