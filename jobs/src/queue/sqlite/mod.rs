//! Jobs in a SQLite file.

mod connect;
mod operate;
#[cfg(test)]
mod plans;
mod push;
mod reserve;
mod rows;
mod settle;
mod tend;
mod transaction;

use std::{
    fmt,
    path::Path,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use sqlx::SqliteConnection;
use tokio::sync::watch;

use self::connect::Shared;
use super::{
    Adapter, Answer, Look, LostLease, Queue, Renewed, Reservation, Reserved, Settlement, Tick,
    capabilities::Capabilities, sqlx_error::sent,
};
use crate::model::{
    dead::DeadJob, error::QueueError, id::JobId, info::JobInfo, new_job::NewJob, page::Page, stats::JobStats,
};

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

impl Queue for SqliteQueue {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }
}

impl Adapter for SqliteQueue {
    fn open(&self, lease: Option<Duration>) -> Answer<'_, ()> {
        Box::pin(self.shared.prepare(lease))
    }

    fn push(&self, jobs: Vec<NewJob>) -> Answer<'_, Vec<JobId>> {
        Box::pin(Arc::clone(&self.shared).push(jobs))
    }

    fn reserve(&self, wanted: Reservation) -> Answer<'_, Vec<Reserved>> {
        Box::pin(self.shared.reserve(wanted))
    }

    fn renew(&self, owner: JobId, runs: Vec<(JobId, i64)>) -> Answer<'_, Renewed> {
        Box::pin(self.shared.renew(owner, runs))
    }

    fn settle(&self, owner: JobId, settlements: Vec<Settlement>) -> Answer<'_, Vec<JobId>> {
        Box::pin(self.shared.settle(owner, settlements))
    }

    fn release_others(&self, owner: JobId, held: Vec<(JobId, i64)>) -> Answer<'_, ()> {
        Box::pin(self.shared.release_others(owner, held))
    }

    fn look(&self, names: Vec<&'static str>) -> Answer<'_, Look> {
        Box::pin(self.shared.look(names))
    }

    fn make_waiting(&self) -> Answer<'_, ()> {
        Box::pin(self.shared.make_waiting())
    }

    fn take_back(&self) -> Answer<'_, Vec<LostLease>> {
        Box::pin(self.shared.take_back())
    }

    fn shorten_leases(&self) -> Answer<'_, ()> {
        Box::pin(self.shared.shorten_leases())
    }

    fn prune(&self, retention: Duration) -> Answer<'_, u64> {
        Box::pin(self.shared.prune(retention))
    }

    fn tick(&self, tick: Tick) -> Answer<'_, bool> {
        Box::pin(self.shared.tick(tick))
    }

    fn last_tick(&self, key: String) -> Answer<'_, SystemTime> {
        Box::pin(self.shared.last_tick(key))
    }

    fn now(&self) -> Answer<'_, SystemTime> {
        Box::pin(async { Ok(SystemTime::now()) })
    }

    fn find(&self, id: JobId) -> Answer<'_, Option<JobInfo>> {
        Box::pin(self.shared.find(id))
    }

    fn stats(&self) -> Answer<'_, JobStats> {
        Box::pin(self.shared.stats())
    }

    fn cancel(&self, id: JobId) -> Answer<'_, bool> {
        Box::pin(self.shared.cancel(id))
    }

    fn dead(&self, page: Page) -> Answer<'_, Vec<DeadJob>> {
        Box::pin(self.shared.dead(page))
    }

    fn replay(&self, id: JobId) -> Answer<'_, bool> {
        Box::pin(self.shared.replay(id))
    }

    fn discard(&self, id: JobId) -> Answer<'_, bool> {
        Box::pin(self.shared.discard(id))
    }

    fn set_paused(&self, name: String, paused: bool) -> Answer<'_, bool> {
        Box::pin(self.shared.set_paused(name, paused))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn wake(&self) {
        self.shared.wake();
    }

    fn watch(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.shared.watch())
    }
}
