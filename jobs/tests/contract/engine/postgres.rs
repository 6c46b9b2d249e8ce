//! A database for each test, on one server.

use postlude_jobs::{JobId, NewJob, postgres::PostgresQueue};
use sqlx::{Connection, PgConnection};

use super::TestEngine;
use crate::common::postgres;

pub(crate) struct Postgres {
    url: String,
}

impl Postgres {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl TestEngine for Postgres {
    const NAME: &'static str = "postgresql";

    type Queue = PostgresQueue;
    type Lock = PgConnection;

    fn is_installed() -> bool {
        postgres::is_installed()
    }

    async fn create() -> Self {
        Self { url: postgres::shared().create_database().await }
    }

    async fn queue(&self) -> PostgresQueue {
        PostgresQueue::connect(&self.url).await.unwrap()
    }

    async fn execute(&self, sql: &'static str) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }

    async fn push_in(queue: &PostgresQueue, engine: &Self, job: NewJob, commits: bool) -> JobId {
        let mut connection = PgConnection::connect(&engine.url).await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        let id = queue.push_in(&mut transaction, job).await.unwrap();
        if commits {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
        id
    }

    async fn lock(&self) -> PgConnection {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
        sqlx::query("LOCK TABLE postlude_jobs").execute(&mut connection).await.unwrap();
        connection
    }

    async fn unlock(mut lock: PgConnection) {
        sqlx::query("ROLLBACK").execute(&mut lock).await.unwrap();
    }
}
