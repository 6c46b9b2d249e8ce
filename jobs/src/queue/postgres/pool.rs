//! The connections.

use std::time::Duration;

use parking_lot::Mutex;
use sqlx::{
    Connection as _, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::Instant;

use super::ENGINE;
use crate::{model::error::QueueError, queue::sqlx_error::not_sent};

/// How long an operation waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that was idle for longer is tried before it is used.
const TRIED_AFTER: Duration = Duration::from_secs(1);

/// A pool whose connections have not come back is replaced no more often than this.
const REPLACE_EVERY: Duration = Duration::from_secs(15);

/// A pool of this crate, or of the user.
pub(super) struct Pool {
    current: Mutex<PgPool>,
    own: Option<Own>,
}

/// What it takes to make the pool again.
struct Own {
    options: PgConnectOptions,
    connections: u32,
    replaced: Mutex<Option<Instant>>,
}

impl Pool {
    /// A pool of the user.
    pub(super) const fn users(pool: PgPool) -> Self {
        Self { current: Mutex::new(pool), own: None }
    }

    /// A pool of our own, which connects when it is first used.
    pub(super) fn own(options: PgConnectOptions, connections: u32) -> Self {
        let current = Mutex::new(lazy(options.clone(), connections));
        Self { current, own: Some(Own { options, connections, replaced: Mutex::default() }) }
    }

    pub(super) fn current(&self) -> PgPool {
        self.current.lock().clone()
    }

    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, QueueError> {
        let result = self.current().acquire().await;
        result.map_err(|error| self.failed(error))
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, QueueError> {
        let result = self.current().begin().await;
        result.map_err(|error| self.failed(error))
    }

    /// Called when no connection is free. The server may have stopped answering without closing its connections. The
    /// pool takes such a connection back only when its request has failed, which may take a quarter of an hour. So the
    /// pool is replaced by a new one.
    fn failed(&self, error: sqlx::Error) -> QueueError {
        if let (sqlx::Error::PoolTimedOut, Some(own)) = (&error, &self.own) {
            let mut replaced = own.replaced.lock();
            if replaced.is_none_or(|replaced| replaced.elapsed() > REPLACE_EVERY) {
                *replaced = Some(Instant::now());
                *self.current.lock() = lazy(own.options.clone(), own.connections);
            }
        }
        not_sent(ENGINE, error)
    }
}

fn lazy(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // Not each time: it would double the way to the server and back.
        .test_before_acquire(false)
        .before_acquire(|connection, seen| {
            Box::pin(async move {
                if seen.idle_for > TRIED_AFTER {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}
