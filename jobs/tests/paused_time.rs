//! What paused time does to a pool of sqlx, as the chapter on tests of postlude says.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::time::Duration;

use sqlx::{Sqlite, SqlitePool, pool::PoolConnection, sqlite::SqlitePoolOptions};
use tokio::time::Instant;

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

fn pool() -> SqlitePool {
    let options = SqlitePoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
    options.connect_lazy("sqlite::memory:").unwrap()
}

fn has_timed_out(acquired: &Result<PoolConnection<Sqlite>, sqlx::Error>) -> bool {
    matches!(acquired, Err(sqlx::Error::PoolTimedOut))
}

/// While a thread of sqlx opens the database, the runtime is idle, and the clock jumps to the time limit of the pool.
#[tokio::test(start_paused = true)]
async fn a_pool_times_out_while_it_connects() {
    let mut timed_out = 0;
    // A thread may win now and then.
    for _ in 0..20 {
        timed_out += u32::from(has_timed_out(&pool().acquire().await));
    }
    assert!(timed_out > 0);
}

#[tokio::test(start_paused = true)]
async fn a_pool_times_out_at_once_while_its_connection_is_used() {
    let pool = pool();
    tokio::time::resume();
    let connection = pool.acquire().await.unwrap();
    tokio::time::pause();
    let start = Instant::now();
    assert!(has_timed_out(&pool.acquire().await));
    assert!(start.elapsed() >= ACQUIRE_TIMEOUT);
    drop(connection);
}

#[tokio::test]
async fn a_pool_connects_in_real_time() {
    assert!(!has_timed_out(&pool().acquire().await));
}
