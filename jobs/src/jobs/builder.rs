//! `JobsBuilder`.

use std::{fmt, sync::Arc, time::Duration};

use postlude::{Schedule, ScheduleError, TaskRegistry};

use super::{
    encoder::Encoder,
    handle::{Jobs, Shared},
    stats_cache::StatsCache,
};
use crate::{
    model::{
        codec::Codec,
        error::{PushError, QueueError, StartError},
        job::Job,
        new_job::NewJob,
        options::PushOptions,
        output::JobOutput,
    },
    queue::Queue,
    worker::{
        Worker, WorkerConfig,
        cron::CronJob,
        handler::{Handler, Handlers},
        metrics::Counters,
    },
};

/// The largest payload, unless another limit is set.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// The shortest lease: a shorter one would be lost in the pauses of an ordinary machine.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// Sets handlers and limits, and starts a worker. Made by [`Jobs::builder`].
///
/// # Default
/// - [`concurrency`](Self::concurrency) 16
/// - [`lease`](Self::lease): that which is stored in the queue; 30 s in a new queue
/// - [`max_payload_bytes`](Self::max_payload_bytes) 262,144 (256 KiB)
/// - [`push_timeout`](Self::push_timeout) 10 s
/// - [`retention`](Self::retention) 24 h
/// - [`codec`](Self::codec): none; payloads are stored as JSON
#[must_use = "a builder does nothing until `start` or `producer`"]
pub struct JobsBuilder {
    queue: Arc<dyn Queue>,
    registry: Option<TaskRegistry>,
    handlers: Handlers,
    schedules: Vec<(Result<Schedule, ScheduleError>, PrepareJob)>,
    concurrency: usize,
    lease: Option<Duration>,
    max_payload_bytes: usize,
    push_timeout: Duration,
    retention: Duration,
    codec: Option<Arc<dyn Codec>>,
}

/// Makes the job of a tick.
type PrepareJob = Arc<dyn Fn(&Encoder, &dyn Queue) -> Result<NewJob, PushError> + Send + Sync>;

impl JobsBuilder {
    pub(crate) fn new(queue: Arc<dyn Queue>, registry: Option<TaskRegistry>) -> Self {
        Self {
            queue,
            registry,
            handlers: Handlers::default(),
            schedules: Vec::new(),
            concurrency: 16,
            lease: None,
            max_payload_bytes: MAX_PAYLOAD_BYTES,
            push_timeout: Duration::from_secs(10),
            retention: Duration::from_secs(24 * 60 * 60),
            codec: None,
        }
    }

    /// Sets the handler of a kind of job. Jobs without a handler here are left for the workers that have one.
    ///
    /// The handler runs as a task of the registry, under the name of the job and with the place of this call in the
    /// source: the registry's limits, observers and lists hold for it. It must be idempotent, because a job may run more than once.
    ///
    /// ```
    /// use postlude::{Schedule, ScheduleError, TaskRegistry};
    /// use postlude_jobs::{Job, Jobs, sqlite::SqliteQueue};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Invoice {
    ///     order: u64,
    /// }
    ///
    /// impl Job for Invoice {
    ///     const NAME: &'static str = "invoice";
    /// }
    ///
    /// async fn send(invoice: Invoice) -> Result<(), std::io::Error> {
    ///     println!("order {}", invoice.order);
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("jobs.db");
    /// let queue = SqliteQueue::open(path).await?;
    /// let jobs = Jobs::builder(queue, TaskRegistry::new()).handle(send).start().await?;
    /// jobs.push(Invoice { order: 17 }).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn handle<J, F, Fut>(mut self, handler: F) -> Self
    where
        J: Job,
        F: Fn(J) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: JobOutput,
    {
        self.handlers.add(Handler::new::<J, F, Fut>(handler));
        self
    }

