//! `Jobs`: pushing jobs, and what operators ask and do.

use std::{fmt, sync::Arc, time::Duration};

use postlude::TaskRegistry;
use tokio::time::timeout;

use super::{builder::JobsBuilder, encoder::Encoder, stats_cache::StatsCache};
use crate::{
    model::{
        dead::DeadJob,
        error::{PushError, PushErrorKind, QueueError, StartError},
        id::JobId,
        info::JobInfo,
        job::Job,
        new_job::NewJob,
        options::PushOptions,
        page::Page,
        stats::JobStats,
    },
    queue::{Queue, capabilities::Capabilities},
    worker::metrics::{Counters, WorkerMetrics},
};

/// Pushes jobs, and tells what became of them. Cheap to clone: handlers keep one in their state.
///
/// [`Jobs::builder`] starts a worker, too; [`Jobs::producer`] pushes only.
#[derive(Clone)]
pub struct Jobs {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) encoder: Encoder,
    pub(crate) push_timeout: Duration,
    pub(crate) stats: StatsCache,
    pub(crate) counters: Arc<Counters>,
}

impl Jobs {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }

    /// Begins with a queue, and the registry whose tasks run the jobs.
    pub fn builder(queue: impl Queue, registry: TaskRegistry) -> JobsBuilder {
        JobsBuilder::new(Arc::new(queue), Some(registry))
    }

    /// Pushes only: connects, and creates the tables if there are none. It needs no registry.
    ///
    /// # Errors
    /// If the queue can't be reached, or its tables are not those that this version needs.
    pub async fn producer(queue: impl Queue) -> Result<Self, StartError> {
        JobsBuilder::new(Arc::new(queue), None).producer().await
    }

    /// Stores a job. When this has returned `Ok`, the job survives what the engine survives.
    ///
    /// # Errors
    /// If the job does not serialise or is too large, or if the queue can't be reached or refuses it.
    /// [`PushError::may_be_stored`] says whether the job may have been stored all the same.
    ///
    /// # Cancel safety
    /// If this is dropped, the job may or may not have been stored.
    pub async fn push<J: Job>(&self, job: J) -> Result<JobId, PushError> {
        self.push_with(job, PushOptions::default()).await
    }

    /// Stores a job with options: an id, a time, a key, a priority, headers. Returns the id of the job: that of the job
    /// that holds the [key](PushOptions::unique), if one does.
    ///
    /// # Errors
    /// As for [`push`](Self::push), and if the engine can't do what the options ask for.
    ///
    /// # Cancel safety
    /// If this is dropped, the job may or may not have been stored.
    pub async fn push_with<J: Job>(&self, job: J, options: PushOptions) -> Result<JobId, PushError> {
        let job = self.prepare_with(job, options)?;
        let id = job.id;
        Ok(self.store::<J>(id, vec![job]).await?.into_iter().next().unwrap_or(id))
    }

    /// Stores jobs, all or none, in one transaction.
    ///
    /// # Errors
    /// As for [`push`](Self::push). [`PushError::id`] is the id of the first job.
    ///
    /// # Cancel safety
    /// If this is dropped, the jobs may or may not have been stored, but no part of them.
    pub async fn push_all<J: Job>(&self, jobs: Vec<J>) -> Result<Vec<JobId>, PushError> {
        let jobs = jobs.into_iter().map(|job| self.prepare(job)).collect::<Result<Vec<_>, _>>()?;
        match jobs.first() {
            Some(first) => self.store::<J>(first.id, jobs).await,
            None => Ok(Vec::new()),
        }
    }

    /// Makes a job that is ready to be stored, for the `push_in` of a queue: in a transaction of your own.
    ///
    /// # Errors
    /// If the job does not serialise or is too large.
    #[expect(clippy::needless_pass_by_value, reason = "as `push`: the job goes into the queue")]
    pub fn prepare<J: Job>(&self, job: J) -> Result<NewJob, PushError> {
        self.shared.encoder.encode(&*self.shared.queue, &job, PushOptions::default())
    }

    /// Makes a job that is ready to be stored, with options.
    ///
    /// # Errors
    /// If the job does not serialise or is too large, or if the engine can't do what the options ask for.
    #[expect(clippy::needless_pass_by_value, reason = "as `push_with`: the job goes into the queue")]
    pub fn prepare_with<J: Job>(&self, job: J, options: PushOptions) -> Result<NewJob, PushError> {
        self.shared.encoder.encode(&*self.shared.queue, &job, options)
    }

    async fn store<J: Job>(&self, first: JobId, jobs: Vec<NewJob>) -> Result<Vec<JobId>, PushError> {
        let (queue, limit) = (&self.shared.queue, self.shared.push_timeout);
        let stored = match timeout(limit, queue.push(jobs)).await {
            Ok(stored) => stored,
            Err(_) => Err(QueueError::TimedOut { engine: queue.engine(), limit }),
        };
        stored.map_err(|error| PushError::new(first, J::NAME, PushErrorKind::Queue(error)))
    }

    /// How many jobs the queue has, by name. The figures are cached for twenty times as long as it takes to count them,
    /// and for
    /// 30 s at most.
    ///
    /// # Errors
    /// If the queue can't be reached.
    pub async fn stats(&self) -> Result<JobStats, QueueError> {
        self.shared.stats.get(&*self.shared.queue).await
    }

    /// What the worker of this handle has done since it started; zeros without a worker.
    #[must_use]
    pub fn metrics(&self) -> WorkerMetrics {
        self.shared.counters.snapshot()
    }

    /// What is known of a job; `None` if it was never pushed, was discarded, or completed longer ago than the
    /// [retention](JobsBuilder::retention).
    ///
    /// # Errors
    /// If the queue can't be reached, or can't find jobs.
    pub async fn find(&self, id: JobId) -> Result<Option<JobInfo>, QueueError> {
        self.require(|can| can.find, "find a job by its id")?;
        self.shared.queue.find(id).await
    }

    /// Cancels a job that no worker has reserved yet: one that waits, or is scheduled. `false` if there is none with
    /// this id.
    ///
    /// # Errors
    /// If the queue can't be reached, or can't cancel jobs.
    pub async fn cancel(&self, id: JobId) -> Result<bool, QueueError> {
        self.require(|can| can.cancel, "cancel a job")?;
        self.shared.queue.cancel(id).await
    }

    /// The dead jobs, the latest first.
    ///
    /// # Errors
    /// If the queue can't be reached, or can't list dead jobs.
    pub async fn dead(&self, page: Page) -> Result<Vec<DeadJob>, QueueError> {
        self.require(|can| can.dead_by_id, "list dead jobs")?;
        self.shared.queue.dead(page).await
    }

    /// Makes a dead job wait again, under the same id and with its errors, with all its attempts before it. `false` if
    /// no dead job has this id. If another job holds its key by now, the replayed job does without.
    ///
    /// # Errors
    /// If the queue can't be reached, or can't replay jobs.
    pub async fn replay(&self, id: JobId) -> Result<bool, QueueError> {
        self.require(|can| can.dead_by_id, "replay a dead job")?;
        self.shared.queue.replay(id).await
    }

    /// Removes a dead job. `false` if no dead job has this id.
    ///
    /// # Errors
    /// If the queue can't be reached, or can't discard jobs.
    pub async fn discard(&self, id: JobId) -> Result<bool, QueueError> {
        self.require(|can| can.dead_by_id, "discard a dead job")?;
        self.shared.queue.discard(id).await
    }

    /// Makes all workers of the queue, in every process, reserve no more jobs of this name. Those that run go on.
    /// `false` if the name was paused before.
    ///
    /// # Errors
    /// If the queue can't be reached, or can't pause.
    pub async fn pause(&self, name: &str) -> Result<bool, QueueError> {
        self.require(|can| can.pause, "pause a name")?;
        self.shared.queue.set_paused(name.to_owned(), true).await
    }

    /// Ends a [pause](Self::pause). `false` if the name was not paused.
    ///
    /// # Errors
    /// If the queue can't be reached, or can't pause.
    pub async fn resume(&self, name: &str) -> Result<bool, QueueError> {
        self.require(|can| can.pause, "pause a name")?;
        self.shared.queue.set_paused(name.to_owned(), false).await
    }

    /// Makes the workers of this process look for jobs now. Call it after the commit of a transaction in which a job
    /// was pushed, to be faster than their polling.
    pub fn wake(&self) {
        self.shared.queue.wake();
    }

    /// The name of the engine.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.shared.queue.engine()
    }

    fn require(&self, able: impl Fn(&Capabilities) -> bool, what: &'static str) -> Result<(), QueueError> {
        let queue = &self.shared.queue;
        if able(&queue.capabilities()) {
            return Ok(());
        }
        Err(QueueError::Unsupported { engine: queue.engine(), what })
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("engine", &self.shared.queue.engine()).finish_non_exhaustive()
    }
}
