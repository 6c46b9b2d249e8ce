//! A transaction that writes.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{Sqlite, SqliteConnection, pool::PoolConnection};
use tokio::time::{Instant, sleep};

use super::{connect::BUSY_TIMEOUT, turn::Turn};

/// How often a transaction tries to get the lock. SQLite's own wait grows to a tenth of a second, so that those who
/// have waited longest come last: with several busy processes, some would not get the lock for seconds.
const TRY_EVERY: Duration = Duration::from_millis(1);

const SQLITE_BUSY: u32 = 5;

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
        let start = Instant::now();
        let _until_it_has_begun = match turn {
            Some(turn) => turn.take().await,
            None => None,
        };
        loop {
            match sqlx::query("BEGIN IMMEDIATE").execute(&mut *transaction).await {
                Ok(_) => return Ok(transaction),
                Err(error) if is_busy(&error) && start.elapsed() < BUSY_TIMEOUT => sleep(TRY_EVERY).await,
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::query("COMMIT").execute(&mut *self).await?;
        self.is_committed = true;
        Ok(())
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    // An extended code has the primary one in its lowest byte.
    error.code().and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == SQLITE_BUSY)
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
