//! The engines under test: as an address, which processes get.

use std::future::Future;

#[cfg(any(feature = "sqlite", feature = "postgres"))]
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

#[cfg(feature = "redis")]
pub(crate) struct Redis(crate::common::redis::Server);

#[cfg(feature = "redis")]
impl Engine for Redis {
    const NAME: &'static str = "redis";

    fn is_installed() -> bool {
        crate::common::redis::is_installed()
    }

    async fn create() -> Self {
        Self(crate::common::redis::Server::create())
    }

    fn address(&self) -> String {
        self.0.url()
    }

    async fn execute(&self, sql: &'static str) {
        self.0.execute(sql).await;
    }
}

/// A server of an engine, of a test's own, which suffers.
#[cfg(any(feature = "postgres", feature = "redis", feature = "rabbitmq"))]
pub(crate) trait Server: Send + Sync + 'static {
    /// The engine, as errors name it.
    const ENGINE: &'static str;

    fn create_with(environment: Vec<(&'static str, String)>) -> Self;
    fn create() -> Self
    where
        Self: Sized,
    {
        Self::create_with(Vec::new())
    }
    /// The address of a new queue.
    fn queue(&self) -> impl Future<Output = String> + Send;
    fn port(&self) -> u16;
    /// Kills it with SIGKILL.
    fn kill(&self);
    /// Starts it again, and waits until it answers.
    fn start(&self);
}

#[cfg(feature = "postgres")]
impl Server for crate::common::postgres::Server {
    const ENGINE: &'static str = "PostgreSQL";

    fn create_with(environment: Vec<(&'static str, String)>) -> Self {
        Self::create_with(environment)
    }

    async fn queue(&self) -> String {
        self.create_database().await
    }

    fn port(&self) -> u16 {
        self.port()
    }

    fn kill(&self) {
        self.kill();
    }

    fn start(&self) {
        self.start();
    }
}

#[cfg(feature = "redis")]
impl Server for crate::common::redis::Server {
    const ENGINE: &'static str = "Redis";

    fn create_with(mut environment: Vec<(&'static str, String)>) -> Self {
        for (name, libraries) in &mut environment {
            if *name == "LD_PRELOAD" {
                // Redis allocates with jemalloc, which asks for the time before libfaketime knows it.
                libraries.push_str(":libc.so.6");
            }
        }
        Self::create_with(crate::common::redis::Fsync::Always, &[], environment)
    }

    async fn queue(&self) -> String {
        self.url()
    }

    fn port(&self) -> u16 {
        self.port()
    }

    fn kill(&self) {
        self.kill();
    }

    fn start(&self) {
        self.start();
    }
}
