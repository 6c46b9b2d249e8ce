//! Storing jobs.

use std::{mem, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use tokio::sync::oneshot;

use super::{
    ENGINE,
    connect::{Shared, now},
    transaction::alone,
};
use crate::{
    model::{
        error::QueueError,
        headers,
        id::JobId,
        info::JobState,
        new_job::{NewJob, priority_to_stored},
        options::Due,
        time::{from_millis, millis, to_millis},
    },
    queue::{Tick, rows, sqlx_error::sent},
};

/// Pushes that wait for the one connection that writes. One task stores them, many in one transaction: apart from those
/// who wait, so that none of them, when it is cancelled, takes others with it.
#[derive(Default)]
pub(super) struct Pending(Mutex<State>);

#[derive(Default)]
struct State {
    pushes: Vec<Push>,
    is_storing: bool,
}

struct Push {
    jobs: Vec<NewJob>,
    answer: oneshot::Sender<Result<Vec<JobId>, QueueError>>,
}

/// How many pushes share a transaction.
const PUSHES_PER_TRANSACTION: usize = 256;

/// The work of the task that stores. It fails what is pending if the task is dropped before it is done, with its runtime.
struct Storing {
    shared: Arc<Shared>,
    is_done: bool,
}

impl Storing {
    const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, is_done: false }
    }

    /// The next pushes to store; `None` if it is done, and the next push starts another task.
    fn next(&mut self) -> Option<Vec<Push>> {
        let mut state = self.shared.pushes.0.lock();
        if state.pushes.is_empty() {
            state.is_storing = false;
            self.is_done = true;
            return None;
        }
        let count = state.pushes.len().min(PUSHES_PER_TRANSACTION);
        let rest = state.pushes.split_off(count);
        Some(mem::replace(&mut state.pushes, rest))
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        // What is pending after it was done is another task's.
        if !self.is_done {
            let mut state = self.shared.pushes.0.lock();
            state.is_storing = false;
            state.pushes.clear();
        }
    }
}

impl Shared {
    #[expect(clippy::disallowed_methods, reason = "a push of one caller must not be cancelled with that of another")]
    pub(super) async fn push(self: Arc<Self>, jobs: Vec<NewJob>) -> Result<Vec<JobId>, QueueError> {
        let (answer, answered) = oneshot::channel();
        let is_storing = {
            let mut state = self.pushes.0.lock();
            state.pushes.push(Push { jobs, answer });
            mem::replace(&mut state.is_storing, true)
        };
        if !is_storing {
            tokio::spawn(store_pending(Storing::new(Arc::clone(&self))));
        }
        answered.await.unwrap_or_else(|_| Err(runtime_ended()))
    }

    /// Stores a batch. If the engine refuses it, each push on its own: one must not fail because of another.
    async fn store_batch(&self, batch: Vec<Push>) {
        match self.store(&batch).await {
            Ok(results) => {
                for (push, ids) in batch.into_iter().zip(results) {
                    let _caller_is_gone = push.answer.send(Ok(ids));
                }
            }
            Err(QueueError::Refused { .. }) if batch.len() > 1 => {
                for push in batch {
                    let result = self.store(std::slice::from_ref(&push)).await;
                    let _caller_is_gone = push.answer.send(result.map(|mut ids| ids.pop().unwrap_or_default()));
                }
            }
            Err(error) => {
                for push in batch {
                    let _caller_is_gone = push.answer.send(Err(copy(&error)));
                }
            }
        }
        self.announce();
    }

    async fn store(&self, pushes: &[Push]) -> Result<Vec<Vec<JobId>>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let jobs: Vec<&NewJob> = pushes.iter().flat_map(|push| &push.jobs).collect();
        if jobs.iter().all(|job| job.unique.is_none()) {
            self.store_rows(&jobs).await?;
            return Ok(pushes.iter().map(|push| push.jobs.iter().map(|job| job.id).collect()).collect());
        }
        let mut transaction = self.begin().await?;
        let now = now();
        let mut results = Vec::with_capacity(pushes.len());
        for push in pushes {
            let mut ids = Vec::with_capacity(push.jobs.len());
            for job in &push.jobs {
                ids.push(insert(&mut transaction, job, now).await.map_err(refused)?);
            }
            results.push(ids);
        }
        transaction.commit().await.map_err(refused)?;
        Ok(results)
    }

    /// Stores jobs without keys.
    async fn store_rows(&self, jobs: &[&NewJob]) -> Result<(), QueueError> {
        if jobs.len() <= ROWS {
            // One statement needs no transaction around it, which would be two more ways to the thread of the driver.
            let (mut connection, tries) = self.writer().await?;
            while let Err(error) = insert_rows(&mut connection, jobs, now()).await {
                tries.wait_after(error).await.map_err(alone)?;
            }
            return Ok(());
        }
        let refused = |error| sent(ENGINE, error);
        let mut transaction = self.begin().await?;
        for rows in jobs.chunks(ROWS) {
            insert_rows(&mut transaction, rows, now()).await.map_err(refused)?;
        }
        transaction.commit().await.map_err(refused)
    }

    pub(super) async fn tick(&self, tick: Tick) -> Result<bool, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let later = "UPDATE postlude_ticks SET last = ?2 WHERE schedule = ?1 AND last < ?2";
        let mut transaction = self.begin().await?;
        let is_later = sqlx::query(later)
            .bind(&tick.key)
            .bind(to_millis(tick.at))
            .execute(&mut *transaction)
            .await
            .map_err(refused)?
            .rows_affected()
            > 0;
        if is_later {
            insert(&mut transaction, &tick.job, now()).await.map_err(refused)?;
        }
        transaction.commit().await.map_err(refused)?;
        if is_later {
            self.announce();
        }
        Ok(is_later)
    }

    pub(super) async fn last_tick(&self, key: String) -> Result<SystemTime, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut transaction = self.begin().await?;
        sqlx::query("INSERT INTO postlude_ticks (schedule, last) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
            .bind(&key)
            .bind(now())
            .execute(&mut *transaction)
            .await
            .map_err(refused)?;
        let last: i64 = sqlx::query_scalar("SELECT last FROM postlude_ticks WHERE schedule = ?1")
            .bind(&key)
            .fetch_one(&mut *transaction)
            .await
            .map_err(refused)?;
        transaction.commit().await.map_err(refused)?;
        Ok(from_millis(last))
    }
}

