//! Transactions that write, and statements that are one.

use std::{
    fs::File,
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{Sqlite, SqliteConnection, pool::PoolConnection};
use tokio::time::{Instant, sleep};

use super::{ENGINE, connect::BUSY_TIMEOUT, turn::Turn};
use crate::{
    model::error::QueueError,
    queue::sqlx_error::{not_sent, sent},
};

/// How often a transaction tries to get the lock. SQLite's own wait grows to a tenth of a second, so that those who
/// have waited longest come last: with several busy processes, some would not get the lock for seconds.
const TRY_EVERY: Duration = Duration::from_millis(1);

const SQLITE_BUSY: u32 = 5;

/// The file, or one of those beside it, can't be opened.
const SQLITE_CANTOPEN: u32 = 14;

/// A transaction that has the lock for writing. If it is dropped without a commit, its connection is closed, which
/// rolls it back.
///
/// Purposefully not `sqlx::Transaction`: when the disk is full, SQLite rolls back by itself, and that type then counts
/// one transaction too many, so that its connection can begin no other.
pub(super) struct WriteTransaction {
    connection: PoolConnection<Sqlite>,
    is_committed: bool,
}

impl WriteTransaction {
    /// Begins in its turn; without a turn, at once.
    pub(super) async fn begin(connection: PoolConnection<Sqlite>, turn: Option<&Turn>) -> Result<Self, sqlx::Error> {
        let mut transaction = Self { connection, is_committed: false };
        let tries = Tries::begin(turn).await;
        while let Err(error) = sqlx::query("BEGIN IMMEDIATE").execute(&mut *transaction).await {
            tries.wait_after(error).await?;
        }
        Ok(transaction)
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::query("COMMIT").execute(&mut *self).await?;
        self.is_committed = true;
        Ok(())
    }
}

/// A statement that needs the lock for writing is tried again and again while another process has it.
pub(super) struct Tries {
    start: Instant,
    _turn: Option<File>,
}

impl Tries {
    /// Waits for its turn; without a turn, not at all.
    pub(super) async fn begin(turn: Option<&Turn>) -> Self {
        let start = Instant::now();
        let turn = match turn {
            Some(turn) => turn.take().await,
            None => None,
        };
        Self { start, _turn: turn }
    }

    /// Waits for the next try. Returns the error if there is to be none.
    pub(super) async fn wait_after(&self, error: sqlx::Error) -> Result<(), sqlx::Error> {
        if !is_busy(&error) || self.start.elapsed() >= BUSY_TIMEOUT {
            return Err(error);
        }
        sleep(TRY_EVERY).await;
        Ok(())
    }
}

/// What the error of a statement means that was its own transaction.
pub(super) fn alone(error: sqlx::Error) -> QueueError {
    match code(&error) {
        Some(SQLITE_BUSY | SQLITE_CANTOPEN) => not_sent(ENGINE, error),
        _ => sent(ENGINE, error),
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    code(error) == Some(SQLITE_BUSY)
}

fn code(error: &sqlx::Error) -> Option<u32> {
    let sqlx::Error::Database(error) = error else { return None };
    // An extended code has the primary one in its lowest byte.
    error.code()?.parse::<u32>().ok().map(|code| code & 0xff)
}

impl Drop for WriteTransaction {
    fn drop(&mut self) {
        if !self.is_committed {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for WriteTransaction {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for WriteTransaction {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}
