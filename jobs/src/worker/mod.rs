//! The worker: takes jobs, runs them as tasks of a registry, and settles them.
//!
//! Five loops share the state of a [`Worker`]: one reserves, one settles, one renews the leases, one stores the
//! progress, and one removes old jobs and pushes those of schedules. They run in one tokio task, which outlives a
//! shutdown of the registry until everything is settled.

mod backoff;
mod clock;
pub(crate) mod cron;
pub(crate) mod current;
pub(crate) mod handler;
mod held;
pub(crate) mod metrics;
mod progress;
mod renew;
mod reserve;
mod run;
mod settle;
mod tend;
mod verdict;

use std::{error::Error, sync::Arc, time::Duration};

use parking_lot::Mutex;
use postlude::{ShutdownGuard, TaskRegistry};
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};

use self::{
    backoff::Backoff,
    cron::CronJob,
    handler::Handlers,
    held::HeldJobs,
    metrics::{Counters, count},
    settle::Ended,
};
use crate::{
    model::{codec::Codec, error::QueueError, id::JobId},
    queue::Queue,
};

/// How long a worker waits for an operation of the queue.
const ENGINE_LIMIT: Duration = Duration::from_secs(10);

/// How long it waits at its end until jobs that were delivered ahead are given back.
const WITHHOLD_LIMIT: Duration = Duration::from_secs(2);

/// How a worker works.
pub(crate) struct WorkerConfig {
    pub(crate) concurrency: usize,
    pub(crate) retention: Duration,
    pub(crate) codec: Option<Arc<dyn Codec>>,
    pub(crate) schedules: Vec<CronJob>,
}

/// The state that the loops and the runs share.
pub(crate) struct Worker {
    queue: Arc<dyn Queue>,
    registry: TaskRegistry,
    handlers: Handlers,
    config: WorkerConfig,
    counters: Arc<Counters>,
    /// What this worker reserves is its own, and not another's.
    owner: JobId,
    held: HeldJobs,
    /// The lease, as last read.
    lease: Mutex<Duration>,
    ended: mpsc::UnboundedSender<Ended>,
    /// A slot is free, or a job is due earlier than was known.
    changed: Notify,
}

impl Worker {
    /// Starts the loops.
    ///
    /// # Errors
    /// If the queue can't be reached.
    pub(crate) async fn start(
        queue: Arc<dyn Queue>,
        registry: TaskRegistry,
        handlers: Handlers,
        config: WorkerConfig,
        counters: Arc<Counters>,
    ) -> Result<(), QueueError> {
        let (ended, ends) = mpsc::unbounded_channel();
        let lease = queue.look(handlers.names().collect()).await?.lease;
        let guard = registry.shutdown_guard();
        let worker = Arc::new(Self {
            queue,
            registry,
            handlers,
            config,
            counters,
            owner: JobId::generate(),
            held: HeldJobs::default(),
            lease: Mutex::new(lease),
            ended,
            changed: Notify::new(),
        });
        tracing::info!(
            target: "postlude_jobs",
            engine = worker.queue.engine(),
            worker = %worker.owner,
            names = ?worker.handlers.names().collect::<Vec<_>>(),
            concurrency = worker.config.concurrency,
            lease = ?lease,
            "a worker has started"
        );
        spawn(Self::work(worker, ends, guard));
        Ok(())
    }

    /// Works until a shutdown has begun and everything is settled. The shutdown waits for the guard.
    async fn work(self: Arc<Self>, ends: mpsc::UnboundedReceiver<Ended>, guard: ShutdownGuard) {
        let settled = async {
            reserve::run(&self, &guard).await;
            tokio::join!(self.withhold(), self.held.all_settled());
            self.leave().await;
        };
        let until_shutdown = async {
            tokio::select! {
                biased;
                () = guard.shutdown_started() => {}
                () = cron::run(&self), if !self.config.schedules.is_empty() => {}
                () = self.prune() => {}
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = settled => {}
            () = settle::run(&self, ends) => {}
            () = renew::run(&self) => {}
            () = progress::run(&self) => {}
            () = self.queue.watch() => {}
            () = until_shutdown => {}
        }
        tracing::info!(target: "postlude_jobs", worker = %self.owner, "the worker has settled its jobs and ends");
        drop(guard);
    }

    /// Gives back what was delivered ahead. If that fails, the end of the connection does it.
    async fn withhold(&self) {
        if let Err(error) = self.ask_within(WITHHOLD_LIMIT, self.queue.withhold(self.owner)).await {
            let error = &error as &dyn Error;
            tracing::debug!(target: "postlude_jobs", error, "jobs that were delivered ahead are not given back");
        }
    }

    /// Makes sure that the engine has carried out all that it was told.
    async fn leave(&self) {
        if let Err(error) = self.ask_within(WITHHOLD_LIMIT, self.queue.leave(self.owner)).await {
            let error = &error as &dyn Error;
            tracing::debug!(target: "postlude_jobs", error, "the worker has not left the queue in an orderly way");
        }
    }

    /// Removes old jobs, some at a time.
    async fn prune(&self) {
        let every = (self.config.retention / 10).clamp(Duration::from_secs(1), Duration::from_secs(60));
        let mut backoff = Backoff::default();
        loop {
            let wait = match self.ask(self.queue.prune(self.config.retention)).await {
                Ok(pruned) => {
                    self.engine_answered(&mut backoff, "remove old jobs");
                    if pruned > 0 { Duration::from_millis(20) } else { every.mul_f64(0.5 + fastrand::f64()) }
                }
                Err(error) => self.engine_failed(&mut backoff, "remove old jobs", &error),
            };
            sleep(wait).await;
        }
    }

    /// Waits for an operation of the queue, for a limited time: the engine may have stopped answering.
    async fn ask<T>(&self, operation: impl Future<Output = Result<T, QueueError>>) -> Result<T, QueueError> {
        self.ask_within(ENGINE_LIMIT, operation).await
    }

    async fn ask_within<T>(
        &self,
        limit: Duration,
        operation: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        let engine = self.queue.engine();
        timeout(limit, operation).await.unwrap_or(Err(QueueError::TimedOut { engine, limit }))
    }

    fn lease(&self) -> Duration {
        *self.lease.lock()
    }

    /// Notes that an operation failed, and says how long to wait before the next try.
    fn engine_failed(&self, backoff: &mut Backoff, operation: &str, error: &QueueError) -> Duration {
        count(&self.counters.engine_errors, 1);
        let (wait, warns) = backoff.failed();
        if warns {
            let (engine, error) = (self.queue.engine(), error as &dyn Error);
            tracing::warn!(
                target: "postlude_jobs", engine, error, try_again_in = ?wait, "the worker could not {operation}"
            );
        }
        wait
    }

    fn engine_answered(&self, backoff: &mut Backoff, operation: &str) {
        if backoff.succeeded() {
            let engine = self.queue.engine();
            tracing::info!(target: "postlude_jobs", engine, "the worker can {operation} again");
        }
    }
}

/// Starts what must outlive a shutdown of the registry: what did not finish has to be released then.
#[expect(
    clippy::disallowed_methods,
    reason = "the only place that spawns; a shutdown guard stands for it in the registry"
)]
fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future);
}
