//! Moving what is due, and what has lost its lease.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Worker,
    clock::{EngineClock, Jump, Reading},
    metrics::count,
    renew,
};
use crate::{
    model::error::QueueError,
    queue::{Look, LostLease},
};

/// How often a worker looks at least, whatever it is told of changes.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// It looks no more often than this.
pub(super) const TEND_EVERY: Duration = Duration::from_millis(20);

/// What a worker knows of the whole queue.
pub(super) struct Tender<'a> {
    worker: &'a Arc<Worker>,
    clock: EngineClock,
    last: Option<Instant>,
    /// When to look again, at the latest.
    pub(super) next: Instant,
    /// No lease is taken for run out before this: the engine's clock was set forward, and all seem to have.
    spare_until: Option<Instant>,
    pub(super) crashed_waiting: bool,
}

impl<'a> Tender<'a> {
    pub(super) fn new(worker: &'a Arc<Worker>) -> Self {
        Self {
            worker,
            clock: EngineClock::default(),
            last: None,
            next: Instant::now(),
            spare_until: None,
            crashed_waiting: false,
        }
    }

    /// Moves some of what is due. Returns whether there is more to move now.
    pub(super) async fn tend(&mut self) -> Result<bool, QueueError> {
        let asked = Instant::now();
        if let Some(last) = self.last.filter(|last| asked < *last + TEND_EVERY) {
            // What made this look may be due soon.
            self.next = self.next.min(last + TEND_EVERY);
            return Ok(false);
        }
        let is_first = self.last.replace(asked).is_none();
        let (worker, queue) = (self.worker, &self.worker.queue);
        let look = worker.ask(queue.look(worker.handlers.names().collect())).await?;
        *self.worker.lease.lock() = look.lease;
        self.crashed_waiting = look.crashed_waiting;
        look.lost.iter().for_each(|run| renew::lost(worker, *run));
        self.notice_clock(Reading { asked, answered: Instant::now(), millis: look.now }, look.lease).await?;
        if is_first {
            self.tell_of_leases(&look);
        }
        let is_due = |time: Option<i64>| time.is_some_and(|time| time <= look.now);
        if is_due(look.due) {
            worker.ask(queue.make_waiting()).await?;
        }
        let expires = look.expires.filter(|_| self.spare_until.is_none());
        if is_due(expires) {
            let lost = worker.ask(queue.take_back()).await?;
            self.report(&lost);
        }
        let next = [look.due, expires].into_iter().flatten().filter(|time| *time > look.now).min();
        let next_in = next.map_or(LOOK_EVERY, |time| Duration::from_millis((time - look.now).unsigned_abs()));
        self.next = asked + next_in.clamp(TEND_EVERY, LOOK_EVERY);
        Ok(is_due(look.due) || is_due(expires))
    }

    /// Tells at the start of jobs that others hold: those of a process that has died do not run before their leases have
    /// run out.
    fn tell_of_leases(&self, look: &Look) {
        let Some(expires) = look.expires.filter(|time| *time > look.now) else { return };
        let ends_in = Duration::from_millis((expires - look.now).unsigned_abs());
        tracing::info!(
            target: "postlude_jobs", engine = self.worker.queue.engine(), lease = ?look.lease, ?ends_in,
            "some jobs are held by other workers, or by one that has died: its jobs run when their leases have run out, the \
             first of them then"
        );
    }

    /// If the engine's clock was set, the leases are wrong: after a step forward all seem to have run out, and after a
    /// step back those of dead workers last too long.
    async fn notice_clock(&mut self, reading: Reading, lease: Duration) -> Result<(), QueueError> {
        let engine = self.worker.queue.engine();
        match self.clock.observe(reading, lease / 4) {
            Some(Jump::Forward(by)) => {
                self.spare_until = Some(reading.answered + lease);
                tracing::warn!(
                    target: "postlude_jobs", engine, ?by,
                    "the clock of the queue was set forward: for the time of a lease, no job is taken from its worker"
                );
            }
            Some(Jump::Back(by)) => {
                tracing::warn!(
                    target: "postlude_jobs", engine, ?by,
                    "the clock of the queue was set back: leases are shortened to end in time; delayed jobs are late by as much"
                );
                self.worker.ask(self.worker.queue.shorten_leases()).await?;
            }
            None => {}
        }
        self.spare_until = self.spare_until.filter(|until| reading.answered < *until);
        Ok(())
    }

    fn report(&self, lost: &[LostLease]) {
        count(&self.worker.counters.taken_back, lost.len());
        for LostLease { id, name, crashes, is_dead } in lost {
            if *is_dead {
                count(&self.worker.counters.dead, 1);
                tracing::error!(
                    target: "postlude_jobs", job = %id, name, crashes,
                    "a job is dead: its worker's process ended, or did not renew the lease, as often as its `max_crashes`"
                );
            } else {
                tracing::warn!(
                    target: "postlude_jobs", job = %id, name, crashes,
                    "a job was taken back: its worker's process ended, or did not renew the lease; it runs alone next"
                );
            }
        }
        // They may be this worker's own, after a pause of the process.
        let ids: Vec<_> = lost.iter().map(|one| one.id).collect();
        if !ids.is_empty() {
            for run in self.worker.held.runs_of(&ids) {
                renew::lost(self.worker, run);
            }
        }
    }
}
