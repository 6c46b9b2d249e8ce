//! apalis, on SQLite and on PostgreSQL.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use apalis::prelude::*;
use apalis_postgres::PostgresStorage;
use apalis_sqlite::{SqliteStorage, callback::HookCallbackListener};
use futures::{FutureExt, future::BoxFuture};
use sqlx::{
    PgPool, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::system::{Backlog, CONCURRENCY, Kind, Probe, Pushed, Stop, System, Worker, now, started};

/// How often a worker looks for jobs in a SQLite file, as that of postlude-jobs does, and in Redis: a worker that is not
/// told to looks only at its heartbeat, each half minute.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) async fn backlog(job: Backlog) -> Result<(), BoxDynError> {
    started(job.sent);
    Ok(())
}

pub(crate) async fn probe(job: Probe) -> Result<(), BoxDynError> {
    started(job.sent);
    Ok(())
}

/// A name that no worker had before.
pub(crate) fn worker_name() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("worker-{}", NUMBER.fetch_add(1, Ordering::SeqCst))
}

/// Runs a worker until it is told to stop.
macro_rules! run {
    ($backend:expr, $handler:expr) => {{
        let worker = WorkerBuilder::new(worker_name())
            .backend($backend)
            .concurrency(CONCURRENCY)
            .parallelize(tokio::spawn)
            .build($handler);
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = Handle::current();
        // Not a task: the compiler can't see that the future may move between threads.
        let running = tokio::task::spawn_blocking(move || {
            runtime.block_on(async move {
                tokio::select! {
                    result = worker.run() => eprintln!("a worker of apalis has ended: {result:?}"),
                    _stopped = stopped => {}
                }
            });
        });
        let stop = async move {
            // The worker first settles the jobs that it has taken.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            drop(stop);
            running.await.unwrap();
        };
        Some(Box::new(move || stop.boxed()) as Stop)
    }};
}

pub(crate) use run;

pub(crate) struct ApalisSqlite {
    path: String,
    name: &'static str,
    /// Whether a commit waits for the disk.
    synchronous: SqliteSynchronous,
    pool: SqlitePool,
    listener: HookCallbackListener,
    backlog: SqliteStorage<Backlog>,
    probe: SqliteStorage<Probe>,
}

impl ApalisSqlite {
    /// With `synchronous=FULL`, as postlude-jobs.
    pub(crate) async fn synced(path: &str) -> Self {
        Self::new(path, "apalis, synced", SqliteSynchronous::Full).await
    }

    /// As its `setup` leaves the connection.
    pub(crate) async fn not_synced(path: &str) -> Self {
        Self::new(path, "apalis, not synced", SqliteSynchronous::Off).await
    }

    async fn new(path: &str, name: &'static str, synchronous: SqliteSynchronous) -> Self {
        let file = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let setup = SqlitePool::connect_with(file).await.unwrap();
        SqliteStorage::setup(&setup).await.unwrap();
        setup.close().await;
        let (pool, listener) = pool_with_callback(path, synchronous);
        let (backlog, probe) = (storage(&pool), storage(&pool));
        Self { path: path.to_owned(), name, synchronous, pool, listener, backlog, probe }
    }
}

fn options(path: &str, synchronous: SqliteSynchronous) -> SqliteConnectOptions {
    // With the default of 5 s, its pushes fail while its worker searches a million jobs.
    SqliteConnectOptions::new().filename(path).synchronous(synchronous).busy_timeout(Duration::from_secs(60))
}

/// As `SqliteStorage::connect_with_callback`, which takes no options.
fn pool_with_callback(path: &str, synchronous: SqliteSynchronous) -> (SqlitePool, HookCallbackListener) {
    let url = format!("sqlite://{path}");
    let (pool, listener) = SqliteStorage::connect_with_callback(&url).unwrap();
    pool.set_connect_options(options(path, synchronous));
    (pool, listener)
}

fn storage<T>(pool: &SqlitePool) -> SqliteStorage<T> {
    let config = apalis_sqlite::Config::default().queue(std::any::type_name::<T>()).batch_size(CONCURRENCY);
    SqliteStorage::new(pool).with_config(config)
}