    /// How many jobs this worker may have reserved and not settled at a time. The registry's limits hold as well,
    /// and a worker reserves no more jobs of a name than may start.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs;
        self
    }

    /// For how long a worker that no longer renews its lease keeps a job. It is renewed at a third of that. The lease
    /// is stored in the queue and holds for all its workers: the latest start that sets it decides. At least 100 ms; see
    /// the chapter about jobs for what is sensible.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Pushes a job, made by `Default`, at each tick of a [`Schedule`]: one job for each tick over all processes with
    /// this schedule, whatever their clocks. Of the ticks that were missed while no worker ran, the latest is made up
    /// for. A new schedule begins with the next tick.
    ///
    /// A text is parsed as by [`Schedule::parse`]; a mistake in it is an error of [`start`](Self::start).
    ///
    /// ```
    /// use postlude_jobs::{Job, JobsBuilder};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Digest;
    ///
    /// impl Job for Digest {
    ///     const NAME: &'static str = "digest";
    /// }
    ///
    /// async fn send(_: Digest) {}
    ///
    /// fn schedules(jobs: JobsBuilder) -> JobsBuilder {
    ///     jobs.handle(send).cron::<Digest>("CRON_TZ=Europe/Berlin 0 7 * * MON")
    /// }
    /// ```
    ///
    /// The queue knows a schedule by the job's name and the schedule's text, so a schedule whose text is changed is a
    /// new one.
    pub fn cron<J: Job + Default>(mut self, schedule: impl TryInto<Schedule, Error: Into<ScheduleError>>) -> Self {
        let prepare =
            |encoder: &Encoder, queue: &dyn Queue| encoder.encode(queue, &J::default(), PushOptions::default());
        self.schedules.push((schedule.try_into().map_err(Into::into), Arc::new(prepare)));
        self
    }

    /// The largest payload, as it is stored. A push of a larger one is an error.
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.max_payload_bytes = bytes;
        self
    }

    /// How long a push waits for the engine.
    pub fn push_timeout(mut self, limit: Duration) -> Self {
        self.push_timeout = limit;
        self
    }

    /// For how long jobs that completed or were cancelled are kept, so that [`Jobs::find`] answers for them and an id
    /// that is pushed again is known. Workers remove older ones, in steps of 1,000. Dead jobs are kept until they are
    /// discarded.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// How payloads are written, for example encrypted. All producers and workers of a queue need the same codec.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codec = Some(Arc::new(codec));
        self
    }

    /// Connects, creates the tables if there are none, and works: a worker takes jobs and runs them as tasks of the
    /// registry, until the registry shuts down. Dropping [`Jobs`] does not stop it.
    ///
    /// Call it within the runtime of the registry. [`TaskRegistry::shutdown`] ends the worker: it reserves no more, the
    /// jobs that run go on until the deadline, and what did not finish is released, so that another worker takes it at
    /// once.
    ///
    /// # Errors
    /// If a setting makes no sense, or the queue can't be used.
    pub async fn start(self) -> Result<Jobs, StartError> {
        let Some(registry) = self.registry.clone() else { return self.producer().await };
        if registry.is_closed() {
            return Err(StartError::Closed);
        }
        if self.concurrency == 0 {
            return Err(StartError::NoConcurrency);
        }
        self.handlers.check()?;
        if let Some(longest) = self.queue.longest_run() {
            self.handlers.check_time_limits(self.queue.engine(), longest)?;
        }
        let encoder = self.encoder();
        let schedules = self.check_schedules(&encoder)?;
        self.open().await?;
        let counters = Arc::new(Counters::default());
        let config = WorkerConfig {
            concurrency: self.concurrency,
            retention: self.retention,
            codec: self.codec.clone(),
            schedules,
        };
        Worker::start(Arc::clone(&self.queue), registry, self.handlers, config, Arc::clone(&counters)).await?;
        Ok(Jobs::new(Shared {
            queue: self.queue,
            encoder,
            push_timeout: self.push_timeout,
            stats: StatsCache::default(),
            counters,
        }))
    }

    /// Pushes only: connects, and creates the tables if there are none. Handlers and schedules have no effect.
    ///
    /// # Errors
    /// If the queue can't be used.
    pub async fn producer(self) -> Result<Jobs, StartError> {
        self.open().await?;
        Ok(Jobs::new(Shared {
            encoder: self.encoder(),
            queue: self.queue,
            push_timeout: self.push_timeout,
            stats: StatsCache::default(),
            counters: Arc::default(),
        }))
    }

    async fn open(&self) -> Result<(), StartError> {
        if let Some(lease) = self.lease.filter(|lease| *lease < SHORTEST_LEASE) {
            return Err(StartError::ShortLease { lease, shortest: SHORTEST_LEASE });
        }
        Ok(self.queue.open(self.lease).await?)
    }

    fn encoder(&self) -> Encoder {
        Encoder { codec: self.codec.clone(), max_payload_bytes: self.max_payload_bytes }
    }

    /// Parses the expressions, and makes each job once, so that a mistake shows at the start and not at the first tick.
    fn check_schedules(&self, encoder: &Encoder) -> Result<Vec<CronJob>, StartError> {
        let mut schedules = Vec::with_capacity(self.schedules.len());
        for (schedule, prepare) in &self.schedules {
            if !self.queue.capabilities().cron {
                let (engine, what) = (self.queue.engine(), "keep a schedule");
                return Err(QueueError::Unsupported { engine, what }.into());
            }
            let schedule = schedule.clone()?;
            let job = prepare(encoder, &*self.queue).map_err(StartError::Push)?;
            let (encoder, queue, prepare) = (encoder.clone(), Arc::clone(&self.queue), Arc::clone(prepare));
            let prepare = Box::new(move || prepare(&encoder, &*queue));
            schedules.push(CronJob { name: job.name, schedule, prepare });
        }
        Ok(schedules)
    }
}

impl fmt::Debug for JobsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobsBuilder")
            .field("engine", &self.queue.engine())
            .field("handlers", &self.handlers.names().collect::<Vec<_>>())
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}
