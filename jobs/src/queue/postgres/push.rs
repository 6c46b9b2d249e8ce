//! Storing jobs.

use std::{sync::Arc, time::SystemTime};

use sqlx::{PgConnection, Row as _};

use super::{ENGINE, connect::Shared};
use crate::{
    model::{
        error::QueueError,
        headers,
        id::JobId,
        info::JobState,
        new_job::{NewJob, priority_to_stored},
        options::{Due, Unique},
        time::{from_millis, millis, to_millis},
    },
    queue::{Tick, rows, sqlx_error::sent},
};

/// Stores many jobs without keys in one statement, in their order. Those whose id is known are left out.
const INSERT_ALL: &str = "
    INSERT INTO postlude_jobs
        (id, name, state, priority, due, pushed_at, max_attempts, max_crashes, headers, payload)
    SELECT job.id::uuid, job.name, CASE WHEN due > now.ms THEN 1 ELSE 0 END, job.priority, due, now.ms,
        job.max_attempts, job.max_crashes, job.headers::jsonb, job.payload
    FROM unnest($1::text[], $2::text[], $3::int2[], $4::int8[], $5::int8[], $6::int4[], $7::int4[], $8::text[],
            $9::bytea[]) WITH ORDINALITY
            AS job (id, name, priority, delay, at, max_attempts, max_crashes, headers, payload, number)
        CROSS JOIN (SELECT postlude_now() AS ms) AS now
        CROSS JOIN LATERAL (SELECT coalesce(job.at, now.ms + job.delay) AS due) AS due
    ORDER BY job.number
    ON CONFLICT (id) DO NOTHING";

const INSERT: &str = "
    INSERT INTO postlude_jobs
        (id, name, state, priority, due, pushed_at, max_attempts, max_crashes, unique_key, headers, payload)
    SELECT $1::uuid, $2, CASE WHEN due > now.ms THEN 1 ELSE 0 END, $3, due, now.ms, $6, $7, $8, $9::jsonb, $10
    FROM (SELECT postlude_now() AS ms) AS now CROSS JOIN LATERAL (SELECT coalesce($5, now.ms + $4) AS due) AS due
    ON CONFLICT DO NOTHING";

/// How often a push looks for the holder of its key, while the key changes hands.
const TRIES: usize = 10;

impl Shared {
    pub(super) async fn push(self: Arc<Self>, jobs: Vec<NewJob>) -> Result<Vec<JobId>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let ids = if jobs.iter().any(|job| job.unique.is_some()) {
            let mut transaction = self.begin().await?;
            let mut ids = Vec::with_capacity(jobs.len());
            for job in &jobs {
                ids.push(insert(&mut transaction, job).await.map_err(refused)?);
            }
            transaction.commit().await.map_err(refused)?;
            ids
        } else {
            let mut connection = self.acquire().await?;
            insert_all(&mut connection, &jobs).await.map_err(refused)?;
            jobs.iter().map(|job| job.id).collect()
        };
        self.announce();
        Ok(ids)
    }

    pub(super) async fn tick(&self, tick: Tick) -> Result<bool, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let later = "UPDATE postlude_ticks SET last = $2 WHERE schedule = $1 AND last < $2";
        let mut transaction = self.begin().await?;
        let query = sqlx::query(later).bind(&tick.key).bind(to_millis(tick.at));
        let is_later = query.execute(&mut *transaction).await.map_err(refused)?.rows_affected() > 0;
        if is_later {
            insert(&mut transaction, &tick.job).await.map_err(refused)?;
        }
        transaction.commit().await.map_err(refused)?;
        if is_later {
            self.announce();
        }
        Ok(is_later)
    }

    pub(super) async fn last_tick(&self, key: String) -> Result<SystemTime, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.acquire().await?;
        let insert = "INSERT INTO postlude_ticks (schedule, last) VALUES ($1, postlude_now()) ON CONFLICT DO NOTHING";
        sqlx::query(insert).bind(&key).execute(&mut *connection).await.map_err(refused)?;
        let last = sqlx::query_scalar("SELECT last FROM postlude_ticks WHERE schedule = $1").bind(&key);
        last.fetch_one(&mut *connection).await.map(from_millis).map_err(refused)
    }
}

