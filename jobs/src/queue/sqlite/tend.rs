//! Moving what is due, and what has lost its lease.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::{
    ENGINE,
    connect::{Shared, needed, now},
    settle,
};
use crate::{
    model::{
        dead::{JobError, crash_message},
        error::QueueError,
        time::{from_millis, millis},
    },
    queue::{Look, LostLease, rows, schema::Schema, sqlx_error::sent},
};

/// How many jobs one step moves.
const STEP: i64 = 1_000;

/// What there is to do. It reads only, the ends of the indexes.
pub(super) const LOOK: &str = "
    SELECT (SELECT value FROM postlude_settings WHERE name = 'lease') AS lease,
        (SELECT value FROM postlude_settings WHERE name = 'schema') AS schema,
        (SELECT value FROM postlude_settings WHERE name = 'usable_from') AS usable_from,
        (SELECT min(due) FROM postlude_jobs WHERE state = 1) AS due,
        (SELECT min(lease_until) FROM postlude_jobs WHERE state = 2) AS expires,
        EXISTS (SELECT 1 FROM json_each(?1) AS handled JOIN postlude_jobs ON name = handled.value
            WHERE state = 0 AND crashes > 0 AND name NOT IN (SELECT name FROM postlude_paused)) AS crashed";

pub(super) const MAKE_WAITING: &str = "
    UPDATE postlude_jobs SET state = 0
    WHERE seq IN (SELECT seq FROM postlude_jobs WHERE state = 1 AND due <= ?1 ORDER BY due LIMIT ?2)";

pub(super) const TAKE_BACK: &str = "
    UPDATE postlude_jobs
    SET state = iif(crashes + 1 >= max_crashes, 4, 0), finished_at = iif(crashes + 1 >= max_crashes, ?1, NULL),
        crashes = crashes + 1, owner = NULL, lease_until = NULL, due = ?1
    WHERE seq IN (SELECT seq FROM postlude_jobs WHERE state = 2 AND lease_until <= ?1 ORDER BY lease_until LIMIT ?2)
    RETURNING id, name, state, failures, crashes";

pub(super) const PRUNE: &str = "
    DELETE FROM postlude_jobs
    WHERE seq IN (SELECT seq FROM postlude_jobs WHERE state IN (3, 5) AND finished_at < ?1 LIMIT ?2)";

pub(super) const SHORTEN_LEASES: &str = "
    UPDATE postlude_jobs SET lease_until = ?1 + (SELECT value FROM postlude_settings WHERE name = 'lease')
    WHERE state = 2 AND lease_until > ?1 + (SELECT value FROM postlude_settings WHERE name = 'lease')";

impl Shared {
    pub(super) async fn look(&self, names: Vec<&'static str>) -> Result<Look, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.read().await?;
        let names = serde_json::to_string(&names).unwrap_or_default();
        let row = sqlx::query(LOOK).bind(names).fetch_one(&mut *connection).await.map_err(refused)?;
        // A newer program may have changed the tables since this one has started.
        Schema::read(&row).map_err(refused)?.check(ENGINE, needed())?;
        rows::look(&row, now()).map_err(refused)
    }

    pub(super) async fn make_waiting(&self) -> Result<(), QueueError> {
        self.execute(sqlx::query(MAKE_WAITING).bind(now()).bind(STEP)).await.map(drop)
    }

    pub(super) async fn take_back(&self) -> Result<Vec<LostLease>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut transaction = self.begin().await?;
        let lost = take_back(&mut transaction, now()).await.map_err(refused)?;
        transaction.commit().await.map_err(refused)?;
        Ok(lost)
    }

    pub(super) async fn shorten_leases(&self) -> Result<(), QueueError> {
        self.execute(sqlx::query(SHORTEN_LEASES).bind(now())).await.map(drop)
    }

    pub(super) async fn prune(&self, retention: Duration) -> Result<u64, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let before = now() - millis(retention);
        let old = "SELECT count(*) FROM (
            SELECT 1 FROM postlude_jobs WHERE state IN (3, 5) AND finished_at < ?1 LIMIT 1)";
        let count: i64 = {
            let mut connection = self.read().await?;
            sqlx::query_scalar(old).bind(before).fetch_one(&mut *connection).await.map_err(refused)?
        };
        if count == 0 {
            return Ok(0);
        }
        self.execute(sqlx::query(PRUNE).bind(before).bind(STEP)).await
    }
}

async fn take_back(connection: &mut SqliteConnection, now: i64) -> Result<Vec<LostLease>, sqlx::Error> {
    let rows = sqlx::query(TAKE_BACK).bind(now).bind(STEP).fetch_all(&mut *connection).await?;
    let mut lost = Vec::with_capacity(rows.len());
    for row in &rows {
        let (one, attempt) = rows::lost_lease(row)?;
        let error = JobError::new(from_millis(now), attempt, &crash_message(one.crashes, one.is_dead));
        settle::add_error(connection, one.id, &error).await?;
        if one.is_dead {
            settle::follow(connection, one.id, now).await?;
        }
        lost.push(one);
    }
    Ok(lost)
}
