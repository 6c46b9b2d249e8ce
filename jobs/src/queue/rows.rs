//! Rows of the tables as values: the columns have the same names in all engines.

use crate::{
    model::{
        dead::{DeadJob, JobError},
        headers,
        id::JobId,
        info::{JobInfo, JobState},
        new_job::priority_from_stored,
        notes::progress_from_stored,
        stats::JobStats,
        time::{duration, from_millis},
    },
    queue::{Look, LostLease, Reserved},
};

type Value<T> = Result<T, sqlx::Error>;

/// The columns of a row, by the types that the tables have.
pub(super) trait Columns {
    fn text(&self, column: &str) -> Value<&str>;
    fn optional_text(&self, column: &str) -> Value<Option<&str>>;
    fn bytes(&self, column: &str) -> Value<Vec<u8>>;
    fn boolean(&self, column: &str) -> Value<bool>;
    fn small(&self, column: &str) -> Value<i16>;
    fn int(&self, column: &str) -> Value<i32>;
    fn long(&self, column: &str) -> Value<i64>;
    fn optional_long(&self, column: &str) -> Value<Option<i64>>;
}

macro_rules! columns {
    ($row:ty: $($name:ident -> $type:ty),+) => {
        impl Columns for $row {
            $(fn $name(&self, column: &str) -> Value<$type> {
                sqlx::Row::try_get(self, column)
            })+
        }
    };
    ($($feature:literal: $row:ty;)+) => {$(
        #[cfg(feature = $feature)]
        columns! {
            $row: text -> &str, optional_text -> Option<&str>, bytes -> Vec<u8>, boolean -> bool, small -> i16,
                int -> i32, long -> i64, optional_long -> Option<i64>
        }
    )+};
}

columns! {
    "sqlite": sqlx::sqlite::SqliteRow;
    "postgres": sqlx::postgres::PgRow;
}

pub(super) fn id(row: &impl Columns) -> Value<JobId> {
    row.text("id")?.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn count(row: &impl Columns, column: &str) -> Value<u32> {
    Ok(u32::try_from(row.int(column)?).unwrap_or_default())
}

/// Reserved jobs, in the order of reservation.
pub(super) fn reserved<R: Columns>(rows: &[R]) -> Value<Vec<Reserved>> {
    let mut jobs = rows.iter().map(one_reserved).collect::<Value<Vec<_>>>()?;
    jobs.sort_by_key(|(rank, _)| *rank);
    Ok(jobs.into_iter().map(|(_, job)| job).collect())
}

fn one_reserved(row: &impl Columns) -> Value<((i16, i64), Reserved)> {
    let priority = row.small("priority")?;
    let job = Reserved {
        id: id(row)?,
        name: row.text("name")?.to_owned(),
        payload: row.bytes("payload")?,
        headers: headers::parse(row.text("headers")?),
        priority: priority_from_stored(priority),
        pushed_at: from_millis(row.long("pushed_at")?),
        run: row.long("run")?,
        failures: count(row, "failures")?,
        crashes: count(row, "crashes")?,
        max_attempts: count(row, "max_attempts")?,
    };
    Ok(((priority, row.long("seq")?), job))
}

pub(super) fn info(row: &impl Columns) -> Value<JobInfo> {
    let time = |column| Ok::<_, sqlx::Error>(row.optional_long(column)?.map(from_millis));
    let state = JobState::from_stored(row.small("state")?);
    let result = row.optional_text("result")?.filter(|_| state == JobState::Completed);
    Ok(JobInfo {
        id: id(row)?,
        name: row.text("name")?.to_owned(),
        state,
        priority: priority_from_stored(row.small("priority")?),
        pushed_at: from_millis(row.long("pushed_at")?),
        due_at: from_millis(row.long("due")?),
        started_at: time("started_at")?,
        finished_at: time("finished_at")?,
        failures: count(row, "failures")?,
        crashes: count(row, "crashes")?,
        max_attempts: count(row, "max_attempts")?,
        max_crashes: count(row, "max_crashes")?,
        replays: count(row, "replays")?,
        last_error: JobError::parse(row.text("errors")?).pop().map(|error| error.message),
        progress: row.optional_text("progress")?.and_then(progress_from_stored),
        result: result.and_then(|json| serde_json::from_str(json).ok()),
    })
}

pub(super) fn dead(row: &impl Columns) -> Value<DeadJob> {
    Ok(DeadJob {
        id: id(row)?,
        name: row.text("name")?.to_owned(),
        pushed_at: from_millis(row.long("pushed_at")?),
        died_at: from_millis(row.optional_long("finished_at")?.unwrap_or_default()),
        failures: count(row, "failures")?,
        crashes: count(row, "crashes")?,
        replays: count(row, "replays")?,
        errors: JobError::parse(row.text("errors")?),
        headers: headers::parse(row.text("headers")?),
        payload: row.bytes("payload")?,
    })
}

/// `now` is the engine's clock.
pub(super) fn look(row: &impl Columns, now: i64) -> Value<Look> {
    Ok(Look {
        now,
        due: row.optional_long("due")?,
        expires: row.optional_long("expires")?,
        crashed_waiting: row.boolean("crashed")?,
        lease: duration(row.long("lease")?),
        lost: Vec::new(),
    })
}

/// A job that was taken back, and how many attempts it has had.
pub(super) fn lost_lease(row: &impl Columns) -> Value<(LostLease, u32)> {
    let (failures, crashes) = (count(row, "failures")?, count(row, "crashes")?);
    let is_dead = row.small("state")? == JobState::Dead.to_stored();
    let lost = LostLease { id: id(row)?, name: row.text("name")?.to_owned(), crashes, is_dead };
    Ok((lost, failures.saturating_add(crashes)))
}

/// The figures by name. `oldest` is when the oldest waiting job was due.
pub(super) fn stats<R: Columns>(rows: &[R], now: i64) -> Value<JobStats> {
    let mut stats = JobStats::default();
    for row in rows {
        let oldest = row.optional_long("oldest")?.map(|due| duration(now.saturating_sub(due)));
        let name = stats.names.entry(row.text("name")?.to_owned()).or_default();
        name.add(row.small("state")?, row.long("jobs")?, oldest);
    }
    Ok(stats)
}