/// The delay, and the time that replaces it.
fn due(due: Due) -> (i64, Option<i64>) {
    match due {
        Due::Now => (0, None),
        Due::After(delay) => (millis(delay), None),
        Due::At(time) => (0, Some(to_millis(time))),
    }
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

async fn insert_all(connection: &mut PgConnection, jobs: &[NewJob]) -> Result<(), sqlx::Error> {
    let (delays, times): (Vec<i64>, Vec<Option<i64>>) = jobs.iter().map(|job| due(job.due)).unzip();
    sqlx::query(INSERT_ALL)
        .bind(jobs.iter().map(|job| job.id.to_string()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.name).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| priority_to_stored(job.priority)).collect::<Vec<_>>())
        .bind(delays)
        .bind(times)
        .bind(jobs.iter().map(|job| count(job.max_attempts)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| count(job.max_crashes)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| headers::write(&job.headers)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.payload.as_slice()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Stores one job, unless its id is known or its key is held. Returns the id of the job that is stored.
pub(super) async fn insert(connection: &mut PgConnection, job: &NewJob) -> Result<JobId, sqlx::Error> {
    let (delay, at) = due(job.due);
    for _ in 0..TRIES {
        let stored = sqlx::query(INSERT)
            .bind(job.id.to_string())
            .bind(job.name)
            .bind(priority_to_stored(job.priority))
            .bind(delay)
            .bind(at)
            .bind(count(job.max_attempts))
            .bind(count(job.max_crashes))
            .bind(job.unique.as_ref().map(|unique| unique.key.as_str()))
            .bind(headers::write(&job.headers))
            .bind(job.payload.as_slice())
            .execute(&mut *connection)
            .await?
            .rows_affected();
        let Some(unique) = job.unique.as_ref().filter(|_| stored == 0) else { return Ok(job.id) };
        if let Some(id) = holder(connection, job, unique).await? {
            return Ok(id);
        }
    }
    Err(sqlx::Error::InvalidArgument("the unique key changes hands too fast: push again".to_owned()))
}

/// The job that holds the key of a job that was not stored; `None` if it has been settled meanwhile. If it is running,
/// it is marked to run again.
async fn holder(connection: &mut PgConnection, job: &NewJob, unique: &Unique) -> Result<Option<JobId>, sqlx::Error> {
    let known = sqlx::query("SELECT 1 FROM postlude_jobs WHERE id = $1::uuid").bind(job.id.to_string());
    if known.fetch_optional(&mut *connection).await?.is_some() {
        return Ok(Some(job.id));
    }
    if unique.runs_again {
        let mark = "UPDATE postlude_jobs SET again_payload = $3, again_headers = $4::jsonb
                    WHERE name = $1 AND unique_key = $2 AND state = 2 RETURNING id::text AS id";
        let query = sqlx::query(mark).bind(job.name).bind(&unique.key).bind(job.payload.as_slice());
        let marked = query.bind(headers::write(&job.headers)).fetch_optional(&mut *connection).await?;
        if let Some(row) = marked {
            return rows::id(&row).map(Some);
        }
    }
    // The lock keeps workers from starting the job before this transaction commits: it would not see what that changes.
    let holder = "SELECT id::text AS id, state FROM postlude_jobs
                  WHERE name = $1 AND unique_key = $2 AND state <= 2 FOR SHARE";
    let row = sqlx::query(holder).bind(job.name).bind(&unique.key).fetch_optional(&mut *connection).await?;
    let Some(row) = row else { return Ok(None) };
    let is_running = row.try_get::<i16, _>("state")? == JobState::Running.to_stored();
    // It has begun to run since it was looked for: it has to be marked.
    if is_running && unique.runs_again { Ok(None) } else { rows::id(&row).map(Some) }
}
