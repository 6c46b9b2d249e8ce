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
        let new = worker.held.new_progress();
        if new.is_empty() {
            continue;
        }
        let to_notes = |progress| Notes { progress: Some(progress_to_stored(progress)), result: None };
        let notes = new.iter().map(|(run, progress)| (*run, to_notes(progress))).collect();
        // What is not stored now is new again the next time.
        match worker.ask(worker.queue.note(worker.owner, notes)).await {
            Ok(stored) => {
                for (run, progress) in new.into_iter().filter(|((id, _), _)| stored.contains(id)) {
                    worker.held.progress_stored(run, progress);
                }
                worker.engine_answered(&mut backoff, "store the progress of jobs");
            }
            Err(error) => {
                let wait = worker.engine_failed(&mut backoff, "store the progress of jobs", &error);
                sleep(wait).await;
            }
        }
    }
}