async fn store_pending(mut storing: Storing) {
    while let Some(batch) = storing.next() {
        storing.shared.store_batch(batch).await;
    }
}

fn runtime_ended() -> QueueError {
    QueueError::Interrupted { engine: ENGINE, source: "the runtime that stored the job has ended".into() }
}

/// The same error for another push of the batch.
fn copy(error: &QueueError) -> QueueError {
    let source = match std::error::Error::source(error) {
        Some(source) => source.to_string().into(),
        None => error.to_string().into(),
    };
    match error {
        QueueError::Unreachable { engine, .. } => QueueError::Unreachable { engine, source },
        QueueError::Refused { engine, .. } => QueueError::Refused { engine, source },
        _ => QueueError::Interrupted { engine: ENGINE, source },
    }
}

const INSERT: &str = "
    INSERT INTO postlude_jobs
        (id, name, state, priority, due, pushed_at, max_attempts, max_crashes, unique_key, headers, payload)";

/// How many jobs one statement stores at most: with more, it takes no less time for each.
const ROWS: usize = 64;

/// Stores up to [`ROWS`] jobs in one statement, in their order, but for those whose id is known or whose key is held.
/// Returns how many it has stored.
async fn insert_rows(connection: &mut SqliteConnection, jobs: &[&NewJob], now: i64) -> Result<u64, sqlx::Error> {
    let mut insert = QueryBuilder::<Sqlite>::new(INSERT);
    insert.push_values(jobs, |mut row, job| {
        let due = match job.due {
            Due::Now => now,
            Due::After(delay) => now + millis(delay),
            Due::At(time) => to_millis(time),
        };
        let state = if due > now { JobState::Scheduled } else { JobState::Waiting };
        row.push_bind(job.id.to_string())
            .push_bind(job.name)
            .push_bind(state.to_stored())
            .push_bind(priority_to_stored(job.priority))
            .push_bind(due)
            .push_bind(now)
            .push_bind(job.max_attempts)
            .push_bind(job.max_crashes)
            .push_bind(job.unique.as_ref().map(|unique| unique.key.as_str()))
            .push_bind(headers::write(&job.headers))
            .push_bind(job.payload.as_slice());
    });
    insert.push(" ON CONFLICT DO NOTHING");
    // Statements of these two lengths come again, and stay prepared.
    let insert = insert.build().persistent(jobs.len() == 1 || jobs.len() == ROWS);
    Ok(insert.execute(connection).await?.rows_affected())
}

/// Stores one job, unless its id is known or its key is held. Returns the id of the job that is stored.
pub(super) async fn insert(connection: &mut SqliteConnection, job: &NewJob, now: i64) -> Result<JobId, sqlx::Error> {
    let stored = insert_rows(connection, &[job], now).await?;
    if stored > 0 {
        return Ok(job.id);
    }
    Ok(held_by(connection, job).await?.unwrap_or(job.id))
}

/// The job that holds the key of a job that was not stored. If it is running, it is marked to run again.
async fn held_by(connection: &mut SqliteConnection, job: &NewJob) -> Result<Option<JobId>, sqlx::Error> {
    let Some(unique) = &job.unique else { return Ok(None) };
    let known: i64 = sqlx::query_scalar("SELECT count(*) FROM postlude_jobs WHERE id = ?1")
        .bind(job.id.to_string())
        .fetch_one(&mut *connection)
        .await?;
    if known > 0 {
        return Ok(None);
    }
    if unique.runs_again {
        let mark = "UPDATE postlude_jobs SET again_payload = ?3, again_headers = ?4
                    WHERE name = ?1 AND unique_key = ?2 AND state = 2";
        sqlx::query(mark)
            .bind(job.name)
            .bind(&unique.key)
            .bind(job.payload.as_slice())
            .bind(headers::write(&job.headers))
            .execute(&mut *connection)
            .await?;
    }
    let holder = sqlx::query("SELECT id FROM postlude_jobs WHERE name = ?1 AND unique_key = ?2 AND state <= 2")
        .bind(job.name)
        .bind(&unique.key)
        .fetch_optional(&mut *connection)
        .await?;
    holder.map(|row| rows::id(&row)).transpose()
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    /// A push that comes after the last look of the task, and before the task is gone, is another task's.
    #[tokio::test]
    async fn a_push_at_the_end_of_the_task_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::open(&folder.path().join("jobs.db")).await.unwrap());
        shared.prepare(None).await.unwrap();
        let mut storing = Storing::new(Arc::clone(&shared));
        assert!(storing.next().is_none());
        let mut pushing = Box::pin(Arc::clone(&shared).push(vec![NewJob::sample()]));
        // It is pending, and its task has not run yet.
        assert!(pushing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(storing);
        assert_eq!(pushing.await.unwrap().len(), 1);

        let (answer, answered) = oneshot::channel();
        shared.pushes.0.lock().pushes.push(Push { jobs: Vec::new(), answer });
        drop(Storing::new(Arc::clone(&shared)));
        assert!(answered.await.is_err(), "a task that is dropped before it is done fails what is pending");
    }
}
