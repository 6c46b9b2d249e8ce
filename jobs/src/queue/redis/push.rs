//! Storing jobs.

use std::{sync::Arc, time::SystemTime};

use redis::{ScriptInvocation, Value};

use super::{ENGINE, answer, connect::Shared, error::unexpected, scripts};
use crate::{
    model::{
        error::QueueError,
        headers,
        id::JobId,
        new_job::{NewJob, priority_to_stored},
        options::Due,
        time::{from_millis, millis, to_millis},
    },
    queue::Tick,
};

/// How many jobs are stored at once: the server serves nobody else meanwhile, for about a tenth of a second.
const MAX_JOBS: usize = 5_000;

/// How many bytes: a query may have a gigabyte, and the server holds it besides what it stores.
const MAX_BYTES: usize = 64 * 1024 * 1024;

impl Shared {
    pub(super) async fn push(self: Arc<Self>, jobs: Vec<NewJob>) -> Result<Vec<JobId>, QueueError> {
        if jobs.len() > MAX_JOBS || jobs.iter().map(|job| job.payload.len()).sum::<usize>() > MAX_BYTES {
            let what = "store more than 5,000 jobs or 64 MiB at once, because it serves nobody else meanwhile: call \
                        `push_all` with fewer jobs";
            return Err(QueueError::Unsupported { engine: ENGINE, what });
        }
        let mut call = self.call(&scripts::PUSH);
        for job in &jobs {
            add(&mut call, job);
        }
        let ids: Value = self.main.run(&call).await?;
        self.announce();
        answer::ids(ids).map_err(unexpected)
    }

    pub(super) async fn tick(&self, tick: Tick) -> Result<bool, QueueError> {
        let mut call = self.call(&scripts::TICK);
        add(&mut call, &tick.job);
        call.arg(tick.key).arg(to_millis(tick.at));
        let is_later = self.main.run(&call).await?;
        if is_later {
            self.announce();
        }
        Ok(is_later)
    }

    pub(super) async fn last_tick(&self, key: String) -> Result<SystemTime, QueueError> {
        self.main.run(self.call(&scripts::LAST_TICK).arg(key)).await.map(from_millis)
    }
}

/// Adds the arguments of a job, as `store.lua` reads them.
fn add(call: &mut ScriptInvocation<'_>, job: &NewJob) {
    let (delay, time) = match job.due {
        Due::Now => (0, String::new()),
        Due::After(delay) => (millis(delay), String::new()),
        Due::At(time) => (0, to_millis(time).to_string()),
    };
    let unique = job.unique.as_ref();
    call.arg(job.id.to_string())
        .arg(job.name)
        .arg(priority_to_stored(job.priority))
        .arg(delay)
        .arg(time)
        .arg(job.max_attempts)
        .arg(job.max_crashes)
        .arg(unique.map_or("", |unique| unique.key.as_str()))
        .arg(unique.is_some_and(|unique| unique.runs_again))
        .arg(headers::write(&job.headers))
        .arg(job.payload.as_slice());
}
