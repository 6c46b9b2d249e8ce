//! Jobs in a SQLite file.

mod connect;
mod operate;
#[cfg(test)]
mod plans;
mod push;
mod reserve;
mod settle;
mod tend;
mod transaction;
mod turn;

use std::{fmt, path::Path, sync::Arc};

use sqlx::SqliteConnection;

use self::connect::Shared;
use super::{forward, sqlx_error::sent};
use crate::model::{error::QueueError, id::JobId, new_job::NewJob};

pub(crate) const ENGINE: &str = "SQLite";

/// Jobs in a SQLite file: embedded, without a server, for the processes of one machine. Cheap to clone; all clones
/// share their connections.
///
/// ```
/// use postlude_jobs::sqlite::SqliteQueue;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), postlude_jobs::QueueError> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("jobs.db");
/// let queue = SqliteQueue::open(path).await?;
/// # drop(queue);
/// # Ok(())
/// # }
/// ```
///
/// # How it works
/// The file is in WAL mode with `synchronous=FULL`: a push that has returned survives `kill -9` and a power failure, as
/// far as the disk keeps what it has synced. One connection writes; pushes and settlements that come at the same time
/// share a transaction. Workers of this process are woken by each push; those of other processes look for changes
/// (`PRAGMA data_version`) 20 times a second.
///
/// Processes that write take turns, by a lock on an empty file beside the database (its name ends in `-turn`).
///
/// WAL needs a local disk: do not put the file on a network file system. Time is the clock of the machine.
#[derive(Clone)]
pub struct SqliteQueue {
    shared: Arc<Shared>,
}

impl SqliteQueue {
    /// The SQL that creates the tables, for those who run it with their own migrations: the version and the text of
    /// each step. Without it, the first start creates the tables.
    pub const MIGRATIONS: &[(i64, &str)] = connect::MIGRATIONS;

    /// Opens the file, and creates it if there is none.
    ///
    /// # Errors
    /// If the file can't be opened or created.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, QueueError> {
        Ok(Self { shared: Arc::new(Shared::open(path.as_ref()).await?) })
    }

    /// Stores a job on a connection of your own, to the same file: if it is in a transaction, the job exists if and
    /// only if that transaction commits.
    ///
    /// Begin the transaction with `BEGIN IMMEDIATE`, or it may fail when it first writes; and set `synchronous=FULL` on
    /// your connection, or a power failure may lose a commit. Workers find the job within 50 ms after the commit.
    ///
    /// ```
    /// use postlude_jobs::{Job, Jobs, sqlite::SqliteQueue};
    /// use serde::{Deserialize, Serialize};
    /// use sqlx::Connection;
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
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("shop.db");
    /// let queue = SqliteQueue::open(&path).await?;
    /// let jobs = Jobs::producer(queue.clone()).await?;
    /// let mut connection =
    ///     sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display())).await?;
    /// # sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY)").execute(&mut connection).await?;
    ///
    /// let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    /// sqlx::query("INSERT INTO orders (id) VALUES (17)").execute(&mut *transaction).await?;
    /// let id = queue.push_in(&mut transaction, jobs.prepare(Invoice { order: 17 })?).await?;
    /// transaction.commit().await?;
    /// assert!(jobs.find(id).await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If SQLite refuses the statement: for example because the file is another one, and has no tables for jobs.
    pub async fn push_in(&self, connection: &mut SqliteConnection, job: NewJob) -> Result<JobId, QueueError> {
        push::insert(connection, &job, connect::now()).await.map_err(|error| sent(ENGINE, error))
    }
}

impl fmt::Debug for SqliteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteQueue").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

forward::to_shared!(SqliteQueue);
