//! What operators ask and do.

use sqlx::{Sqlite, query::Query, sqlite::SqliteArguments};

use super::{
    ENGINE,
    connect::{Shared, now},
};
use crate::{
    model::{
        dead::DeadJob,
        error::QueueError,
        id::JobId,
        info::{JobInfo, JobState},
        page::Page,
        stats::JobStats,
    },
    queue::{rows, sqlx_error::sent},
};

/// Counts from the indexes alone.
pub(super) const STATS: &str = "
    SELECT name, 0 AS state, count(*) AS jobs, min(due) AS oldest FROM postlude_jobs
        WHERE state = 0 AND crashes = 0 GROUP BY name
    UNION ALL SELECT name, 0, count(*), min(due) FROM postlude_jobs WHERE state = 0 AND crashes > 0 GROUP BY name
    UNION ALL SELECT name, 1, count(*), NULL FROM postlude_jobs WHERE state = 1 GROUP BY name
    UNION ALL SELECT name, 2, count(*), NULL FROM postlude_jobs WHERE state = 2 GROUP BY name
    UNION ALL SELECT name, 4, count(*), NULL FROM postlude_jobs WHERE state = 4 GROUP BY name
    UNION ALL SELECT name, -1, 0, NULL FROM postlude_paused";

pub(super) const DEAD: &str = "
    SELECT * FROM postlude_jobs
    WHERE state = 4 AND (?1 IS NULL OR name = ?1)
        AND (?2 IS NULL OR (finished_at, seq) < (SELECT finished_at, seq FROM postlude_jobs WHERE id = ?2 AND state = 4))
    ORDER BY finished_at DESC, seq DESC LIMIT ?3";

/// If another job holds the key by now, the replayed job does without.
pub(super) const REPLAY: &str = "
    UPDATE postlude_jobs
    SET state = 0, due = ?2, failures = 0, crashes = 0, replays = replays + 1, finished_at = NULL,
        progress = NULL, result = NULL,
        unique_key = iif(EXISTS (SELECT 1 FROM postlude_jobs AS holder WHERE holder.name = postlude_jobs.name
            AND holder.unique_key = postlude_jobs.unique_key AND holder.state <= 2), NULL, unique_key)
    WHERE id = ?1 AND state = 4";

impl Shared {
    pub(super) async fn find(&self, id: JobId) -> Result<Option<JobInfo>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.read().await?;
        let query = sqlx::query("SELECT * FROM postlude_jobs WHERE id = ?1").bind(id.to_string());
        let row = query.fetch_optional(&mut *connection).await.map_err(refused)?;
        row.as_ref().map(rows::info).transpose().map_err(refused)
    }

    pub(super) async fn stats(&self) -> Result<JobStats, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.read().await?;
        let rows = sqlx::query(STATS).fetch_all(&mut *connection).await.map_err(refused)?;
        rows::stats(&rows, now()).map_err(refused)
    }

    pub(super) async fn cancel(&self, id: JobId) -> Result<bool, QueueError> {
        let cancel = "UPDATE postlude_jobs SET state = 5, finished_at = ?2 WHERE id = ?1 AND state IN (0, 1)";
        let query = sqlx::query(cancel).bind(id.to_string()).bind(now());
        self.changes_one(query).await
    }

    pub(super) async fn dead(&self, page: Page) -> Result<Vec<DeadJob>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.read().await?;
        let query = sqlx::query(DEAD).bind(page.name).bind(page.after.map(|id| id.to_string())).bind(page.limit);
        let rows = query.fetch_all(&mut *connection).await.map_err(refused)?;
        rows.iter().map(rows::dead).collect::<Result<_, _>>().map_err(refused)
    }

    pub(super) async fn replay(&self, id: JobId) -> Result<bool, QueueError> {
        let replayed = self.changes_one(sqlx::query(REPLAY).bind(id.to_string()).bind(now())).await?;
        self.announce();
        Ok(replayed)
    }

    pub(super) async fn discard(&self, id: JobId) -> Result<bool, QueueError> {
        let discard = "DELETE FROM postlude_jobs WHERE id = ?1 AND state = ?2";
        let query = sqlx::query(discard).bind(id.to_string()).bind(JobState::Dead.to_stored());
        self.changes_one(query).await
    }

    pub(super) async fn set_paused(&self, name: String, paused: bool) -> Result<bool, QueueError> {
        let pause = if paused {
            "INSERT INTO postlude_paused (name) VALUES (?1) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM postlude_paused WHERE name = ?1"
        };
        let changed = self.changes_one(sqlx::query(pause).bind(name)).await?;
        self.announce();
        Ok(changed)
    }

    /// Runs a statement, and says whether it has changed a row.
    async fn changes_one(&self, query: Query<'_, Sqlite, SqliteArguments>) -> Result<bool, QueueError> {
        Ok(self.execute(query).await? > 0)
    }
}
