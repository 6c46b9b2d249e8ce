//! What the scripts return, as values.

use std::vec;

use redis::{FromRedisValue, RedisError, Value, from_redis_value};

use crate::{
    model::{
        dead::{DeadJob, JobError},
        headers,
        id::JobId,
        info::{JobInfo, JobState},
        new_job::priority_from_stored,
        notes::progress_from_stored,
        time::from_millis,
    },
    queue::Reserved,
};

type Read<T> = Result<T, RedisError>;

/// The values of an array, in their order.
pub(super) struct Row(vec::IntoIter<Value>);

impl Row {
    pub(super) fn new(value: Value) -> Read<Self> {
        Ok(Self(from_redis_value::<Vec<Value>>(value)?.into_iter()))
    }

    /// The next value. What is not there is nil.
    pub(super) fn take<T: FromRedisValue>(&mut self) -> Read<T> {
        Ok(from_redis_value(self.0.next().unwrap_or(Value::Nil))?)
    }

    /// The next value as a number; zero if it is not stored.
    fn count(&mut self) -> Read<u32> {
        Ok(self.take::<Option<u32>>()?.unwrap_or_default())
    }

    pub(super) fn id(&mut self) -> Read<JobId> {
        id(&self.take::<String>()?)
    }

    pub(super) fn rows(&mut self) -> Read<Vec<Self>> {
        self.take::<Vec<Value>>()?.into_iter().map(Self::new).collect()
    }
}

/// The rows of an array.
pub(super) fn rows(value: Value) -> Read<Vec<Row>> {
    from_redis_value::<Vec<Value>>(value)?.into_iter().map(Row::new).collect()
}

pub(super) fn ids(value: Value) -> Read<Vec<JobId>> {
    from_redis_value::<Vec<String>>(value)?.iter().map(|text| id(text)).collect()
}

fn id(text: &str) -> Read<JobId> {
    text.parse().map_err(|_| RedisError::from((redis::ErrorKind::UnexpectedReturnType, "not the id of a job")))
}

pub(super) fn reserved(mut row: Row) -> Read<Reserved> {
    Ok(Reserved {
        id: row.id()?,
        payload: row.take()?,
        name: row.take()?,
        headers: headers::parse(&row.take::<String>()?),
        priority: priority_from_stored(row.take()?),
        pushed_at: from_millis(row.take()?),
        run: row.take()?,
        failures: row.count()?,
        crashes: row.count()?,
        max_attempts: row.count()?,
    })
}

/// All that is stored of a job.
pub(super) struct Shown {
    pub(super) info: JobInfo,
    headers: String,
    errors: Vec<String>,
    payload: Vec<u8>,
}

impl Shown {
    pub(super) fn read(mut row: Row) -> Read<Self> {
        let id = row.id()?;
        let mut job = Row::new(row.take()?)?;
        let errors: Vec<String> = row.take()?;
        let payload = row.take::<Option<Vec<u8>>>()?.unwrap_or_default();
        let name = job.take()?;
        let state = JobState::from_stored(job.take()?);
        let mut info = JobInfo {
            id,
            name,
            state,
            priority: priority_from_stored(job.take()?),
            due_at: from_millis(job.take()?),
            pushed_at: from_millis(job.take()?),
            started_at: job.take::<Option<i64>>()?.map(from_millis),
            finished_at: job.take::<Option<i64>>()?.map(from_millis),
            failures: job.count()?,
            crashes: job.count()?,
            replays: job.count()?,
            max_attempts: job.count()?,
            max_crashes: job.count()?,
            last_error: errors.last().and_then(|json| JobError::parse(&format!("[{json}]")).pop()).map(|e| e.message),
            progress: None,
            result: None,
        };
        let headers = job.take()?;
        info.progress = job.take::<Option<String>>()?.and_then(|stored| progress_from_stored(&stored));
        let result = job.take::<Option<String>>()?.filter(|_| state == JobState::Completed);
        info.result = result.and_then(|json| serde_json::from_str(&json).ok());
        Ok(Self { info, headers, errors, payload })
    }

    pub(super) fn dead(self) -> DeadJob {
        let info = self.info;
        DeadJob {
            id: info.id,
            name: info.name,
            pushed_at: info.pushed_at,
            died_at: info.finished_at.unwrap_or_else(|| from_millis(0)),
            failures: info.failures,
            crashes: info.crashes,
            replays: info.replays,
            errors: parse_errors(&self.errors),
            headers: headers::parse(&self.headers),
            payload: self.payload,
        }
    }
}

fn parse_errors(stored: &[String]) -> Vec<JobError> {
    JobError::parse(&format!("[{}]", stored.join(",")))
}
