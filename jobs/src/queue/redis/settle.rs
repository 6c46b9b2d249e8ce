//! Settling runs.

use redis::Value;

use super::{
    answer::{self, Row},
    connect::{STEP, Shared},
    error::unexpected,
    scripts,
};
use crate::{
    model::{error::QueueError, id::JobId, notes::Notes, time::millis},
    queue::{Settle, Settlement},
};

impl Shared {
    pub(super) async fn settle(&self, owner: JobId, settlements: Vec<Settlement>) -> Result<Vec<JobId>, QueueError> {
        let mut refused = Vec::new();
        for some in settlements.chunks(STEP) {
            let mut call = self.call(&scripts::SETTLE);
            call.arg(owner.to_string());
            for Settlement { id, run, settle, notes } in some {
                let (kind, after, error) = match settle {
                    Settle::Complete => ("complete", 0, None),
                    Settle::Retry { after, error } => ("retry", millis(*after), Some(error)),
                    Settle::Dead { error } => ("dead", 0, Some(error)),
                    Settle::Release { after } => ("release", millis(*after), None),
                };
                // A job may have to follow one that is dead.
                let follower = matches!(settle, Settle::Dead { .. }).then(|| JobId::generate().to_string());
                call.arg(id.to_string())
                    .arg(*run)
                    .arg(kind)
                    .arg(after)
                    .arg(error.map(|error| error.to_stored()).unwrap_or_default())
                    .arg(notes.progress.as_deref().unwrap_or_default())
                    .arg(notes.result.as_deref().unwrap_or_default())
                    .arg(follower.unwrap_or_default());
            }
            let answer: Value = self.main.run(&call).await?;
            let mut answer = Row::new(answer).map_err(unexpected)?;
            refused.extend(answer.take().map_err(unexpected).and_then(|ids| answer::ids(ids).map_err(unexpected))?);
            let followed: Vec<String> = answer.take().map_err(unexpected)?;
            for pair in followed.chunks_exact(2) {
                if let [dead, job] = pair {
                    tracing::info!(
                        target: "postlude_jobs", %dead, %job, "stored the push that came while the dead job was running"
                    );
                }
            }
        }
        Ok(refused)
    }

    pub(super) async fn note(&self, owner: JobId, notes: Vec<((JobId, i64), Notes)>) -> Result<Vec<JobId>, QueueError> {
        for some in notes.chunks(STEP) {
            let mut call = self.call(&scripts::NOTE);
            call.arg(owner.to_string());
            for ((id, run), notes) in some {
                call.arg(id.to_string())
                    .arg(*run)
                    .arg(notes.progress.as_deref().unwrap_or_default())
                    .arg(notes.result.as_deref().unwrap_or_default());
            }
            self.main.run::<()>(&call).await?;
        }
        // Nobody locks jobs here.
        Ok(notes.into_iter().map(|((id, _), _)| id).collect())
    }
}
