//! Taking jobs, and keeping them.

use redis::Value;

use super::{
    ENGINE,
    answer::{self, Row},
    connect::{STEP, Shared},
    error::unexpected,
    scripts,
};
use crate::{
    model::{error::QueueError, id::JobId},
    queue::{Renewed, Reservation, Reserved},
};

impl Shared {
    pub(super) async fn reserve(&self, wanted: Reservation) -> Result<Vec<Reserved>, QueueError> {
        // The worker asks again at once when it has got some.
        let limit = wanted.limit.min(STEP);
        let mut call = self.call(&scripts::RESERVE);
        call.arg(wanted.owner.to_string()).arg(limit).arg(if wanted.crashed { "crashed" } else { "waiting" });
        for (name, count) in wanted.names {
            call.arg(name).arg(count.min(limit));
        }
        let answer: Value = self.main.run(&call).await?;
        let mut answer = Row::new(answer).map_err(unexpected)?;
        let jobs = answer.rows().map_err(unexpected)?;
        let lost: u64 = answer.take().map_err(unexpected)?;
        if lost > 0 {
            tracing::error!(
                target: "postlude_jobs", engine = ENGINE, jobs = lost,
                "jobs are lost: the server has evicted their keys, or somebody has deleted them; set \
                 `maxmemory-policy` to `noeviction`"
            );
        }
        jobs.into_iter().map(answer::reserved).collect::<Result<_, _>>().map_err(unexpected)
    }

    pub(super) async fn renew(&self, owner: JobId, runs: Vec<(JobId, i64)>) -> Result<Renewed, QueueError> {
        let mut lost = Vec::new();
        for some in runs.chunks(STEP) {
            let mut call = self.call(&scripts::RENEW);
            call.arg(owner.to_string());
            for (id, run) in some {
                call.arg(id.to_string()).arg(*run);
            }
            let answer: Value = self.renewer.run(&call).await?;
            lost.extend(answer::ids(answer).map_err(unexpected)?);
        }
        Ok(Renewed { lost })
    }

    pub(super) async fn release_others(&self, owner: JobId, held: Vec<(JobId, i64)>) -> Result<(), QueueError> {
        let mut from = 0_i64;
        while from >= 0 {
            let mut call = self.call(&scripts::RELEASE_OTHERS);
            call.arg(owner.to_string()).arg(from).arg(STEP);
            for (id, run) in &held {
                call.arg(id.to_string()).arg(*run);
            }
            from = self.main.run(&call).await?;
        }
        Ok(())
    }
}
