//! Reserving jobs: no more than may start now.

use std::{sync::Arc, time::Duration};

use postlude::ShutdownGuard;
use tokio::time::{Instant, sleep_until};

use super::{
    Worker,
    backoff::Backoff,
    metrics::count,
    run,
    tend::{LOOK_EVERY, TEND_EVERY, Tender},
};
use crate::{
    model::error::QueueError,
    queue::{InHand, Reservation},
};

/// How often it looks while a limit of the registry keeps jobs waiting: nothing tells when a permit is free.
const LOOK_AT_LIMITS_EVERY: Duration = Duration::from_millis(50);

/// How soon it looks again after a reservation that found jobs. While jobs come, more come soon, and another process may
/// tell of them late. The waits double up to [`LOOK_EVERY`], so looks that find nothing are few for each job.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// For how many leases it stops reserving, so that a job that has crashed a process can run alone; and then for as long
/// it reserves again, if jobs that run for long did not end.
const LEASES_TO_EMPTY: u32 = 2;

/// Reserves until a shutdown begins.
pub(super) async fn run(worker: &Arc<Worker>, guard: &ShutdownGuard) {
    let mut reserver = Reserver {
        worker,
        backoff: Backoff::default(),
        tender: Tender::new(worker),
        may_have_orphans: false,
        emptying_since: None,
        found_at: None,
    };
    let mut changes = worker.queue.changes();
    loop {
        changes.mark_unchanged();
        let limits_changed = worker.registry.limits_changed();
        let step = reserver.step().await;
        let wait_until = match step {
            Ok(Step::More) => {
                // Lets the jobs start, and a shutdown be seen.
                tokio::task::yield_now().await;
                Instant::now()
            }
            Ok(Step::Wait(until)) => until,
            Err(error) => {
                let wait = worker.engine_failed(&mut reserver.backoff, "reserve jobs", &error);
                // A change would not help: the engine fails.
                tokio::select! {
                    biased;
                    () = guard.shutdown_started() => return,
                    () = tokio::time::sleep(wait) => continue,
                }
            }
        };
        tokio::select! {
            biased;
            () = guard.shutdown_started() => return,
            () = sleep_until(wait_until) => {}
            () = worker.changed.notified() => {}
            () = limits_changed => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    sleep_until(wait_until).await;
                }
            }
        }
    }
}

enum Step {
    /// There may be more to reserve now.
    More,
    Wait(Instant),
}

struct Reserver<'a> {
    worker: &'a Arc<Worker>,
    backoff: Backoff,
    tender: Tender<'a>,
    /// A reservation had no answer: the engine may have made it, and nobody knows of its jobs.
    may_have_orphans: bool,
    /// Since when nothing is reserved, so that a crashed job can run alone.
    emptying_since: Option<Instant>,
    /// When it last reserved a job.
    found_at: Option<Instant>,
}

impl Reserver<'_> {
    async fn step(&mut self) -> Result<Step, QueueError> {
        let worker = self.worker;
        let now = Instant::now();
        let more_to_tend = self.tender.tend().await?;
        if self.may_have_orphans {
            worker.ask(worker.queue.release_others(worker.owner, worker.held.all())).await?;
            self.may_have_orphans = false;
        }
        let held = worker.held.len();
        let free = worker.config.concurrency.saturating_sub(held);
        if worker.held.has_crashed() || (free == 0 && !worker.queue.delivers_ahead()) {
            return Ok(self.wait(more_to_tend, false));
        }
        if self.tender.crashed_waiting && held == 0 {
            let reserved = self.reserve(1, true).await?;
            self.tender.crashed_waiting = reserved > 0;
            if reserved > 0 {
                return Ok(self.wait(more_to_tend, false));
            }
        }
        if self.is_emptying(now) {
            return Ok(self.wait(more_to_tend, false));
        }
        let reserved = self.reserve(free, false).await?;
        worker.engine_answered(&mut self.backoff, "reserve jobs");
        if reserved > 0 {
            return Ok(Step::More);
        }
        Ok(self.wait(more_to_tend, self.is_limited()))
    }

    fn wait(&self, more_to_tend: bool, is_limited: bool) -> Step {
        let now = Instant::now();
        let look = match self.found_at {
            _ if is_limited => LOOK_AT_LIMITS_EVERY,
            Some(found_at) => (now - found_at).clamp(LOOK_AGAIN, LOOK_EVERY),
            None => LOOK_EVERY,
        };
        // The jitter keeps the workers of many processes from looking all at once.
        let look = now + look.mul_f64(0.75 + fastrand::f64() / 4.0);
        if more_to_tend { Step::Wait(now + TEND_EVERY) } else { Step::Wait(look.min(self.tender.next)) }
    }

    /// Whether a limit of the registry keeps a name from being reserved. A change of the limits is told, so a name that
    /// is paused needs no looks.
    fn is_limited(&self) -> bool {
        let registry = &self.worker.registry;
        self.worker.handlers.names().any(|name| registry.may_start(name) == 0 && !registry.is_paused(name))
    }

    /// Whether a job that has crashed a process waits until this worker holds no job.
    fn is_emptying(&mut self, now: Instant) -> bool {
        if !self.tender.crashed_waiting {
            self.emptying_since = None;
            return false;
        }
        let period = self.worker.lease().saturating_mul(LEASES_TO_EMPTY);
        let since = *self.emptying_since.get_or_insert(now);
        let elapsed = now - since;
        if elapsed >= period.saturating_mul(2) {
            self.emptying_since = Some(now);
            return true;
        }
        elapsed < period
    }

    /// How many jobs of each name may be in hand: those that may start, and those that run.
    fn in_hand(&self) -> InHand {
        let worker = self.worker;
        let of_name = |name: &'static str| {
            let may_start = worker.registry.may_start(name).saturating_sub(worker.held.not_started(|of| of == name));
            (name, may_start.saturating_add(worker.held.running(name)))
        };
        InHand { names: worker.handlers.names().map(of_name).collect(), all: worker.config.concurrency }
    }

    /// Reserves and starts up to `free` jobs. Returns how many.
    async fn reserve(&mut self, free: usize, crashed: bool) -> Result<usize, QueueError> {
        let worker = self.worker;
        // Those of paused names start later, and need no room now.
        let not_started = worker.held.not_started(|name| !worker.registry.is_paused(name));
        let may_start = |name: &'static str| worker.registry.may_start(name).saturating_sub(not_started).min(free);
        let names: Vec<_> =
            worker.handlers.names().map(|name| (name, may_start(name))).filter(|(_, count)| *count > 0).collect();
        let delivers_ahead = worker.queue.delivers_ahead();
        if names.is_empty() && !delivers_ahead {
            return Ok(0);
        }
        let in_hand = if delivers_ahead { self.in_hand() } else { InHand::default() };
        let limit = names.iter().map(|(_, count)| *count).sum::<usize>().min(free);
        let wanted = Reservation { owner: worker.owner, names, limit, crashed, in_hand };
        let reserved = match worker.ask(worker.queue.reserve(wanted)).await {
            Ok(reserved) => reserved,
            Err(error) => {
                self.may_have_orphans |= error.may_be_done();
                return Err(error);
            }
        };
        let reserved_jobs = reserved.len();
        if reserved_jobs > 0 {
            self.found_at = Some(Instant::now());
        }
        count(&worker.counters.reserved, reserved_jobs);
        for job in reserved {
            run::start(worker, job);
        }
        Ok(reserved_jobs)
    }
}
