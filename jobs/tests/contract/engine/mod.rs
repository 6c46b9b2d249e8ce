//! The engines under test: where each test has a queue of its own.

use std::future::Future;

use postlude_jobs::{JobId, NewJob, Queue};

/// A queue of a test, which several workers open.
pub(crate) trait TestEngine: Sized + Send + Sync + 'static {
    const NAME: &'static str;
    /// Whether it has a `push_in`.
    const PUSHES_IN_TRANSACTIONS: bool = true;
    /// Whether a worker can set a lease.
    const HAS_LEASES: bool = true;

    type Queue: Queue + Clone;
    type Lock;

    fn is_installed() -> bool;
    fn create() -> impl Future<Output = Self> + Send;
    /// Opens the queue again, as another process would.
    fn queue(&self) -> impl Future<Output = Self::Queue> + Send;
    /// Runs a statement past the queue: the tables have the same names in all engines.
    fn execute(&self, sql: &'static str) -> impl Future<Output = ()> + Send;
    /// Pushes in a transaction of the user's, and then commits or rolls back.
    fn push_in(queue: &Self::Queue, engine: &Self, job: NewJob, commits: bool) -> impl Future<Output = JobId> + Send;
    /// Keeps the queue from writing until the lock is dropped.
    fn lock(&self) -> impl Future<Output = Self::Lock> + Send;
    fn unlock(lock: Self::Lock) -> impl Future<Output = ()> + Send;
}

#[cfg(feature = "postgres")]
pub(crate) use self::postgres::Postgres;
#[cfg(feature = "rabbitmq")]
pub(crate) use self::rabbitmq::RabbitMq;
#[cfg(feature = "redis")]
pub(crate) use self::redis::Redis;
#[cfg(feature = "sqlite")]
pub(crate) use self::sqlite::Sqlite;

#[cfg(feature = "sqlite")]
mod sqlite {
    use postlude_jobs::{JobId, NewJob, sqlite::SqliteQueue};
    use sqlx::{Connection, SqliteConnection};
    use tempfile::TempDir;

    use super::TestEngine;

    pub(crate) struct Sqlite {
        folder: TempDir,
    }

    impl Sqlite {
        async fn connect(&self) -> SqliteConnection {
            let path = self.folder.path().join("jobs.db");
            SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap()
        }
    }

    impl TestEngine for Sqlite {
        const NAME: &'static str = "sqlite";

        type Queue = SqliteQueue;
        type Lock = SqliteConnection;

        fn is_installed() -> bool {
            true
        }

        async fn create() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        async fn queue(&self) -> SqliteQueue {
            SqliteQueue::open(self.folder.path().join("jobs.db")).await.unwrap()
        }

        async fn execute(&self, sql: &'static str) {
            sqlx::query(sql).execute(&mut self.connect().await).await.unwrap();
        }

        async fn push_in(queue: &SqliteQueue, engine: &Self, job: NewJob, commits: bool) -> JobId {
            let mut connection = engine.connect().await;
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
            let id = queue.push_in(&mut transaction, job).await.unwrap();
            if commits {
                transaction.commit().await.unwrap();
            } else {
                transaction.rollback().await.unwrap();
            }
            id
        }

        async fn lock(&self) -> SqliteConnection {
            let mut connection = self.connect().await;
            sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
            connection
        }

        async fn unlock(mut lock: SqliteConnection) {
            sqlx::query("ROLLBACK").execute(&mut lock).await.unwrap();
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
