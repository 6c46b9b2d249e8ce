//! How SQLite carries out the statements of a worker: from indexes, however many jobs are stored.

use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};

use super::{connect, operate, reserve, settle, tend};

/// The steps of the plan that go through all jobs.
async fn full_scans(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = sqlx::query(sql).fetch_all(connection).await.unwrap();
    let steps = rows.iter().map(|row| row.get::<String, _>("detail"));
    steps.filter(|step| step.starts_with("SCAN postlude_jobs") && !step.contains("INDEX")).collect()
}

#[tokio::test]
async fn no_statement_of_a_worker_scans_the_jobs() {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    for (_, sql) in connect::MIGRATIONS {
        sqlx::raw_sql(*sql).execute(&mut connection).await.unwrap();
    }
    let statements = [
        reserve::FIRST,
        reserve::FIRST_CRASHED,
        reserve::TAKE,
        reserve::RENEW,
        reserve::RELEASE_OTHERS,
        settle::NOTE,
        settle::COMPLETE,
        settle::RUN_AGAIN,
        settle::RETRY,
        settle::DEAD,
        settle::RELEASE,
        settle::FOLLOW,
        tend::LOOK,
        tend::MAKE_WAITING,
        tend::TAKE_BACK,
        tend::SHORTEN_LEASES,
        tend::PRUNE,
        operate::STATS,
        operate::DEAD,
    ];
    for sql in statements {
        let scans = full_scans(&mut connection, sql).await;
        assert!(scans.is_empty(), "{scans:?} in {sql}");
    }
    let scans = full_scans(&mut connection, "SELECT * FROM postlude_jobs WHERE headers = '{}'").await;
    assert_eq!(scans.len(), 1, "a scan is found");
}
