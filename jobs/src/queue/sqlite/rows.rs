//! Rows of the tables as values.

use sqlx::{Row as _, sqlite::SqliteRow};

use crate::{
    model::{
        dead::{DeadJob, JobError},
        headers,
        id::JobId,
        info::{JobInfo, JobState},
        new_job::priority_from_stored,
        time::from_millis,
    },
    queue::Reserved,
};

/// The columns of [`reserved`].
pub(super) const RESERVED: &str =
    "seq, id, name, priority, pushed_at, run, failures, crashes, max_attempts, headers, payload";

pub(super) fn id(row: &SqliteRow, column: &'static str) -> Result<JobId, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn count(row: &SqliteRow, column: &'static str) -> Result<u32, sqlx::Error> {
    Ok(u32::try_from(row.try_get::<i64, _>(column)?).unwrap_or_default())
}

/// A reserved job, with its place in the order of reservation.
pub(super) fn reserved(row: &SqliteRow) -> Result<((i16, i64), Reserved), sqlx::Error> {
    let priority: i16 = row.try_get("priority")?;
    let job = Reserved {
        id: id(row, "id")?,
        name: row.try_get("name")?,
        payload: row.try_get("payload")?,
        headers: headers::parse(row.try_get("headers")?),
        priority: priority_from_stored(priority),
        pushed_at: from_millis(row.try_get("pushed_at")?),
        run: row.try_get("run")?,
        failures: count(row, "failures")?,
        crashes: count(row, "crashes")?,
        max_attempts: count(row, "max_attempts")?,
    };
    Ok(((priority, row.try_get("seq")?), job))
}

pub(super) fn info(row: &SqliteRow) -> Result<JobInfo, sqlx::Error> {
    let time = |column| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(column)?.map(from_millis));
    Ok(JobInfo {
        id: id(row, "id")?,
        name: row.try_get("name")?,
        state: JobState::from_stored(row.try_get("state")?),
        priority: priority_from_stored(row.try_get("priority")?),
        pushed_at: from_millis(row.try_get("pushed_at")?),
        due_at: from_millis(row.try_get("due")?),
        started_at: time("started_at")?,
        finished_at: time("finished_at")?,
        failures: count(row, "failures")?,
        crashes: count(row, "crashes")?,
        max_attempts: count(row, "max_attempts")?,
        max_crashes: count(row, "max_crashes")?,
        replays: count(row, "replays")?,
        last_error: JobError::parse(row.try_get("errors")?).pop().map(|error| error.message),
    })
}

pub(super) fn dead(row: &SqliteRow) -> Result<DeadJob, sqlx::Error> {
    Ok(DeadJob {
        id: id(row, "id")?,
        name: row.try_get("name")?,
        pushed_at: from_millis(row.try_get("pushed_at")?),
        died_at: from_millis(row.try_get::<Option<i64>, _>("finished_at")?.unwrap_or_default()),
        failures: count(row, "failures")?,
        crashes: count(row, "crashes")?,
        replays: count(row, "replays")?,
        errors: JobError::parse(row.try_get("errors")?),
        headers: headers::parse(row.try_get("headers")?),
        payload: row.try_get("payload")?,
    })
}
