//! Settling runs.

use sqlx::{AssertSqlSafe, PgConnection, postgres::PgQueryResult};

use super::{ENGINE, connect::Shared};
use crate::{
    model::{
        dead::{JobError, MAX_ERRORS},
        error::QueueError,
        id::JobId,
        notes::Notes,
        time::millis,
    },
    queue::{Settle, Settlement, rows, sqlx_error::sent},
};

/// Stores what runs have left behind. `LOCK` stands for how it locks their rows.
const NOTE: &str = "
    UPDATE postlude_jobs AS job SET progress = coalesce(noted.progress, job.progress),
        result = coalesce(noted.result, job.result)
    FROM unnest($2::text[], $3::int8[], $4::text[], $5::text[]) AS noted (id, run, progress, result)
    WHERE job.seq = ANY (ARRAY (
            SELECT seq FROM postlude_jobs WHERE id = ANY ($2::text[]::uuid[]) AND owner = $1::uuid AND state = 2 LOCK))
        AND job.id = noted.id::uuid AND job.run = noted.run
    RETURNING job.id::text AS id";

/// The progress of a job that is settled meanwhile, or that a transaction of a user has locked, waits for the next
/// time: to wait for the lock here, with others held, could be a deadlock.
const WITHOUT_WAITING: &str = "FOR NO KEY UPDATE SKIP LOCKED";

/// Completes runs, apart from those that were marked to run again. The payload is of no more use.
const COMPLETE: &str = "
    UPDATE postlude_jobs
    SET state = 3, finished_at = (SELECT postlude_now()), owner = NULL, lease_until = NULL, payload = ''
    WHERE id = ANY ($2::text[]::uuid[]) AND run = ($3::int8[])[array_position($2::text[], id::text)]
        AND owner = $1::uuid AND state = 2 AND again_payload IS NULL
    RETURNING id::text AS id";

/// Completes a run of a job that was marked to run again: it waits, with the payload of the latest push.
const RUN_AGAIN: &str = "
    UPDATE postlude_jobs
    SET state = 0, due = (SELECT postlude_now()), owner = NULL, lease_until = NULL, failures = 0, crashes = 0,
        payload = again_payload, headers = again_headers, again_payload = NULL, again_headers = NULL,
        progress = NULL, result = NULL
    WHERE id = $2::uuid AND run = $3 AND owner = $1::uuid AND state = 2";

const RETRY: &str = "
    UPDATE postlude_jobs
    SET state = CASE WHEN $4 > 0 THEN 1 ELSE 0 END, due = (SELECT postlude_now()) + $4, owner = NULL, lease_until = NULL,
        failures = failures + 1,
        errors = CASE WHEN jsonb_array_length(errors) >= $6 THEN errors - 1 ELSE errors END || $5::jsonb
    WHERE id = $2::uuid AND run = $3 AND owner = $1::uuid AND state = 2";

const DEAD: &str = "
    UPDATE postlude_jobs
    SET state = 4, finished_at = (SELECT postlude_now()), owner = NULL, lease_until = NULL, failures = failures + 1,
        errors = CASE WHEN jsonb_array_length(errors) >= $5 THEN errors - 1 ELSE errors END || $4::jsonb
    WHERE id = $2::uuid AND run = $3 AND owner = $1::uuid AND state = 2";

const RELEASE: &str = "
    UPDATE postlude_jobs
    SET state = CASE WHEN $4 > 0 THEN 1 ELSE 0 END, due = (SELECT postlude_now()) + $4, owner = NULL, lease_until = NULL
    WHERE id = $2::uuid AND run = $3 AND owner = $1::uuid AND state = 2";

/// Stores the push that came while a job was running that is dead now, as a job of its own.
const FOLLOW: &str = "
    INSERT INTO postlude_jobs
        (id, name, state, priority, due, pushed_at, max_attempts, max_crashes, unique_key, headers, payload)
    SELECT $2::uuid, name, 0, priority, postlude_now(), postlude_now(), max_attempts, max_crashes, unique_key,
        again_headers, again_payload
    FROM postlude_jobs WHERE id = $1::uuid AND state = 4 AND again_payload IS NOT NULL
    ON CONFLICT DO NOTHING";

