//! What operators ask and do.

use redis::Value;

use super::{
    answer::{self, Row, Shown},
    connect::Shared,
    error::unexpected,
    scripts,
};
use crate::model::{
    dead::DeadJob, error::QueueError, id::JobId, info::JobInfo, page::Page, stats::JobStats, time::duration,
};

/// How many dead jobs are read at once, with their payloads.
const DEAD_STEP: usize = 100;

impl Shared {
    pub(super) async fn find(&self, id: JobId) -> Result<Option<JobInfo>, QueueError> {
        let mut shown = self.show(false, &[id]).await?;
        Ok(shown.pop().map(|shown| shown.info))
    }

    pub(super) async fn stats(&self) -> Result<JobStats, QueueError> {
        let answer: Value = self.main.run(&self.call(&scripts::STATS)).await?;
        let read = |rows: Vec<Row>| {
            let mut stats = JobStats::default();
            for mut row in rows {
                let name: String = row.take()?;
                let counts: [i64; 4] = [row.take()?, row.take()?, row.take()?, row.take()?];
                let oldest: Option<i64> = row.take()?;
                let is_paused = row.take::<u8>()? == 1;
                if counts == [0; 4] && !is_paused {
                    // It had jobs once.
                    continue;
                }
                let figures = stats.names.entry(name).or_default();
                for (state, jobs) in [0, 1, 2, 4].into_iter().zip(counts) {
                    figures.add(state, jobs, None);
                }
                figures.oldest_waiting = oldest.map(duration);
                figures.paused = is_paused;
            }
            Ok(stats)
        };
        answer::rows(answer).and_then(read).map_err(unexpected)
    }

    pub(super) async fn cancel(&self, id: JobId) -> Result<bool, QueueError> {
        self.main.run(self.call(&scripts::CANCEL).arg(id.to_string())).await
    }

    pub(super) async fn dead(&self, page: Page) -> Result<Vec<DeadJob>, QueueError> {
        let mut call = self.call(&scripts::DEAD);
        call.arg(page.name.unwrap_or_default());
        call.arg(page.after.map(|id| id.to_string()).unwrap_or_default()).arg(page.limit);
        let answer: Value = self.main.run(&call).await?;
        let ids = answer::ids(answer).map_err(unexpected)?;
        let mut dead = Vec::with_capacity(ids.len());
        for some in ids.chunks(DEAD_STEP) {
            let shown = self.show(true, some).await?.into_iter();
            // Some may have been replayed meanwhile.
            dead.extend(shown.filter(|one| one.info.state == crate::model::info::JobState::Dead).map(Shown::dead));
        }
        Ok(dead)
    }

    pub(super) async fn replay(&self, id: JobId) -> Result<bool, QueueError> {
        let replayed = self.main.run(self.call(&scripts::REPLAY).arg(id.to_string())).await?;
        self.announce();
        Ok(replayed)
    }

    pub(super) async fn discard(&self, id: JobId) -> Result<bool, QueueError> {
        self.main.run(self.call(&scripts::DISCARD).arg(id.to_string())).await
    }

    pub(super) async fn set_paused(&self, name: String, paused: bool) -> Result<bool, QueueError> {
        let changed = self.main.run(self.call(&scripts::PAUSE).arg(name).arg(paused)).await?;
        self.announce();
        Ok(changed)
    }

    async fn show(&self, with_payload: bool, ids: &[JobId]) -> Result<Vec<Shown>, QueueError> {
        let mut call = self.call(&scripts::SHOW);
        call.arg(with_payload);
        for id in ids {
            call.arg(id.to_string());
        }
        let answer: Value = self.main.run(&call).await?;
        let read = |rows: Vec<Row>| rows.into_iter().map(Shown::read).collect();
        answer::rows(answer).and_then(read).map_err(unexpected)
    }
}
