//! Settling runs.

use std::{sync::Arc, time::Duration};

use super::{connect::Shared, consumer::Deliveries, message::Message, publisher::Outgoing};
use crate::{
    model::{dead::JobError, error::QueueError, id::JobId, notes::Notes},
    queue::{Settle, Settlement},
};

/// What becomes of a run.
#[derive(Clone, Debug)]
pub(super) enum Becomes {
    Completed,
    /// It waits again, after a while. It counts as nothing.
    Waiting(Duration),
    /// It has failed, and waits again after a while.
    Failed(Duration, JobError),
    Dead(JobError),
}

/// Where the message of a run goes.
enum Goes {
    /// To those that wait, after a while.
    After(Duration),
    Dead,
}

impl Shared {
    pub(super) async fn settle(&self, owner: JobId, settlements: Vec<Settlement>) -> Result<Vec<JobId>, QueueError> {
        let Some(deliveries) = self.worker(owner) else {
            return Ok(settlements.into_iter().map(|settlement| settlement.id).collect());
        };
        let ids: Vec<(i64, JobId)> = settlements.iter().map(|settlement| (settlement.run, settlement.id)).collect();
        let becomes = |settle| match settle {
            Settle::Complete => Becomes::Completed,
            Settle::Retry { after, error } => Becomes::Failed(after, error),
            Settle::Dead { error } => Becomes::Dead(error),
            Settle::Release { after } => Becomes::Waiting(after),
        };
        let runs_become = settlements.into_iter().map(|settlement| (settlement.run, becomes(settlement.settle)));
        let refused = self.move_on(&deliveries, runs_become.collect()).await?;
        Ok(ids.into_iter().filter(|(run, _)| refused.contains(run)).map(|(_, id)| id).collect())
    }

    /// Stores what becomes of runs, and then has the broker forget what they were. If the process dies between the two,
    /// the job is stored twice, and runs twice. Returns the runs that are no longer this worker's.
    ///
    /// After an error, it can be called again with the same runs: what was stored is not stored again.
    pub(super) async fn move_on(
        &self,
        deliveries: &Arc<Deliveries>,
        runs: Vec<(i64, Becomes)>,
    ) -> Result<Vec<i64>, QueueError> {
        let all: Vec<i64> = runs.iter().map(|(run, _)| *run).collect();
        let mut done = Vec::new();
        let mut moves: Vec<(i64, Goes, Message)> = Vec::new();
        for (run, becomes) in runs {
            match (deliveries.message(run), becomes) {
                (Some((message, false)), Becomes::Waiting(after)) => {
                    moves.push((run, Goes::After(after), message));
                }
                (Some((mut message, false)), Becomes::Failed(after, error)) => {
                    message.failures = message.failures.saturating_add(1);
                    message.add_error(error);
                    moves.push((run, Goes::After(after), message));
                }
                (Some((mut message, false)), Becomes::Dead(error)) => {
                    message.failures =
                        message.failures.saturating_add(u32::from(message.crashes < message.max_crashes));
                    message.add_error(error);
                    moves.push((run, Goes::Dead, message));
                }
                // It has completed, or is stored already, or is lost.
                (Some((_, true)) | None, _) | (_, Becomes::Completed) => done.push(run),
            }
        }
        let mut failure = None;
        if !moves.is_empty() {
            let outgoing = moves.iter().map(|(_, goes, message)| match goes {
                Goes::After(delay) => Outgoing::after(*delay, message),
                Goes::Dead => Outgoing::dead(message),
            });
            let outgoing: Vec<Outgoing<'_>> = outgoing.collect();
            let results = self.publisher.publish(&outgoing).await;
            for ((run, ..), result) in moves.iter().zip(results) {
                match result {
                    Ok(()) => {
                        deliveries.moved(*run);
                        done.push(*run);
                    }
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        let mut refused = Vec::new();
        for run in done {
            if !deliveries.acknowledge(run).await {
                refused.push(run);
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        deliveries.forget_settled(&all);
        Ok(refused)
    }

    /// The broker keeps no notes with a message: they are dropped, as if they were stored.
    pub(super) async fn note(
        &self,
        _owner: JobId,
        notes: Vec<((JobId, i64), Notes)>,
    ) -> Result<Vec<JobId>, QueueError> {
        Ok(notes.into_iter().map(|((id, _), _)| id).collect())
    }
}
