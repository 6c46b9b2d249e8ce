//! Settling runs.

use sqlx::{SqliteConnection, sqlite::SqliteQueryResult};

use super::{
    ENGINE,
    connect::{Shared, now},
};
use crate::{
    model::{
        dead::{JobError, MAX_ERRORS},
        error::QueueError,
        id::JobId,
        info::JobState,
        notes::Notes,
        time::millis,
    },
    queue::{Settle, Settlement, rows, sqlx_error::sent},
};

/// Stores what runs have left behind.
pub(super) const NOTE: &str = "
    UPDATE postlude_jobs SET progress = coalesce(noted.progress, postlude_jobs.progress),
        result = coalesce(noted.result, postlude_jobs.result)
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS run, value ->> 2 AS progress, value ->> 3 AS result
        FROM json_each(?2)) AS noted
    WHERE postlude_jobs.id = noted.id AND postlude_jobs.run = noted.run AND owner = ?1 AND state = 2
    RETURNING postlude_jobs.id";

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
        payload = again_payload, headers = again_headers, again_payload = NULL, again_headers = NULL,
        progress = NULL, result = NULL
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
    FROM postlude_jobs WHERE id = ?1 AND state = 4 AND again_payload IS NOT NULL";

impl Shared {
    pub(super) async fn settle(&self, owner: JobId, settlements: Vec<Settlement>) -> Result<Vec<JobId>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let notes = settlements.iter().map(|one| ((one.id, one.run), &one.notes)).collect();
        let mut transaction = self.begin().await?;
        let mut step = Step { connection: &mut transaction, owner: owner.to_string(), now: now() };
        step.note(notes).await.map_err(refused)?;
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

impl Shared {
    pub(super) async fn note(&self, owner: JobId, notes: Vec<((JobId, i64), Notes)>) -> Result<Vec<JobId>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut transaction = self.begin().await?;
        let mut step = Step { connection: &mut transaction, owner: owner.to_string(), now: now() };
        let stored = step.note(notes.iter().map(|(run, notes)| (*run, notes)).collect()).await.map_err(refused)?;
        transaction.commit().await.map_err(refused)?;
        Ok(stored)
    }
}

/// The settlements of one transaction.
struct Step<'a> {
    connection: &'a mut SqliteConnection,
    owner: String,
    now: i64,
}

impl Step<'_> {
    async fn note(&mut self, mut notes: Vec<((JobId, i64), &Notes)>) -> Result<Vec<JobId>, sqlx::Error> {
        notes.retain(|(_, notes)| !notes.is_empty());
        if notes.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<_> = notes.iter().map(|((id, run), notes)| (id, run, &notes.progress, &notes.result)).collect();
        let rows = serde_json::to_string(&rows).unwrap_or_default();
        let rows = sqlx::query(NOTE).bind(&self.owner).bind(rows).fetch_all(&mut *self.connection).await?;
        rows.iter().map(rows::id).collect()
    }

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
        rows.iter().map(rows::id).collect()
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use super::*;
    use crate::{
        model::{new_job::NewJob, options::Unique},
        queue::{InHand, Reservation},
    };

    /// A push with the key comes while another worker runs the job. A late settlement of the first one is refused, and
    /// leaves that push to the run that it belongs to.
    #[tokio::test]
    async fn a_refused_settlement_leaves_the_push_of_a_later_run() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Arc::new(Shared::open(&folder.path().join("jobs.db")).await.unwrap());
        queue.prepare(None).await.unwrap();
        let keyed = || {
            let unique = Some(Unique { key: "account 17".to_owned(), runs_again: true });
            vec![NewJob { unique, ..NewJob::sample() }]
        };
        let id = Arc::clone(&queue).push(keyed()).await.unwrap()[0];
        let reserve = async |owner, crashed| {
            let wanted = Reservation { owner, names: vec![("mail", 1)], limit: 1, crashed, in_hand: InHand::default() };
            queue.reserve(wanted).await.unwrap().remove(0)
        };
        let (first, second) = (JobId::generate(), JobId::generate());
        let lost = reserve(first, false).await;
        queue.execute(sqlx::query("UPDATE postlude_jobs SET lease_until = 0")).await.unwrap();
        assert_eq!(queue.take_back().await.unwrap().len(), 1);
        let run = reserve(second, true).await;
        assert_eq!(Arc::clone(&queue).push(keyed()).await.unwrap(), [id], "it marks the job to run again");

        let settle = async |owner, run, settle| {
            let settlement = Settlement { id, run, settle, notes: Notes::default() };
            queue.settle(owner, vec![settlement]).await.unwrap()
        };
        let error = JobError::new(SystemTime::now(), 1, "too late");
        assert_eq!(settle(first, lost.run, Settle::Dead { error }).await, [id], "it is refused");
        assert_eq!(settle(second, run.run, Settle::Complete).await, []);
        let stats = queue.stats().await.unwrap().total();
        assert_eq!((stats.waiting, stats.running, stats.dead), (1, 0, 0), "it runs again");
    }
}
