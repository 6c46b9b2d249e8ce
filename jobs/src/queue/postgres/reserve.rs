//! Taking jobs, and keeping them.

use sqlx::AssertSqlSafe;

use super::{ENGINE, connect::Shared};
use crate::{
    model::{error::QueueError, id::JobId},
    queue::{Renewed, Reservation, Reserved, rows, sqlx_error::sent},
};

/// Takes the first waiting jobs: of each name as many as may start, and of all names the first. `CRASHED` stands for
/// the condition on crashes, which chooses the index.
const RESERVE: &str = "
    UPDATE postlude_jobs AS job
    SET state = 2, owner = $1::uuid, run = run + 1, started_at = now.ms, lease_until = now.ms + now.lease,
        progress = NULL, result = NULL
    FROM (SELECT postlude_now() AS ms, value AS lease FROM postlude_settings WHERE name = 'lease') AS now
    WHERE job.seq = ANY (ARRAY (
        SELECT first.seq
        FROM unnest($2::text[], $3::int8[]) AS wanted (name, quota) CROSS JOIN LATERAL (
            SELECT seq, priority FROM postlude_jobs
            WHERE state = 0 AND CRASHED AND name = wanted.name
            ORDER BY priority, seq LIMIT wanted.quota
            FOR UPDATE SKIP LOCKED
        ) AS first
        WHERE wanted.name NOT IN (SELECT name FROM postlude_paused)
        ORDER BY first.priority, first.seq LIMIT $4
    ))
    RETURNING job.seq, job.id::text AS id, job.name, job.priority, job.pushed_at, job.run, job.failures, job.crashes,
        job.max_attempts, job.headers::text AS headers, job.payload";

/// Renews the leases of those runs that are still this owner's, and returns their ids. A job that a transaction of a
/// user has locked is left alone: nobody else can take it before that ends.
const RENEW: &str = "
    WITH mine AS (
        SELECT seq, id FROM postlude_jobs
        WHERE id = ANY ($2::text[]::uuid[]) AND run = ($3::int8[])[array_position($2::text[], id::text)]
            AND owner = $1::uuid AND state = 2
    ), free AS (
        SELECT seq FROM postlude_jobs
        WHERE seq = ANY (ARRAY (SELECT seq FROM mine)) AND owner = $1::uuid AND state = 2
        FOR UPDATE SKIP LOCKED
    ), renewed AS (
        UPDATE postlude_jobs
        SET lease_until = (SELECT postlude_now() + value FROM postlude_settings WHERE name = 'lease')
        WHERE seq = ANY (ARRAY (SELECT seq FROM free))
    )
    SELECT id::text AS id FROM mine";

const RELEASE_OTHERS: &str = "
    UPDATE postlude_jobs SET state = 0, owner = NULL, lease_until = NULL
    WHERE state = 2 AND owner = $1::uuid
        AND NOT EXISTS (SELECT 1 FROM unnest($2::text[], $3::int8[]) AS held (id, run)
            WHERE held.id::uuid = postlude_jobs.id AND held.run = postlude_jobs.run)";

impl Shared {
    pub(super) async fn reserve(&self, wanted: Reservation) -> Result<Vec<Reserved>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.acquire().await?;
        let as_i64 = |count: usize| i64::try_from(count.min(wanted.limit)).unwrap_or(i64::MAX);
        let (names, quotas): (Vec<&str>, Vec<i64>) =
            wanted.names.iter().map(|(name, count)| (*name, as_i64(*count))).unzip();
        let crashed = if wanted.crashed { "crashes > 0" } else { "crashes = 0" };
        let rows = sqlx::query(AssertSqlSafe(RESERVE.replace("CRASHED", crashed)))
            .bind(wanted.owner.to_string())
            .bind(names)
            .bind(quotas)
            .bind(as_i64(wanted.limit))
            .fetch_all(&mut *connection)
            .await
            .map_err(refused)?;
        rows::reserved(&rows).map_err(refused)
    }

    pub(super) async fn renew(&self, owner: JobId, runs: Vec<(JobId, i64)>) -> Result<Renewed, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.beside().acquire().await?;
        let (ids, numbers): (Vec<String>, Vec<i64>) = runs.iter().map(|(id, run)| (id.to_string(), *run)).unzip();
        let query = sqlx::query(RENEW).bind(owner.to_string()).bind(ids).bind(numbers);
        let rows = query.fetch_all(&mut *connection).await.map_err(refused)?;
        let kept = rows.iter().map(rows::id).collect::<Result<Vec<_>, _>>().map_err(refused)?;
        Ok(Renewed { lost: runs.into_iter().map(|(id, _)| id).filter(|id| !kept.contains(id)).collect() })
    }

    pub(super) async fn release_others(&self, owner: JobId, held: Vec<(JobId, i64)>) -> Result<(), QueueError> {
        let mut connection = self.acquire().await?;
        let (ids, runs): (Vec<String>, Vec<i64>) = held.into_iter().map(|(id, run)| (id.to_string(), run)).unzip();
        let query = sqlx::query(RELEASE_OTHERS).bind(owner.to_string()).bind(ids).bind(runs);
        query.execute(&mut *connection).await.map_err(|error| sent(ENGINE, error))?;
        Ok(())
    }
}
