//! graphile_worker, on PostgreSQL.

use futures::{FutureExt, future::BoxFuture};
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions, WorkerUtils,
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::oneshot;

use crate::system::{Backlog, CONCURRENCY, Kind, Probe, Pushed, Stop, System, Worker, now, started};

impl TaskHandler for Backlog {
    const IDENTIFIER: &'static str = "backlog";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        started(self.sent);
        Ok::<(), String>(())
    }
}

impl TaskHandler for Probe {
    const IDENTIFIER: &'static str = "probe";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        started(self.sent);
        Ok::<(), String>(())
    }
}

pub(crate) struct Graphile {
    url: String,
    database: String,
    pool: PgPool,
    utils: WorkerUtils,
}

impl Graphile {
    pub(crate) async fn new(server: &str, database: String) -> Self {
        let url = format!("{server}/{database}");
        let pool = connect(&url).await;
        let utils = WorkerUtils::new(pool.clone(), "graphile_worker");
        utils.migrate().await.unwrap();
        Self { url, database, pool, utils }
    }
}

async fn connect(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(20).connect(url).await.unwrap()
}

impl System for Graphile {
    fn name(&self) -> &'static str {
        "graphile_worker"
    }

    fn load(&mut self, jobs: u64) -> BoxFuture<'_, ()> {
        async move {
            self.utils.add_job(Backlog { sent: 0 }, JobSpec::default()).await.unwrap();
            let sql = format!(
                "INSERT INTO graphile_worker._private_jobs (task_id, payload, priority, run_at, max_attempts)
                 SELECT task_id, payload, priority, run_at, max_attempts
                 FROM generate_series(1, {jobs}), (SELECT * FROM graphile_worker._private_jobs LIMIT 1) AS first;
                 ANALYZE graphile_worker._private_jobs"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
        }
        .boxed()
    }

    fn push(&mut self, kind: Kind) -> BoxFuture<'_, Pushed> {
        async move {
            let sent = now();
            match kind {
                Kind::Backlog => self.utils.add_job(Backlog { sent }, JobSpec::default()).await.unwrap(),
                Kind::Probe => self.utils.add_job(Probe { sent }, JobSpec::default()).await.unwrap(),
            };
            Pushed::returned_now(sent)
        }
        .boxed()
    }

    fn push_many(&mut self, jobs: usize) -> BoxFuture<'_, ()> {
        async move {
            let (sent, spec) = (now(), JobSpec::default());
            let jobs: Vec<_> = (0..jobs).map(|_| (Backlog { sent }, &spec)).collect();
            self.utils.add_jobs(&jobs).await.unwrap();
        }
        .boxed()
    }

    fn work(&mut self, kind: Kind, worker: Worker) -> BoxFuture<'_, Option<Stop>> {
        async move {
            if worker == Worker::Here {
                // It is notified by the server in any case.
                return None;
            }
            let options = WorkerOptions::default()
                .pg_pool(connect(&self.url).await)
                .schema("graphile_worker")
                .concurrency(CONCURRENCY)
                // Its workers take batches with it, as in its own benchmarks.
                .local_queue(LocalQueueConfig::default().with_size(CONCURRENCY))
                .listen_os_shutdown_signals(false);
            let options = match kind {
                Kind::Backlog => options.define_job::<Backlog>(),
                Kind::Probe => options.define_job::<Probe>(),
            };
            let worker = std::sync::Arc::new(options.init().await.unwrap());
            let (ended, end) = oneshot::channel();
            let runs = worker.clone();
            tokio::spawn(async move {
                runs.run().await.unwrap();
                let _nobody_waits = ended.send(());
            });
            let stop = async move {
                worker.request_shutdown();
                end.await.unwrap();
            };
            Some(Box::new(move || stop.boxed()) as Stop)
        }
        .boxed()
    }

    fn database(&self) -> Option<&str> {
        Some(&self.database)
    }
}
