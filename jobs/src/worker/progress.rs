//! Storing the progress of running jobs, so that other processes see it.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{Worker, backoff::Backoff};
use crate::model::notes::{Notes, progress_to_stored};

/// How often progress is stored, at most.
const STORE_EVERY: Duration = Duration::from_secs(1);

/// Stores what the jobs of this worker have reported since. Never returns.
pub(super) async fn run(worker: &Arc<Worker>) {
    let mut backoff = Backoff::default();
    loop {
        sleep(STORE_EVERY).await;
        let notes: Vec<_> = worker
            .held
            .take_progress()
            .into_iter()
            .map(|(run, progress)| (run, Notes { progress: Some(progress_to_stored(&progress)), result: None }))
            .collect();
        if notes.is_empty() {
            continue;
        }
        // What could not be stored is stored with the next report, or when the handler returns.
        match worker.ask(worker.queue.note(worker.owner, notes)).await {
            Ok(()) => worker.engine_answered(&mut backoff, "store the progress of jobs"),
            Err(error) => {
                let wait = worker.engine_failed(&mut backoff, "store the progress of jobs", &error);
                sleep(wait).await;
            }
        }
    }
}
