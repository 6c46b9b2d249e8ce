//! Settling runs.

use sqlx::{SqliteConnection, sqlite::SqliteQueryResult};

use super::{
    ENGINE,
    connect::{Shared, now},
    rows,
};
use crate::{
    model::{
        dead::{JobError, MAX_ERRORS},
        error::QueueError,
        id::JobId,
        info::JobState,
        time::millis,
    },
    queue::{Settle, Settlement, sqlx_error::sent},
};

/// Completes runs, apart from those that were marked to run again. The payload is of no more use.
pub(super) const COMPLETE: &str = "
    UPDATE postlude_jobs
    SET state = 3, finished_at = ?2, owner = NULL, lease_until = NULL, payload = x''
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS run FROM json_each(?3)) AS done
    WHERE postlude_jobs.id = done.id AND postlude_jobs.run = done.run AND owner = ?1 AND state = 2
        AND again_payload IS NULL
    RETURNING postlude_jobs.id";

/// Completes a run of a job that was marked to run again: it waits, with the payload of the latest push.
pub(super) const RUN_AGAIN: &str = "
    UPDATE postlude_jobs
    SET state = 0, due = ?2, owner = NULL, lease_until = NULL, failures = 0, crashes = 0,
        payload = again_payload, headers = again_headers, again_payload = NULL, again_headers = NULL
    WHERE id = ?3 AND run = ?4 AND owner = ?1 AND state = 2";

pub(super) const RETRY: &str = "
    UPDATE postlude_jobs
    SET state = ?5, due = ?2, owner = NULL, lease_until = NULL, failures = failures + 1,
        errors = json_insert(iif(json_array_length(errors) >= ?7, json_remove(errors, '$[1]'), errors), '$[#]', json(?6))
    WHERE id = ?3 AND run = ?4 AND owner = ?1 AND state = 2";

pub(super) const DEAD: &str = "
    UPDATE postlude_jobs
    SET state = 4, finished_at = ?2, owner = NULL, lease_until = NULL, failures = failures + 1,
        errors = json_insert(iif(json_array_length(errors) >= ?6, json_remove(errors, '$[1]'), errors), '$[#]', json(?5))
    WHERE id = ?3 AND run = ?4 AND owner = ?1 AND state = 2";

pub(super) const RELEASE: &str = "
    UPDATE postlude_jobs
    SET state = ?5, due = ?2, owner = NULL, lease_until = NULL
    WHERE id = ?3 AND run = ?4 AND owner = ?1 AND state = 2";

/// Stores the push that came while a job was running that is dead now, as a job of its own.
pub(super) const FOLLOW: &str = "
    INSERT INTO postlude_jobs
        (id, name, state, priority, due, pushed_at, max_attempts, max_crashes, unique_key, headers, payload)
    SELECT ?2, name, 0, priority, ?3, ?3, max_attempts, max_crashes, unique_key, again_headers, again_payload
    FROM postlude_jobs WHERE id = ?1 AND again_payload IS NOT NULL";

impl Shared {
    pub(super) async fn settle(&self, owner: JobId, settlements: Vec<Settlement>) -> Result<Vec<JobId>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut transaction = self.begin().await?;
        let mut step = Step { connection: &mut transaction, owner: owner.to_string(), now: now() };
        let completed = step.complete(&settlements).await.map_err(refused)?;
        let mut lost = Vec::new();
        for settlement in &settlements {
            let is_complete = matches!(settlement.settle, Settle::Complete) && completed.contains(&settlement.id);
            if !is_complete && step.settle(settlement).await.map_err(refused)? == 0 {
                lost.push(settlement.id);
            }
        }
        transaction.commit().await.map_err(refused)?;
        Ok(lost)
    }
}

/// The settlements of one transaction.
struct Step<'a> {
    connection: &'a mut SqliteConnection,
    owner: String,
    now: i64,
}

impl Step<'_> {
    async fn complete(&mut self, settlements: &[Settlement]) -> Result<Vec<JobId>, sqlx::Error> {
        let completed = settlements.iter().filter(|one| matches!(one.settle, Settle::Complete));
        let runs: Vec<(JobId, i64)> = completed.map(|one| (one.id, one.run)).collect();
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(COMPLETE)
            .bind(&self.owner)
            .bind(self.now)
            .bind(serde_json::to_string(&runs).unwrap_or_default())
            .fetch_all(&mut *self.connection)
            .await?;
        rows.iter().map(|row| rows::id(row, "id")).collect()
    }

    /// Settles one run; returns 0 if it is no longer this owner's.
    async fn settle(&mut self, settlement: &Settlement) -> Result<u64, sqlx::Error> {
        let (id, run) = (settlement.id.to_string(), settlement.run);
        let result: SqliteQueryResult = match &settlement.settle {
            Settle::Complete => {
                let query = sqlx::query(RUN_AGAIN).bind(&self.owner).bind(self.now).bind(&id).bind(run);
                query.execute(&mut *self.connection).await?
            }
            Settle::Retry { after, error } => {
                let (due, state) = self.due(millis(*after));
                let query = sqlx::query(RETRY).bind(&self.owner).bind(due).bind(&id).bind(run).bind(state);
                let query = query.bind(error.to_stored()).bind(MAX_ERRORS);
                query.execute(&mut *self.connection).await?
            }
            Settle::Release { after } => {
                let (due, state) = self.due(millis(*after));
                let query = sqlx::query(RELEASE).bind(&self.owner).bind(due).bind(&id).bind(run).bind(state);
                query.execute(&mut *self.connection).await?
            }
            Settle::Dead { error } => {
                let query = sqlx::query(DEAD).bind(&self.owner).bind(self.now).bind(&id).bind(run);
                let result = query.bind(error.to_stored()).bind(MAX_ERRORS).execute(&mut *self.connection).await?;
                follow(self.connection, settlement.id, self.now).await?;
                result
            }
        };
        Ok(result.rows_affected())
    }

    fn due(&self, after: i64) -> (i64, i16) {
        let state = if after > 0 { JobState::Scheduled } else { JobState::Waiting };
        (self.now + after, state.to_stored())
    }
}

/// After a job has died: stores what was pushed with its key while it was running.
pub(super) async fn follow(connection: &mut SqliteConnection, dead: JobId, now: i64) -> Result<(), sqlx::Error> {
    let new = JobId::generate();
    let query = sqlx::query(FOLLOW).bind(dead.to_string()).bind(new.to_string()).bind(now);
    if query.execute(&mut *connection).await?.rows_affected() > 0 {
        sqlx::query("UPDATE postlude_jobs SET again_payload = NULL, again_headers = NULL WHERE id = ?1")
            .bind(dead.to_string())
            .execute(connection)
            .await?;
        tracing::info!(target: "postlude_jobs", %dead, job = %new, "stored the push that came while the dead job was running");
    }
    Ok(())
}

/// Adds an error to a job that has crashed: the SQL of [`RETRY`] without a run.
pub(super) async fn add_error(
    connection: &mut SqliteConnection,
    id: JobId,
    error: &JobError,
) -> Result<(), sqlx::Error> {
    let add = "UPDATE postlude_jobs SET errors = json_insert(
        iif(json_array_length(errors) >= ?3, json_remove(errors, '$[1]'), errors), '$[#]', json(?2)) WHERE id = ?1";
    sqlx::query(add).bind(id.to_string()).bind(error.to_stored()).bind(MAX_ERRORS).execute(connection).await?;
    Ok(())
}
