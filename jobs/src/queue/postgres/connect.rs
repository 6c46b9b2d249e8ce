//! The connections to the database, and its tables.

use std::{
    str::FromStr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use sqlx::{
    ConnectOptions as _, PgConnection, PgPool, Postgres, Transaction, pool::PoolConnection, postgres::PgConnectOptions,
};
use tokio::sync::watch;

use super::{ENGINE, notify::Notifier, pool::Pool};
use crate::{
    model::{
        error::QueueError,
        time::{from_millis, millis},
    },
    queue::{
        schema::Schema,
        sqlx_error::{not_sent, sent},
    },
};

pub(super) const MIGRATIONS: &[(i64, &str)] = &[(1, include_str!("../../../migrations/postgres/0001_jobs.sql"))];

/// The key of the advisory lock under which tables are created: the first eight bytes of "postlude", as a number.
const MIGRATION_LOCK: i64 = 0x706f_7374_6c75_6465;

const CONNECTIONS: u32 = 10;

/// One connection listens, and one renews leases.
const CONNECTIONS_BESIDE: u32 = 2;

pub(super) struct Shared {
    pool: Arc<Pool>,
    /// Connections beside the pool, which handlers may use up: see [`Shared::beside`].
    beside: OnceLock<Pool>,
    /// Whether workers listen for notifications.
    pub(super) listens: bool,
    pub(super) changes: watch::Sender<u64>,
    pub(super) notifier: Notifier,
}

impl Shared {
    pub(super) async fn connect(url: &str) -> Result<Self, QueueError> {
        let options = PgConnectOptions::from_str(url).map_err(|error| not_sent(ENGINE, error))?;
        let shared = Self::new(Pool::own(options.disable_statement_logging(), CONNECTIONS), true);
        drop(shared.acquire().await?);
        Ok(shared)
    }

    pub(super) fn with_pool(pool: PgPool, listens: bool) -> Self {
        Self::new(Pool::users(pool), listens)
    }

    fn new(pool: Pool, listens: bool) -> Self {
        let pool = Arc::new(pool);
        let notifier = Notifier::new(Arc::clone(&pool));
        Self { pool, beside: OnceLock::new(), listens, changes: watch::Sender::new(0), notifier }
    }

    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, QueueError> {
        self.pool.acquire().await
    }

    /// Connections that no handler can use up: a worker that could not renew would lose its leases.
    pub(super) fn beside(&self) -> &Pool {
        self.beside.get_or_init(|| {
            let options = self.pool.current().connect_options().as_ref().clone();
            Pool::own(options, CONNECTIONS_BESIDE)
        })
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, QueueError> {
        self.pool.begin().await
    }

    /// Creates the tables, or checks them, and stores the lease.
    pub(super) async fn prepare(&self, lease: Option<Duration>) -> Result<(), QueueError> {
        let mut transaction = self.begin().await?;
        migrate(&mut transaction).await?;
        if let Some(lease) = lease {
            sqlx::query("UPDATE postlude_settings SET value = $1 WHERE name = 'lease' AND value <> $1")
                .bind(millis(lease))
                .execute(&mut *transaction)
                .await
                .map_err(|error| sent(ENGINE, error))?;
        }
        transaction.commit().await.map_err(|error| sent(ENGINE, error))
    }

    pub(super) async fn now(&self) -> Result<SystemTime, QueueError> {
        let mut connection = self.acquire().await?;
        let now = sqlx::query_scalar("SELECT postlude_now()").fetch_one(&mut *connection).await;
        now.map(from_millis).map_err(|error| sent(ENGINE, error))
    }
}

/// The version of the tables that this program was built for.
pub(super) fn needed() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, _)| *version)
}

async fn migrate(connection: &mut PgConnection) -> Result<(), QueueError> {
    let refused = |error| sent(ENGINE, error);
    let found = schema(connection).await.map_err(refused)?;
    if found.version >= needed() {
        return found.check(ENGINE, needed());
    }
    let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK);
    lock.execute(&mut *connection).await.map_err(refused)?;
    // Another process may have created them meanwhile.
    let found = schema(connection).await.map_err(refused)?;
    found.check(ENGINE, needed())?;
    for (version, sql) in MIGRATIONS.iter().filter(|(version, _)| *version > found.version) {
        sqlx::raw_sql(*sql).execute(&mut *connection).await.map_err(refused)?;
        tracing::info!(target: "postlude_jobs", engine = ENGINE, version, "created or changed the tables for jobs");
    }
    Ok(())
}

async fn schema(connection: &mut PgConnection) -> Result<Schema, sqlx::Error> {
    // Not `to_regclass`: it may answer from a cache that is older than the wait for the lock.
    let exists = "SELECT EXISTS (SELECT 1 FROM pg_tables
                  WHERE tablename = 'postlude_settings' AND schemaname = ANY (current_schemas(false)))";
    let exists: bool = sqlx::query_scalar(exists).fetch_one(&mut *connection).await?;
    if !exists {
        return Ok(Schema::NONE);
    }
    let settings = "SELECT (SELECT value FROM postlude_settings WHERE name = 'schema') AS schema,
        (SELECT value FROM postlude_settings WHERE name = 'usable_from') AS usable_from";
    Schema::read(&sqlx::query(settings).fetch_one(connection).await?)
}