impl System for ApalisSqlite {
    fn name(&self) -> &'static str {
        self.name
    }

    fn load(&mut self, jobs: u64) -> BoxFuture<'_, ()> {
        async move {
            self.backlog.push(Backlog { sent: 0 }).await.unwrap();
            let columns = "job, job_type, status, attempts, max_attempts, run_at, priority, metadata";
            let sql = format!(
                "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {jobs})
                 INSERT INTO Jobs (id, {columns})
                 SELECT '01' || substr(hex(randomblob(12)), 1, 24), {columns}
                 FROM number, (SELECT * FROM Jobs LIMIT 1)"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
        }
        .boxed()
    }

    fn push(&mut self, kind: Kind) -> BoxFuture<'_, Pushed> {
        async move {
            let sent = now();
            match kind {
                Kind::Backlog => self.backlog.push(Backlog { sent }).await.unwrap(),
                Kind::Probe => self.probe.push(Probe { sent }).await.unwrap(),
            }
            Pushed::returned_now(sent)
        }
        .boxed()
    }

    fn push_many(&mut self, jobs: usize) -> BoxFuture<'_, ()> {
        async move {
            let sent = now();
            self.backlog.push_bulk(vec![Backlog { sent }; jobs]).await.unwrap();
        }
        .boxed()
    }

    fn work(&mut self, kind: Kind, worker: Worker) -> BoxFuture<'_, Option<Stop>> {
        async move {
            if worker == Worker::Here {
                // Its update hooks tell of the pushes of the same pool, but may do so before these are committed.
                let looks = || Strategy::new().stream(self.listener.clone()).interval(LOOK_EVERY);
                return match kind {
                    Kind::Backlog => run!(storage(&self.pool).poll_with_strategy(looks()), backlog),
                    Kind::Probe => run!(storage(&self.pool).poll_with_strategy(looks()), probe),
                };
            }
            let pool = SqlitePoolOptions::new().connect_with(options(&self.path, self.synchronous)).await.unwrap();
            match kind {
                Kind::Backlog => run!(storage(&pool).poll_with_interval(LOOK_EVERY), backlog),
                Kind::Probe => run!(storage(&pool).poll_with_interval(LOOK_EVERY), probe),
            }
        }
        .boxed()
    }
}

pub(crate) struct ApalisPostgres {
    url: String,
    database: String,
    pool: PgPool,
    backlog: PostgresStorage<Backlog>,
    probe: PostgresStorage<Probe>,
}

impl ApalisPostgres {
    pub(crate) async fn new(server: &str, database: String) -> Self {
        let url = format!("{server}/{database}");
        let pool = connect(&url).await;
        PostgresStorage::setup(&pool).await.unwrap();
        let (backlog, probe) = (postgres_storage(&pool), postgres_storage(&pool));
        Self { url, database, pool, backlog, probe }
    }
}

async fn connect(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(20).connect(url).await.unwrap()
}

fn postgres_storage<T>(pool: &PgPool) -> PostgresStorage<T> {
    let config = apalis_postgres::Config::default().queue(std::any::type_name::<T>()).batch_size(CONCURRENCY);
    PostgresStorage::new(pool).with_config(config)
}

impl System for ApalisPostgres {
    fn name(&self) -> &'static str {
        "apalis"
    }

    fn load(&mut self, jobs: u64) -> BoxFuture<'_, ()> {
        async move {
            self.backlog.push(Backlog { sent: 0 }).await.unwrap();
            let columns = "job, job_type, status, attempts, max_attempts, run_at, priority, metadata";
            let sql = format!(
                "ALTER TABLE apalis.jobs DISABLE TRIGGER USER;
                 INSERT INTO apalis.jobs (id, {columns})
                 SELECT '01' || upper(substr(md5(random()::text || n), 1, 24)), {columns}
                 FROM generate_series(1, {jobs}) AS n, (SELECT * FROM apalis.jobs LIMIT 1) AS first;
                 ALTER TABLE apalis.jobs ENABLE TRIGGER USER;
                 ANALYZE apalis.jobs"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
        }
        .boxed()
    }

    fn push(&mut self, kind: Kind) -> BoxFuture<'_, Pushed> {
        async move {
            let sent = now();
            match kind {
                Kind::Backlog => self.backlog.push(Backlog { sent }).await.unwrap(),
                Kind::Probe => self.probe.push(Probe { sent }).await.unwrap(),
            }
            Pushed::returned_now(sent)
        }
        .boxed()
    }

    fn push_many(&mut self, jobs: usize) -> BoxFuture<'_, ()> {
        async move {
            let sent = now();
            self.backlog.push_bulk(vec![Backlog { sent }; jobs]).await.unwrap();
        }
        .boxed()
    }

    fn work(&mut self, kind: Kind, worker: Worker) -> BoxFuture<'_, Option<Stop>> {
        async move {
            if worker == Worker::Here {
                // It is notified by the server in any case.
                return None;
            }
            let pool = connect(&self.url).await;
            match kind {
                Kind::Backlog => run!(postgres_storage(&pool).with_pubsub(), backlog),
                Kind::Probe => run!(postgres_storage(&pool).with_pubsub(), probe),
            }
        }
        .boxed()
    }

    fn database(&self) -> Option<&str> {
        Some(&self.database)
    }
}
