//! The connections to the file, and its tables.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Sqlite, SqliteConnection, SqlitePool,
    pool::PoolConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::{sync::watch, time::sleep};

use super::{
    ENGINE,
    transaction::{Tries, WriteTransaction},
    turn::Turn,
};
use crate::{
    model::{
        error::QueueError,
        time::{millis, to_millis},
    },
    queue::{
        schema::Schema,
        sqlx_error::{not_sent, sent},
    },
};

pub(super) const MIGRATIONS: &[(i64, &str)] = &[(1, include_str!("../../../migrations/sqlite/0001_jobs.sql"))];

/// How long a transaction waits for other processes that write: less than a worker, or a push, waits for its answer.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(8);

/// How often a worker looks for changes of other processes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How many connections read at a time.
const READERS: u32 = 4;

pub(super) struct Shared {
    pub(super) path: PathBuf,
    options: SqliteConnectOptions,
    /// Has one connection, so that this process does not wait for its own lock.
    writer: SqlitePool,
    /// Renews leases, which must not wait for what this process has to write besides.
    renewer: SqlitePool,
    turn: Turn,
    pub(super) readers: SqlitePool,
    pub(super) changes: watch::Sender<u64>,
    pub(super) pushes: super::push::Pending,
}

impl Shared {
    pub(super) async fn open(path: &Path) -> Result<Self, QueueError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let pool = |connections, busy_timeout: Duration| {
            let wait_for_the_lock = format!("PRAGMA busy_timeout = {}", busy_timeout.as_millis());
            SqlitePoolOptions::new()
                .max_connections(connections)
                .after_connect(move |connection, _| {
                    let sql = AssertSqlSafe(wait_for_the_lock.clone());
                    Box::pin(async move { sqlx::raw_sql(sql).execute(connection).await.map(drop) })
                })
                .acquire_timeout(2 * BUSY_TIMEOUT)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_lazy_with(options.clone())
        };
        let shared = Self {
            path: path.to_owned(),
            // Transactions wait for the lock by themselves.
            writer: pool(1, Duration::ZERO),
            renewer: pool(1, Duration::ZERO),
            turn: Turn::beside(path),
            readers: pool(READERS, BUSY_TIMEOUT),
            changes: watch::Sender::new(0),
            pushes: super::push::Pending::default(),
            options,
        };
        // The first connection creates the file and switches it to WAL.
        drop(shared.begin().await?);
        Ok(shared)
    }

    /// A transaction that has the lock for writing.
    pub(super) async fn begin(&self) -> Result<WriteTransaction, QueueError> {
        Self::begin_on(&self.writer, Some(&self.turn)).await
    }

    /// The same for renewals, which are urgent: they wait for no turn, so that they compete with one writer only.
    pub(super) async fn begin_renewal(&self) -> Result<WriteTransaction, QueueError> {
        Self::begin_on(&self.renewer, None).await
    }

    /// The connection that writes, in its turn, for a statement that is its own transaction.
    pub(super) async fn writer(&self) -> Result<(PoolConnection<Sqlite>, Tries), QueueError> {
        let connection = self.writer.acquire().await.map_err(|error| not_sent(ENGINE, error))?;
        Ok((connection, Tries::begin(Some(&self.turn)).await))
    }

    async fn begin_on(pool: &SqlitePool, turn: Option<&Turn>) -> Result<WriteTransaction, QueueError> {
        let connection = pool.acquire().await.map_err(|error| not_sent(ENGINE, error))?;
        WriteTransaction::begin(connection, turn).await.map_err(|error| not_sent(ENGINE, error))
    }

    /// Runs a statement in a transaction of its own. Returns how many rows it has changed.
    pub(super) async fn execute(&self, query: Query<'_, Sqlite, SqliteArguments>) -> Result<u64, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut transaction = self.begin().await?;
        let rows = query.execute(&mut *transaction).await.map_err(refused)?.rows_affected();
        transaction.commit().await.map_err(refused)?;
        Ok(rows)
    }

    pub(super) async fn read(&self) -> Result<PoolConnection<Sqlite>, QueueError> {
        self.readers.acquire().await.map_err(|error| not_sent(ENGINE, error))
    }

    /// Creates the tables, or checks them, and stores the lease.
    pub(super) async fn prepare(&self, lease: Option<Duration>) -> Result<(), QueueError> {
        let mut transaction = self.begin().await?;
        migrate(&mut transaction).await?;
        if let Some(lease) = lease {
            sqlx::query("UPDATE postlude_settings SET value = ?1 WHERE name = 'lease'")
                .bind(millis(lease))
                .execute(&mut *transaction)
                .await
                .map_err(|error| sent(ENGINE, error))?;
        }
        transaction.commit().await.map_err(|error| sent(ENGINE, error))
    }

    /// The clock of the machine.
    #[expect(clippy::unused_async, reason = "as that of an engine with a server")]
    pub(super) async fn now(&self) -> Result<SystemTime, QueueError> {
        Ok(SystemTime::now())
    }

    /// Wakes the workers of this process.
    pub(super) fn announce(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }

    /// Looks for changes of other processes, and of connections that the user has opened.
    pub(super) async fn watch(&self) {
        let mut connection: Option<SqliteConnection> = None;
        let mut seen = None;
        loop {
            sleep(LOOK_EVERY).await;
            let version = match &mut connection {
                Some(connection) => data_version(connection).await,
                None => match self.options.connect().await {
                    Ok(new) => data_version(connection.insert(new)).await,
                    Err(error) => Err(error),
                },
            };
            let Ok(version) = version else {
                // The worker notices, and warns, when it next reserves.
                connection = None;
                continue;
            };
            if seen.replace(version) != Some(version) {
                self.announce();
            }
        }
    }
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await
}

/// The version of the tables that this program was built for.
pub(super) fn needed() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, _)| *version)
}

async fn migrate(connection: &mut SqliteConnection) -> Result<(), QueueError> {
    let refused = |error| sent(ENGINE, error);
    let found = schema(connection).await.map_err(refused)?;
    found.check(ENGINE, needed())?;
    for (version, sql) in MIGRATIONS.iter().filter(|(version, _)| *version > found.version) {
        sqlx::raw_sql(*sql).execute(&mut *connection).await.map_err(refused)?;
        tracing::info!(target: "postlude_jobs", engine = ENGINE, version, "created or changed the tables for jobs");
    }
    connection.ping().await.map_err(refused)
}

async fn schema(connection: &mut SqliteConnection) -> Result<Schema, sqlx::Error> {
    let has_tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'postlude_settings'";
    let count: i64 = sqlx::query_scalar(has_tables).fetch_one(&mut *connection).await?;
    if count == 0 {
        return Ok(Schema::NONE);
    }
    let settings = "SELECT (SELECT value FROM postlude_settings WHERE name = 'schema') AS schema,
        (SELECT value FROM postlude_settings WHERE name = 'usable_from') AS usable_from";
    Schema::read(&sqlx::query(settings).fetch_one(connection).await?)
}

/// The clock of the machine, which is the engine's.
pub(super) fn now() -> i64 {
    to_millis(SystemTime::now())
}
