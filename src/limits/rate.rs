//! Rate limits.

use std::{future::Future, num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use crate::util::semaphore::{Acquire, Permit, PrioritySemaphore};
use crate::{model::RateLimit, util::loom::Mutex};

/// Lets the tasks of a name start one after another, at a rate.
pub(crate) struct RateGate {
    limiter: RateLimiter<NotKeyed, InMemoryState, SinceStart, NoOpMiddleware<Nanos>>,
    /// Has one permit, which the next task holds. The others wait for the permit, by priority.
    queue: Arc<PrioritySemaphore>,
    interval: Duration,
    /// The estimated time at which the next task may start.
    next: Mutex<Instant>,
}

impl RateGate {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let burst = NonZeroU32::new(limit.cells()).unwrap_or(NonZeroU32::MIN);
        // The interval is never zero. The fallback is the closest quota: one start per nanosecond.
        let quota = Quota::with_period(limit.interval()).unwrap_or_else(|| Quota::per_second(NonZeroU32::MAX));
        let limiter = RateLimiter::direct_with_clock(quota.allow_burst(burst), SinceStart(Instant::now()));
        let queue = PrioritySemaphore::new(1);
        Self { limiter, queue, interval: limit.interval(), next: Mutex::new(Instant::now()) }
    }

    pub(crate) const fn queue(&self) -> &Arc<PrioritySemaphore> {
        &self.queue
    }

    /// Whether a task would probably start at once.
    pub(crate) fn is_ready(&self) -> bool {
        self.queue.free() > 0 && *self.next.lock() <= Instant::now()
    }

    /// Waits until the task is the next one of its name. Calls `note_due` with an estimate of that time.
    pub(crate) async fn first(&self, entered: Acquire, note_due: impl FnOnce(Duration)) -> Permit {
        // An estimate: some tasks may leave the queue, and tasks of a higher priority may overtake.
        let waiting = u32::try_from(self.queue.waiting()).unwrap_or(u32::MAX);
        if waiting > 0 {
            note_due(self.interval.saturating_mul(waiting.saturating_add(1)));
        }
        entered.await
    }

    /// Waits until the estimated start of the next task.
    pub(crate) async fn until_ready<F>(&self, note_due: impl Fn(Duration), sleep: impl Fn(Duration) -> F)
    where
        F: Future<Output = ()>,
    {
        loop {
            let remaining = self.next.lock().saturating_duration_since(Instant::now());
            note_due(remaining);
            if remaining.is_zero() {
                return;
            }
            sleep(remaining).await;
        }
    }

    /// Counts the start of one task; `false` if it is too early.
    pub(crate) fn check(&self) -> bool {
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
