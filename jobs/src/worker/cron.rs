//! Pushing the jobs of schedules.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use postlude::Schedule;
use tokio::time::sleep;

use super::{Worker, backoff::Backoff};
use crate::{
    model::{
        error::{PushError, QueueError},
        new_job::NewJob,
    },
    queue::{Queue, Tick},
};

/// How long it sleeps at most, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A job with a schedule.
pub(crate) struct CronJob {
    pub(crate) name: &'static str,
    pub(crate) schedule: Schedule,
    pub(crate) prepare: Box<dyn Fn() -> Result<NewJob, PushError> + Send + Sync>,
}

impl CronJob {
    fn key(&self) -> String {
        format!("{} {}", self.name, self.schedule)
    }
}

/// Pushes the jobs of the worker's schedules, for ever.
pub(crate) async fn run(worker: &Worker) {
    let mut known = HashMap::new();
    let mut backoff = Backoff::default();
    loop {
        let wait = match worker.ask(push_due(&*worker.queue, &worker.config.schedules, &mut known)).await {
            Ok(wait) => {
                worker.engine_answered(&mut backoff, "push the jobs of schedules");
                wait
            }
            Err(error) => worker.engine_failed(&mut backoff, "push the jobs of schedules", &error),
        };
        sleep(wait).await;
    }
}

/// Pushes what is due, and says how long it is until the next tick.
async fn push_due(
    queue: &dyn Queue,
    jobs: &[CronJob],
    known: &mut HashMap<String, SystemTime>,
) -> Result<Duration, QueueError> {
    let now = queue.now().await?;
    let mut wait = LONGEST_SLEEP;
    for job in jobs {
        let key = job.key();
        let last = if let Some(last) = known.get(&key) {
            *last
        } else {
            tell_of_next(job, now);
            queue.last_tick(key.clone()).await?
        };
        known.insert(key.clone(), last);
        if let Some(at) = job.schedule.latest_until(now).filter(|at| *at > last) {
            match (job.prepare)() {
                Ok(new) => {
                    let id = new.id;
                    if queue.tick(Tick { key: key.clone(), at, job: new }).await? {
                        tracing::debug!(target: "postlude_jobs", name = job.name, %id, "pushed a scheduled job");
                    }
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(target: "postlude_jobs", name = job.name, error, "a scheduled job was not pushed");
                }
            }
            known.insert(key, at);
        }
        wait = until(job.schedule.next_after(now), now).min(wait);
    }
    // Not before the tick, if the two clocks differ by a little.
    Ok(wait + Duration::from_millis(1))
}

fn tell_of_next(job: &CronJob, now: SystemTime) {
    let next = job.schedule.next_as_text(now).map(tracing::field::display);
    tracing::info!(
        target: "postlude_jobs", name = job.name, schedule = %job.schedule, next, "a job is pushed by a schedule"
    );
}

/// How long it is until a tick. If there is none, the longest sleep.
fn until(tick: Option<SystemTime>, now: SystemTime) -> Duration {
    tick.map_or(LONGEST_SLEEP, |tick| tick.duration_since(now).unwrap_or_default())
}
