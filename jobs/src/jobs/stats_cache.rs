//! Figures that were counted a short time ago.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

use crate::{
    model::{error::QueueError, stats::JobStats},
    queue::Queue,
};

/// The cached figures are used for this many times the duration of the count. So counting takes a bounded share of the
/// engine's time, however often the figures are asked for.
const REUSED_FOR: u32 = 20;

/// They are never older than this.
const OLDEST: Duration = Duration::from_secs(30);

/// The figures of a queue, counted by one caller at a time.
#[derive(Debug, Default)]
pub(crate) struct StatsCache {
    last: Mutex<Option<(Instant, JobStats)>>,
}

impl StatsCache {
    pub(crate) async fn get(&self, queue: &dyn Queue) -> Result<JobStats, QueueError> {
        let mut last = self.last.lock().await;
        if let Some((_, stats)) = last.as_ref().filter(|(until, _)| Instant::now() < *until) {
            return Ok(stats.clone());
        }
        let start = Instant::now();
        let stats = queue.stats().await?;
        let reused_for = start.elapsed().saturating_mul(REUSED_FOR).min(OLDEST);
        *last = Some((Instant::now() + reused_for, stats.clone()));
        Ok(stats)
    }
}
