//! Jobs in a PostgreSQL database.

mod connect;
mod notify;
mod operate;
mod pool;
mod push;
mod reserve;
mod settle;
mod tend;

use std::{fmt, sync::Arc};

use sqlx::{PgConnection, PgPool};

use self::connect::Shared;
use super::{forward, sqlx_error::sent};
use crate::model::{error::QueueError, id::JobId, new_job::NewJob};

pub(crate) const ENGINE: &str = "PostgreSQL";

/// Jobs in a PostgreSQL database (version 13 or later), for any number of machines. Cheap to clone; all clones share
/// their connections.
///
/// ```no_run
/// use postlude_jobs::postgres::PostgresQueue;
///
/// # async fn example() -> Result<(), postlude_jobs::QueueError> {
/// let queue = PostgresQueue::connect("postgres://app@127.0.0.1/shop").await?;
/// # drop(queue);
/// # Ok(())
/// # }
/// ```
///
/// # How it works
/// Workers take jobs with `FOR UPDATE SKIP LOCKED`, from an index that has the waiting jobs only. A push that has
/// returned is committed: it survives what the server's `synchronous_commit` and `fsync` make it survive. After a push,
/// other processes are notified (`NOTIFY`, ten times a second at most), and they poll once a second besides. Time is
/// the clock of the server.
///
/// The tables are in the first schema of the connection's `search_path`: several queues in one database are several
/// schemas. A queue is one table and one leader: throughput grows by more queues, each in its own database.
///
/// A role that may not create tables can use tables that exist: run [`MIGRATIONS`](Self::MIGRATIONS) with another role.
#[derive(Clone)]
pub struct PostgresQueue {
    shared: Arc<Shared>,
}

impl PostgresQueue {
    /// The SQL that creates the tables, for those who run it with their own migrations: the version and the text of
    /// each step. Without it, the first start creates the tables, under an advisory lock.
    ///
    /// It has a function for other clients and languages: `SELECT postlude_push('invoice', '{"order": 17}')` pushes a
    /// job in the transaction of the caller. It can't run a [codec](crate::Codec).
    pub const MIGRATIONS: &[(i64, &str)] = connect::MIGRATIONS;

    /// Connects, with a pool of its own of at most ten connections.
    ///
    /// The URL is that of [sqlx](https://docs.rs/sqlx): `?sslmode=verify-full` asks for TLS, and
    /// `?options=-csearch_path%3Djobs` for another schema.
    ///
    /// # Errors
    /// If the URL is none, or no connection can be made.
    pub async fn connect(url: &str) -> Result<Self, QueueError> {
        Ok(Self { shared: Arc::new(Shared::connect(url).await?) })
    }

    /// Uses a pool of yours. Give it a few connections more than your handlers need: a worker uses up to three at a
    /// time. It opens two connections beside the pool: one listens for notifications, and one renews leases, so that
    /// handlers that use up the pool cost no lease.
    #[must_use]
    pub fn with_pool(pool: PgPool) -> Self {
        Self { shared: Arc::new(Shared::with_pool(pool, true)) }
    }

    /// Uses a pool of yours, and only polls: for a PgBouncer in transaction mode, which knows no `LISTEN`. If it knows
    /// no prepared statements either, set `statement_cache_capacity(0)` on the options of the pool.
    #[must_use]
    pub fn with_pool_polling(pool: PgPool) -> Self {
        Self { shared: Arc::new(Shared::with_pool(pool, false)) }
    }

    /// Stores a job on a connection of your own, to the same database: if it is in a transaction, the job exists if and
    /// only if that transaction commits. Workers find it within a second after the commit; after
    /// [`Jobs::wake`](crate::Jobs::wake), at once.
    ///
    /// If the job has a [unique](crate::PushOptions::unique) key and another job holds it, that job is locked until the
    /// transaction ends, so keep the transaction short.
    ///
    /// ```no_run
    /// use postlude_jobs::{Job, Jobs, postgres::PostgresQueue};
    /// use serde::{Deserialize, Serialize};
    /// use sqlx::PgPool;
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Invoice {
    ///     order: i64,
    /// }
    ///
    /// impl Job for Invoice {
    ///     const NAME: &'static str = "invoice";
    /// }
    ///
    /// # async fn example(pool: PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = PostgresQueue::with_pool(pool.clone());
    /// let jobs = Jobs::producer(queue.clone()).await?;
    ///
    /// let mut transaction = pool.begin().await?;
    /// sqlx::query("INSERT INTO orders (id) VALUES (17)").execute(&mut *transaction).await?;
    /// queue.push_in(&mut transaction, jobs.prepare(Invoice { order: 17 })?).await?;
    /// transaction.commit().await?;
    /// jobs.wake();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the database refuses the statement: for example because it is another one, and has no tables for jobs.
    pub async fn push_in(&self, connection: &mut PgConnection, job: NewJob) -> Result<JobId, QueueError> {
        push::insert(connection, &job).await.map_err(|error| sent(ENGINE, error))
    }
}

impl fmt::Debug for PostgresQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresQueue").finish_non_exhaustive()
    }
}

forward::to_shared!(PostgresQueue);
