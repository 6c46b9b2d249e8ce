//! Renewing leases.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{Worker, backoff::Backoff, held::RunKey, metrics::count};

/// Renews the leases of the jobs that the worker holds, each third of a lease. Never returns.
pub(super) async fn run(worker: &Arc<Worker>) {
    let mut backoff = Backoff::default();
    loop {
        let lease = worker.lease();
        let due = Instant::now() + lease / 3;
        sleep_until(due).await;
        warn_if_late(worker, due.elapsed(), lease);
        loop {
            let runs = worker.held.kept();
            if runs.is_empty() {
                break;
            }
            // In time for another try before the leases run out.
            let renewal = worker.queue.renew(worker.owner, runs.clone());
            match worker.ask_within(super::ENGINE_LIMIT.min(lease / 3), renewal).await {
                Ok(renewed) => {
                    worker.engine_answered(&mut backoff, "renew leases");
                    for run in runs.into_iter().filter(|(id, _)| renewed.lost.contains(id)) {
                        lost(worker, run);
                    }
                    break;
                }
                Err(error) => {
                    let wait = worker.engine_failed(&mut backoff, "renew leases", &error);
                    sleep(wait.min(lease / 6)).await;
                }
            }
        }
    }
}

/// Cancels an attempt whose lease is lost: another worker may run the job.
pub(super) fn lost(worker: &Worker, run: RunKey) {
    if !worker.held.lose(run) {
        return;
    }
    let task = worker.held.task(run);
    count(&worker.counters.lost, 1);
    let task_id = task.map(|task| task.to_string());
    tracing::error!(
        target: "postlude_jobs", job = %run.0, task = task_id,
        "the lease of a job is lost, and its attempt is cancelled: another worker may run it, too"
    );
    if let Some(task) = task {
        worker.registry.abort(task);
    }
}

/// A runtime that is too busy to renew loses its leases, and its jobs run twice.
fn warn_if_late(worker: &Worker, late: Duration, lease: Duration) {
    if late > lease / 3 {
        count(&worker.counters.late_renewals, 1);
        tracing::warn!(
            target: "postlude_jobs", ?late, ?lease,
            "the runtime was too busy to renew leases in time: move work that does not yield to blocking threads, or set a \
             longer lease (with RabbitMQ, a longer `heartbeat` in the URL)"
        );
    }
}
