//! Taking jobs, and keeping them.

use std::{sync::Arc, time::Duration};

use postlude::Priority;

use super::{
    connect::Shared,
    consumer::{Deliveries, Handed},
    settle::Becomes,
};
use crate::{
    amqp::error::sent,
    model::{
        dead::{JobError, crash_message},
        error::QueueError,
        id::JobId,
        time::to_millis,
    },
    queue::{Look, LostLease, Renewed, Reservation, Reserved},
};

/// How long before the broker takes a job back it is taken from its worker.
const MARGIN: Duration = Duration::from_secs(20);

/// How long a job that was delivered waits here to be handed out. Then it is given back, so that another worker gets it.
const WAITS_HERE: Duration = Duration::from_secs(300);

impl Shared {
    pub(super) async fn reserve(&self, wanted: Reservation) -> Result<Vec<Reserved>, QueueError> {
        let deliveries = self.deliveries(wanted.owner).await?;
        if wanted.crashed {
            // If it takes its process with it, what else was delivered would count as crashed, too.
            deliveries.stop(&self.topology).await.map_err(sent)?;
            self.release(&deliveries, deliveries.beside_a_crashed_one(&wanted)).await?;
        }
        let handed = deliveries.reserve(&wanted, &self.topology).await.map_err(sent)?;
        Ok(handed.into_iter().map(reserved).collect())
    }

    /// A run whose channel has ended is lost. So is one that the broker would take back soon, with all others of its name:
    /// it is given back before.
    pub(super) async fn renew(&self, owner: JobId, runs: Vec<(JobId, i64)>) -> Result<Renewed, QueueError> {
        let limit = self.longest_run();
        let limit = limit.saturating_sub(MARGIN.min(limit / 10));
        let deliveries = self.worker(owner);
        let mut lost = Vec::new();
        for (id, run) in runs {
            let age = deliveries.as_ref().and_then(|deliveries| deliveries.age(run));
            if age.is_some_and(|age| age <= limit) {
                continue;
            }
            lost.push(id);
            if let Some(deliveries) = deliveries.as_ref().filter(|_| age.is_some()) {
                tracing::error!(
                    target: "postlude_jobs", job = %id, ?limit,
                    "a job runs for longer than the broker waits for the answer (`consumer_timeout`): set a time limit for \
                     the job, cut the work into shorter jobs, or raise the timeout"
                );
                deliveries.give_back(run).await;
            }
        }
        Ok(Renewed { lost })
    }

    pub(super) async fn release_others(&self, owner: JobId, held: Vec<(JobId, i64)>) -> Result<(), QueueError> {
        let Some(deliveries) = self.worker(owner) else { return Ok(()) };
        let others: Vec<i64> =
            deliveries.handed_out().into_iter().filter(|run| !held.contains(run)).map(|(_, run)| run).collect();
        self.release(&deliveries, others).await
    }

    pub(super) async fn withhold(&self, owner: JobId) -> Result<(), QueueError> {
        let Some(deliveries) = self.worker(owner) else { return Ok(()) };
        let waiting = deliveries.withhold(&self.topology).await.map_err(sent)?;
        self.release(&deliveries, waiting).await
    }

    pub(super) async fn look(&self, names: Vec<&'static str>) -> Result<Look, QueueError> {
        let workers = self.all_workers();
        if workers.iter().any(|deliveries| deliveries.take_lost_a_queue()) {
            self.publisher.renew();
        }
        self.declare(&names).await?;
        let now = to_millis(self.now().await?);
        let any = |is: &dyn Fn(&Deliveries) -> bool| workers.iter().any(|deliveries| is(deliveries));
        Ok(Look {
            now,
            due: any(&|deliveries| !deliveries.waiting_for(WAITS_HERE).is_empty()).then_some(now),
            expires: any(&Deliveries::has_crashed_now).then_some(now),
            crashed_waiting: any(&|deliveries| deliveries.has_crashed(&names)),
            lease: self.lease(),
            lost: workers.iter().flat_map(|deliveries| deliveries.take_lost()).collect(),
        })
    }

    /// Gives back what waits here for too long: beside a job that runs for long, one that must run alone.
    pub(super) async fn make_waiting(&self) -> Result<(), QueueError> {
        for deliveries in self.all_workers() {
            let waiting = deliveries.waiting_for(WAITS_HERE);
            self.release(&deliveries, waiting).await?;
        }
        Ok(())
    }

    /// Tells of jobs that the broker has delivered again, because their worker did not answer. Those that may have no more
    /// crashes are dead.
    pub(super) async fn take_back(&self) -> Result<Vec<LostLease>, QueueError> {
        let mut all = Vec::new();
        for deliveries in self.all_workers() {
            let (told, dead) = deliveries.told_of_crashes();
            if told.iter().any(|one| !one.is_dead) {
                // It runs alone: nothing more comes meanwhile.
                deliveries.stop(&self.topology).await.map_err(sent)?;
            }
            let dead = dead.into_iter().map(|(run, message)| {
                let attempts = message.failures.saturating_add(message.crashes);
                let text = crash_message(message.crashes, true);
                (run, Becomes::Dead(JobError::new(std::time::SystemTime::now(), attempts, &text)))
            });
            self.move_on(&deliveries, dead.collect()).await?;
            all.extend(told);
        }
        Ok(all)
    }

    /// Gives jobs back, which counts as nothing.
    async fn release(&self, deliveries: &Arc<Deliveries>, runs: Vec<i64>) -> Result<(), QueueError> {
        let runs = runs.into_iter().map(|run| (run, Becomes::Waiting(Duration::ZERO))).collect();
        self.move_on(deliveries, runs).await.map(drop)
    }
}

fn reserved(handed: Handed) -> Reserved {
    let Handed { run, message } = handed;
    Reserved {
        id: message.id,
        name: message.name,
        payload: message.payload,
        headers: message.headers,
        priority: Priority::Normal,
        pushed_at: message.pushed_at,
        run,
        failures: message.failures,
        crashes: message.crashes,
        max_attempts: message.max_attempts,
    }
}
