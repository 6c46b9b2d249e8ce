//! What operators ask and do.

use sqlx::{AssertSqlSafe, Postgres, postgres::PgArguments, query::Query};

use super::{ENGINE, connect::Shared};
use crate::{
    model::{dead::DeadJob, error::QueueError, id::JobId, info::JobInfo, page::Page, stats::JobStats},
    queue::{rows, sqlx_error::sent},
};

/// All columns of a job.
const ALL: &str = "
    SELECT id::text AS id, name, state, priority, due, pushed_at, started_at, finished_at, failures, crashes, replays,
        max_attempts, max_crashes, headers::text AS headers, errors::text AS errors, progress, result, payload
    FROM postlude_jobs ";

/// Counts from the indexes alone. What was due is told from now, by the clock of the server.
const STATS: &str = "
    SELECT name, 0::int2 AS state, count(*) AS jobs, min(due) - postlude_now() AS oldest FROM postlude_jobs
        WHERE state = 0 AND crashes = 0 GROUP BY name
    UNION ALL SELECT name, 0::int2, count(*), min(due) - postlude_now() FROM postlude_jobs
        WHERE state = 0 AND crashes > 0 GROUP BY name
    UNION ALL SELECT name, 1::int2, count(*), NULL FROM postlude_jobs WHERE state = 1 GROUP BY name
    UNION ALL SELECT name, 2::int2, count(*), NULL FROM postlude_jobs WHERE state = 2 GROUP BY name
    UNION ALL SELECT name, 4::int2, count(*), NULL FROM postlude_jobs WHERE state = 4 GROUP BY name
    UNION ALL SELECT name, (-1)::int2, 0, NULL FROM postlude_paused";

const DEAD: &str = "
    WHERE state = 4 AND ($1::text IS NULL OR name = $1)
        AND ($2::text IS NULL
            OR (finished_at, seq) < (SELECT finished_at, seq FROM postlude_jobs WHERE id = $2::uuid AND state = 4))
    ORDER BY finished_at DESC, seq DESC LIMIT $3";

/// If another job holds the key by now, the replayed job does without.
const REPLAY: &str = "
    UPDATE postlude_jobs AS dead
    SET state = 0, due = (SELECT postlude_now()), failures = 0, crashes = 0, replays = replays + 1, finished_at = NULL,
        progress = NULL, result = NULL,
        unique_key = CASE WHEN NOT EXISTS (SELECT 1 FROM postlude_jobs AS holder WHERE holder.name = dead.name
            AND holder.unique_key = dead.unique_key AND holder.state <= 2) THEN unique_key END
    WHERE id = $1::uuid AND state = 4";

impl Shared {
    pub(super) async fn find(&self, id: JobId) -> Result<Option<JobInfo>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.acquire().await?;
        let query = sqlx::query(AssertSqlSafe([ALL, "WHERE id = $1::uuid"].concat())).bind(id.to_string());
        let row = query.fetch_optional(&mut *connection).await.map_err(refused)?;
        row.as_ref().map(rows::info).transpose().map_err(refused)
    }

    pub(super) async fn stats(&self) -> Result<JobStats, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.acquire().await?;
        let rows = sqlx::query(STATS).fetch_all(&mut *connection).await.map_err(refused)?;
        rows::stats(&rows, 0).map_err(refused)
    }

    pub(super) async fn cancel(&self, id: JobId) -> Result<bool, QueueError> {
        let cancel = "UPDATE postlude_jobs SET state = 5, finished_at = (SELECT postlude_now())
                      WHERE id = $1::uuid AND state IN (0, 1)";
        self.changes_one(sqlx::query(cancel).bind(id.to_string())).await
    }

    pub(super) async fn dead(&self, page: Page) -> Result<Vec<DeadJob>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.acquire().await?;
        let query = sqlx::query(AssertSqlSafe([ALL, DEAD].concat()))
            .bind(page.name)
            .bind(page.after.map(|id| id.to_string()))
            .bind(i64::from(page.limit));
        let rows = query.fetch_all(&mut *connection).await.map_err(refused)?;
        rows.iter().map(rows::dead).collect::<Result<_, _>>().map_err(refused)
    }

    pub(super) async fn replay(&self, id: JobId) -> Result<bool, QueueError> {
        let replayed = self.changes_one(sqlx::query(REPLAY).bind(id.to_string())).await?;
        self.announce();
        Ok(replayed)
    }

    pub(super) async fn discard(&self, id: JobId) -> Result<bool, QueueError> {
        let discard = "DELETE FROM postlude_jobs WHERE id = $1::uuid AND state = 4";
        self.changes_one(sqlx::query(discard).bind(id.to_string())).await
    }

    pub(super) async fn set_paused(&self, name: String, paused: bool) -> Result<bool, QueueError> {
        let pause = if paused {
            "INSERT INTO postlude_paused (name) VALUES ($1) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM postlude_paused WHERE name = $1"
        };
        let changed = self.changes_one(sqlx::query(pause).bind(name)).await?;
        self.announce();
        Ok(changed)
    }

    /// Runs a statement, and says whether it has changed a row.
    async fn changes_one(&self, query: Query<'_, Postgres, PgArguments>) -> Result<bool, QueueError> {
        let mut connection = self.acquire().await?;
        let result = query.execute(&mut *connection).await.map_err(|error| sent(ENGINE, error))?;
        Ok(result.rows_affected() > 0)
    }
}
