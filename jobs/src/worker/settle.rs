//! Settling what has ended.

use std::sync::{Arc, atomic::AtomicU64};

use tokio::{sync::mpsc, time::sleep};

use super::{
    Worker,
    backoff::Backoff,
    held::RunKey,
    metrics::{Counters, count},
};
use crate::{
    model::notes::Notes,
    queue::{Settle, Settlement},
};

/// How many runs are settled in one transaction.
const BATCH: usize = 256;

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) run: Run,
    pub(crate) settle: Settle,
    pub(crate) notes: Notes,
}

/// What of a run decides on its settlement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) key: RunKey,
    pub(crate) name: &'static str,
    pub(crate) failures: u32,
    pub(crate) crashes: u32,
    pub(crate) max_attempts: u32,
}

/// Settles what ends, for ever. While the engine fails, the leases are kept, and nothing is settled twice.
pub(super) async fn run(worker: &Arc<Worker>, mut ends: mpsc::UnboundedReceiver<Ended>) {
    let mut backoff = Backoff::default();
    let mut batch = Vec::with_capacity(BATCH);
    while ends.recv_many(&mut batch, BATCH).await > 0 {
        let (lost, kept): (Vec<_>, Vec<_>) = batch.drain(..).partition(|ended| worker.held.is_lost(ended.run.key));
        lost.iter().for_each(|ended| worker.held.remove(ended.run.key));
        if !kept.is_empty() {
            settle(worker, &mut backoff, kept).await;
        }
        worker.changed.notify_one();
    }
}

async fn settle(worker: &Worker, backoff: &mut Backoff, ended: Vec<Ended>) {
    let settlements: Vec<Settlement> = ended
        .iter()
        .map(|Ended { run, settle, notes }| {
            let (id, run) = run.key;
            Settlement { id, run, settle: settle.clone(), notes: notes.clone() }
        })
        .collect();
    let mut may_be_done = false;
    let refused = loop {
        match worker.ask(worker.queue.settle(worker.owner, settlements.clone())).await {
            Ok(refused) => break refused,
            Err(error) => {
                may_be_done |= error.may_be_done();
                let wait = worker.engine_failed(backoff, "settle jobs", &error);
                sleep(wait).await;
            }
        }
    };
    worker.engine_answered(backoff, "settle jobs");
    for Ended { run, settle, .. } in ended {
        if refused.contains(&run.key.0) {
            report_refused(worker, &run, may_be_done);
        } else {
            report(&worker.counters, &run, &settle);
        }
        worker.held.remove(run.key);
    }
}

/// The lease was lost before the settlement. If an earlier try had no answer, that one may have settled the run.
fn report_refused(worker: &Worker, run: &Run, may_be_done: bool) {
    if may_be_done && !worker.held.is_lost(run.key) {
        tracing::info!(
            target: "postlude_jobs", job = %run.key.0, name = run.name,
            "the settlement of a job was refused, after one that had no answer: that one has probably settled it"
        );
        return;
    }
    count(&worker.counters.refused, 1);
    tracing::error!(
        target: "postlude_jobs", job = %run.key.0, name = run.name,
        "the settlement of a job was refused: its lease was lost, and the job may run twice"
    );
}

fn report(counters: &Counters, run: &Run, settle: &Settle) {
    let (id, name) = (run.key.0, run.name);
    let counter: &AtomicU64 = match settle {
        Settle::Complete => &counters.completed,
        Settle::Retry { after, error } => {
            let (attempt, error) = (error.attempt, &error.message);
            tracing::warn!(target: "postlude_jobs", job = %id, name, attempt, error, next_attempt_in = ?after, "a job failed");
            &counters.retried
        }
        Settle::Dead { error } => {
            let (attempt, error) = (error.attempt, &error.message);
            tracing::error!(
                target: "postlude_jobs", job = %id, name, attempt, error,
                "a job is dead: it is kept until it is replayed or discarded"
            );
            &counters.dead
        }
        Settle::Release { after } => {
            tracing::debug!(target: "postlude_jobs", job = %id, name, ?after, "a job was released");
            &counters.released
        }
    };
    count(counter, 1);
}
