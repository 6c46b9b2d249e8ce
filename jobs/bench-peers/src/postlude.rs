//! postlude-jobs.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use postlude::TaskRegistry;
use postlude_jobs::{
    Job, Jobs, JobsBuilder, postgres::PostgresQueue, rabbitmq::RabbitQueue, redis::RedisQueue, sqlite::SqliteQueue,
};
use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::system::{Backlog, CONCURRENCY, Kind, Probe, Pushed, Stop, System, Worker, now, push_in_parts, started};

impl Job for Backlog {
    const NAME: &'static str = "backlog";
}

impl Job for Probe {
    const NAME: &'static str = "probe";
}

/// A queue, and how it is opened again.
#[derive(Clone)]
enum Queue {
    Sqlite(SqliteQueue, String),
    Postgres(PostgresQueue, String),
    /// With the name of the queue, as RabbitMQ.
    Redis(RedisQueue, String, String),
    Rabbit(RabbitQueue, String, String),
}

impl Queue {
    async fn again(&self) -> Self {
        match self {
            Self::Sqlite(_, path) => Self::sqlite(path).await,
            Self::Postgres(_, url) => Self::postgres(url).await,
            Self::Redis(_, url, name) => Self::redis(url, name).await,
            Self::Rabbit(_, url, name) => Self::rabbit(url, name).await,
        }
    }

    async fn sqlite(path: &str) -> Self {
        Self::Sqlite(SqliteQueue::open(path).await.unwrap(), path.to_owned())
    }

    async fn postgres(url: &str) -> Self {
        Self::Postgres(PostgresQueue::connect(url).await.unwrap(), url.to_owned())
    }

    async fn redis(url: &str, name: &str) -> Self {
        Self::Redis(RedisQueue::connect_to(url, name).await.unwrap(), url.to_owned(), name.to_owned())
    }

    async fn rabbit(url: &str, name: &str) -> Self {
        let queue = RabbitQueue::connect_to(&[url], name).await.unwrap();
        Self::Rabbit(queue, url.to_owned(), name.to_owned())
    }

    fn builder(self, registry: TaskRegistry) -> JobsBuilder {
        match self {
            Self::Sqlite(queue, _) => Jobs::builder(queue, registry),
            Self::Postgres(queue, _) => Jobs::builder(queue, registry),
            Self::Redis(queue, ..) => Jobs::builder(queue, registry),
            Self::Rabbit(queue, ..) => Jobs::builder(queue, registry),
        }
    }
}

pub(crate) struct Postlude {
    queue: Queue,
    jobs: Jobs,
    database: Option<String>,
}

impl Postlude {
    pub(crate) async fn on_sqlite(path: &str) -> Self {
        Self::new(Queue::sqlite(path).await, None).await
    }

    pub(crate) async fn on_postgres(server: &str, database: String) -> Self {
        Self::new(Queue::postgres(&format!("{server}/{database}")).await, Some(database)).await
    }

    pub(crate) async fn on_redis(url: &str, name: &str) -> Self {
        Self::new(Queue::redis(url, name).await, None).await
    }

    pub(crate) async fn on_rabbit(url: &str, name: &str) -> Self {
        Self::new(Queue::rabbit(url, name).await, None).await
    }

    async fn new(queue: Queue, database: Option<String>) -> Self {
        let jobs = queue.clone().builder(TaskRegistry::new()).producer().await.unwrap();
        Self { queue, jobs, database }
    }
}

const COLUMNS: &str = "name, state, priority, due, pushed_at, max_attempts, max_crashes, headers, payload";

impl System for Postlude {
    fn name(&self) -> &'static str {
        "postlude-jobs"
    }

    fn load(&mut self, jobs: u64) -> BoxFuture<'_, ()> {
        async move {
            match &self.queue {
                Queue::Sqlite(_, path) => {
                    self.jobs.push(Backlog { sent: 0 }).await.unwrap();
                    let mut connection = SqliteConnection::connect(&format!("sqlite://{path}")).await.unwrap();
                    let sql = format!(
                        "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {jobs}),
                            random (hex) AS (SELECT lower(hex(randomblob(16))) FROM number)
                         INSERT INTO postlude_jobs (id, {COLUMNS})
                         SELECT substr(hex, 1, 8) || '-' || substr(hex, 9, 4) || '-' || substr(hex, 13, 4) || '-'
                            || substr(hex, 17, 4) || '-' || substr(hex, 21), {COLUMNS}
                         FROM random, (SELECT * FROM postlude_jobs LIMIT 1)"
                    );
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
                }
                Queue::Postgres(_, url) => {
                    self.jobs.push(Backlog { sent: 0 }).await.unwrap();
                    let mut connection = PgConnection::connect(url).await.unwrap();
                    let sql = format!(
                        "INSERT INTO postlude_jobs (id, {COLUMNS})
                         SELECT gen_random_uuid(), {COLUMNS}
                         FROM generate_series(1, {jobs}), (SELECT * FROM postlude_jobs LIMIT 1) AS first;
                         ANALYZE postlude_jobs"
                    );
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
                }
                Queue::Redis(..) | Queue::Rabbit(..) => push_in_parts(self, jobs).await,
            }
        }
        .boxed()
    }

    fn push(&mut self, kind: Kind) -> BoxFuture<'_, Pushed> {
        async move {
            let sent = now();
            match kind {
                Kind::Backlog => self.jobs.push(Backlog { sent }).await.unwrap(),
                Kind::Probe => self.jobs.push(Probe { sent }).await.unwrap(),
            };
            Pushed::returned_now(sent)
        }
        .boxed()
    }

    fn push_many(&mut self, jobs: usize) -> BoxFuture<'_, ()> {
        async move {
            let sent = now();
            self.jobs.push_all(vec![Backlog { sent }; jobs]).await.unwrap();
        }
        .boxed()
    }

    fn work(&mut self, kind: Kind, worker: Worker) -> BoxFuture<'_, Option<Stop>> {
        async move {
            if worker == Worker::Here && matches!(self.queue, Queue::Rabbit(..)) {
                // The broker tells the worker in any case.
                return None;
            }
            let queue = if worker == Worker::Here { self.queue.clone() } else { self.queue.again().await };
            let registry = TaskRegistry::new();
            let builder = queue.builder(registry.clone()).concurrency(CONCURRENCY);
            let builder = match kind {
                Kind::Backlog => builder.handle(async |job: Backlog| started(job.sent)),
                Kind::Probe => builder.handle(async |job: Probe| started(job.sent)),
            };
            builder.start().await.unwrap();
            let stop = async move {
                registry.shutdown(Duration::from_secs(10)).await;
            };
            Some(Box::new(move || stop.boxed()) as Stop)
        }
        .boxed()
    }

    fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }
}
