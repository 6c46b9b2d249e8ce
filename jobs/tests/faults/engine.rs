//! The engines under test: as an address, which processes get.

use std::future::Future;

use sqlx::Connection as _;
#[cfg(feature = "sqlite")]
use tempfile::TempDir;

pub(crate) trait Engine: Sized + Send + Sync + 'static {
    const NAME: &'static str;

    fn is_installed() -> bool;
    fn create() -> impl Future<Output = Self> + Send;
    fn address(&self) -> String;
    /// Runs a statement past the queue.
    fn execute(&self, sql: &'static str) -> impl Future<Output = ()> + Send;
}

#[cfg(feature = "sqlite")]
pub(crate) struct Sqlite(TempDir);

#[cfg(feature = "sqlite")]
impl Engine for Sqlite {
    const NAME: &'static str = "sqlite";

    fn is_installed() -> bool {
        true
    }

    async fn create() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn address(&self) -> String {
        self.0.path().join("jobs.db").display().to_string()
    }

    async fn execute(&self, sql: &'static str) {
        let url = format!("sqlite://{}", self.address());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
}

#[cfg(feature = "postgres")]
pub(crate) struct Postgres(String);

#[cfg(feature = "postgres")]
impl Engine for Postgres {
    const NAME: &'static str = "postgresql";

    fn is_installed() -> bool {
        crate::common::postgres::is_installed()
    }

    async fn create() -> Self {
        Self(crate::common::postgres::shared().create_database().await)
    }

    fn address(&self) -> String {
        self.0.clone()
    }

    async fn execute(&self, sql: &'static str) {
        let mut connection = sqlx::PgConnection::connect(&self.0).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
}
