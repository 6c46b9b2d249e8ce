//! Moving what is due, and what has lost its lease.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use super::{
    ENGINE,
    connect::{Shared, needed},
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
const LOOK: &str = "
    SELECT postlude_now() AS now, (SELECT value FROM postlude_settings WHERE name = 'lease') AS lease,
        (SELECT value FROM postlude_settings WHERE name = 'schema') AS schema,
        (SELECT value FROM postlude_settings WHERE name = 'usable_from') AS usable_from,
        (SELECT min(due) FROM postlude_jobs WHERE state = 1) AS due,
        (SELECT min(lease_until) FROM postlude_jobs WHERE state = 2) AS expires,
        EXISTS (SELECT 1 FROM postlude_jobs WHERE state = 0 AND crashes > 0 AND name = ANY ($1)
            AND name NOT IN (SELECT name FROM postlude_paused)) AS crashed";

const MAKE_WAITING: &str = "
    UPDATE postlude_jobs SET state = 0
    WHERE seq = ANY (ARRAY (
        SELECT seq FROM postlude_jobs WHERE state = 1 AND due <= (SELECT postlude_now()) ORDER BY due LIMIT $1 FOR UPDATE SKIP LOCKED))";

const TAKE_BACK: &str = "
    UPDATE postlude_jobs
    SET state = CASE WHEN crashes + 1 >= max_crashes THEN 4 ELSE 0 END,
        finished_at = CASE WHEN crashes + 1 >= max_crashes THEN now.ms END,
        crashes = crashes + 1, owner = NULL, lease_until = NULL, due = now.ms
    FROM (SELECT postlude_now() AS ms) AS now
    WHERE seq = ANY (ARRAY (
        SELECT seq FROM postlude_jobs WHERE state = 2 AND lease_until <= (SELECT postlude_now()) ORDER BY lease_until
        LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING id::text AS id, name, state, failures, crashes, due AS at";

const SHORTEN_LEASES: &str = "
    UPDATE postlude_jobs SET lease_until = latest.ms
    FROM (SELECT postlude_now() + value AS ms FROM postlude_settings WHERE name = 'lease') AS latest
    WHERE seq = ANY (ARRAY (
        SELECT seq FROM postlude_jobs WHERE state = 2 AND lease_until > (
            SELECT postlude_now() + value FROM postlude_settings WHERE name = 'lease')
        FOR UPDATE SKIP LOCKED))";

impl Shared {
    pub(super) async fn look(&self, names: Vec<&'static str>) -> Result<Look, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut connection = self.acquire().await?;
        let row = sqlx::query(LOOK).bind(names).fetch_one(&mut *connection).await.map_err(refused)?;
        // A newer program may have changed the tables since this one has started.
        Schema::read(&row).map_err(refused)?.check(ENGINE, needed())?;
        let now = row.try_get("now").map_err(refused)?;
        rows::look(&row, now).map_err(refused)
    }

    pub(super) async fn make_waiting(&self) -> Result<(), QueueError> {
        let mut connection = self.acquire().await?;
        let moved = sqlx::query(MAKE_WAITING).bind(STEP).execute(&mut *connection).await;
        moved.map(drop).map_err(|error| sent(ENGINE, error))
    }

    pub(super) async fn take_back(&self) -> Result<Vec<LostLease>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut transaction = self.begin().await?;
        let lost = take_back(&mut transaction).await.map_err(refused)?;
        transaction.commit().await.map_err(refused)?;
        Ok(lost)
    }

    pub(super) async fn shorten_leases(&self) -> Result<(), QueueError> {
        let mut connection = self.acquire().await?;
        let shortened = sqlx::query(SHORTEN_LEASES).execute(&mut *connection).await;
        shortened.map(drop).map_err(|error| sent(ENGINE, error))
    }

    pub(super) async fn prune(&self, retention: Duration) -> Result<u64, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let prune = "DELETE FROM postlude_jobs WHERE seq = ANY (ARRAY (
            SELECT seq FROM postlude_jobs WHERE state IN (3, 5) AND finished_at < (SELECT postlude_now()) - $1
            LIMIT $2 FOR UPDATE SKIP LOCKED))";
        let mut connection = self.acquire().await?;
        let pruned = sqlx::query(prune).bind(millis(retention)).bind(STEP).execute(&mut *connection).await;
        Ok(pruned.map_err(refused)?.rows_affected())
    }
}

async fn take_back(connection: &mut PgConnection) -> Result<Vec<LostLease>, sqlx::Error> {
    let rows = sqlx::query(TAKE_BACK).bind(STEP).fetch_all(&mut *connection).await?;
    let mut lost = Vec::with_capacity(rows.len());
    for row in &rows {
        let (one, attempt) = rows::lost_lease(row)?;
        let at = from_millis(row.try_get("at")?);
        let error = JobError::new(at, attempt, &crash_message(one.crashes, one.is_dead));
        settle::add_error(connection, one.id, &error).await?;
        if one.is_dead {
            settle::follow(connection, one.id).await?;
        }
        lost.push(one);
    }
    Ok(lost)
}