impl Shared {
    pub(super) async fn settle(&self, owner: JobId, settlements: Vec<Settlement>) -> Result<Vec<JobId>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let notes: Vec<_> = settlements
            .iter()
            .filter(|one| !one.notes.is_empty())
            .map(|one| ((one.id, one.run), one.notes.clone()))
            .collect();
        if !notes.is_empty() {
            // Apart from the settlement, and before it: of two tries, the second one finds them stored.
            self.note_all(owner, notes, "").await?;
        }
        let owner = owner.to_string();
        let completed = self.complete(&owner, &settlements).await?;
        let rest: Vec<&Settlement> = settlements
            .iter()
            .filter(|one| !(matches!(one.settle, Settle::Complete) && completed.contains(&one.id)))
            .collect();
        let mut lost = Vec::new();
        if !rest.is_empty() {
            let mut transaction = self.begin().await?;
            for settlement in rest {
                if settle(&mut transaction, &owner, settlement).await.map_err(refused)?.rows_affected() == 0 {
                    lost.push(settlement.id);
                }
            }
            transaction.commit().await.map_err(refused)?;
        }
        Ok(lost)
    }

    pub(super) async fn note(&self, owner: JobId, notes: Vec<((JobId, i64), Notes)>) -> Result<Vec<JobId>, QueueError> {
        self.note_all(owner, notes, WITHOUT_WAITING).await
    }

    async fn note_all(
        &self,
        owner: JobId,
        notes: Vec<((JobId, i64), Notes)>,
        lock: &str,
    ) -> Result<Vec<JobId>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let (runs, notes): (Vec<_>, Vec<_>) = notes.into_iter().unzip();
        let (ids, runs): (Vec<String>, Vec<i64>) = runs.into_iter().map(|(id, run)| (id.to_string(), run)).unzip();
        let (progress, results): (Vec<_>, Vec<_>) = notes.into_iter().map(|one| (one.progress, one.result)).unzip();
        let query = sqlx::query(AssertSqlSafe(NOTE.replace("LOCK", lock)))
            .bind(owner.to_string())
            .bind(ids)
            .bind(runs)
            .bind(progress)
            .bind(results);
        let mut connection = self.acquire().await?;
        let rows = query.fetch_all(&mut *connection).await.map_err(refused)?;
        rows.iter().map(rows::id).collect::<Result<_, _>>().map_err(refused)
    }

    async fn complete(&self, owner: &str, settlements: &[Settlement]) -> Result<Vec<JobId>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let completed = settlements.iter().filter(|one| matches!(one.settle, Settle::Complete));
        let (ids, runs): (Vec<String>, Vec<i64>) = completed.map(|one| (one.id.to_string(), one.run)).unzip();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.acquire().await?;
        let query = sqlx::query(COMPLETE).bind(owner).bind(ids).bind(runs);
        let rows = query.fetch_all(&mut *connection).await.map_err(refused)?;
        rows.iter().map(rows::id).collect::<Result<_, _>>().map_err(refused)
    }
}

/// Settles one run. It affects no row if it is no longer this owner's.
async fn settle(
    connection: &mut PgConnection,
    owner: &str,
    settlement: &Settlement,
) -> Result<PgQueryResult, sqlx::Error> {
    let (id, run) = (settlement.id.to_string(), settlement.run);
    match &settlement.settle {
        Settle::Complete => sqlx::query(RUN_AGAIN).bind(owner).bind(id).bind(run).execute(connection).await,
        Settle::Retry { after, error } => {
            let query = sqlx::query(RETRY).bind(owner).bind(id).bind(run).bind(millis(*after));
            query.bind(error.to_stored()).bind(MAX_ERRORS).execute(connection).await
        }
        Settle::Release { after } => {
            let query = sqlx::query(RELEASE).bind(owner).bind(id).bind(run).bind(millis(*after));
            query.execute(connection).await
        }
        Settle::Dead { error } => {
            let query = sqlx::query(DEAD).bind(owner).bind(&id).bind(run).bind(error.to_stored()).bind(MAX_ERRORS);
            let result = query.execute(&mut *connection).await?;
            follow(connection, settlement.id).await?;
            Ok(result)
        }
    }
}

/// After a job has died: stores what was pushed with its key while it was running.
pub(super) async fn follow(connection: &mut PgConnection, dead: JobId) -> Result<(), sqlx::Error> {
    let new = JobId::generate();
    let query = sqlx::query(FOLLOW).bind(dead.to_string()).bind(new.to_string());
    if query.execute(&mut *connection).await?.rows_affected() > 0 {
        sqlx::query("UPDATE postlude_jobs SET again_payload = NULL, again_headers = NULL WHERE id = $1::uuid")
            .bind(dead.to_string())
            .execute(connection)
            .await?;
        tracing::info!(target: "postlude_jobs", %dead, job = %new, "stored the push that came while the dead job was running");
    }
    Ok(())
}

/// Adds an error to a job that has crashed.
pub(super) async fn add_error(connection: &mut PgConnection, id: JobId, error: &JobError) -> Result<(), sqlx::Error> {
    let add = "UPDATE postlude_jobs SET errors =
        CASE WHEN jsonb_array_length(errors) >= $3 THEN errors - 1 ELSE errors END || $2::jsonb WHERE id = $1::uuid";
    sqlx::query(add).bind(id.to_string()).bind(error.to_stored()).bind(MAX_ERRORS).execute(connection).await?;
    Ok(())
}
