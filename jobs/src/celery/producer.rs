//! The producer.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::de::DeserializeOwned;

use super::{
    amqp::Amqp,
    builder::CeleryProducerBuilder,
    error::{ConnectError, ReadError, SendError, SendErrorKind},
    message::{Context, Message, delay},
    redis::Redis,
    result::{CeleryResult, CeleryState, Meta},
    task::CeleryTask,
};
use crate::{
    model::{error::QueueError, id::JobId, job::Job},
    queue::redis::connection::Connection,
};

/// Sends tasks to Celery workers, by Redis or RabbitMQ. Cheap to clone; all clones share their connections.
///
/// ```no_run
/// use postlude_jobs::{
///     Job,
///     celery::{CeleryProducer, CeleryResult, CeleryTask},
/// };
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Invoice {
///     order: u64,
/// }
///
/// impl Job for Invoice {
///     const NAME: &'static str = "shop.tasks.send_invoice"; // def send_invoice(order): …
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let celery = CeleryProducer::builder("amqp://shop:password@rabbit:5672//")
///     .result_backend("redis://cache:6379/1")
///     .connect()
///     .await?;
/// celery.push(Invoice { order: 17 }).await?;
///
/// let id = celery.send(CeleryTask::new("shop.tasks.total").args((17, 4))).await?;
/// if let CeleryResult::Success(total) = celery.result::<u64>(id).await? {
///     println!("{total}");
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Guarantees
/// A task is stored in the broker when `send` returns: with RabbitMQ, when the server has confirmed it, as a persistent
/// message; with Redis, when the server has answered, and what it keeps is a setting of the server. An error says
/// whether the task [may be stored](SendError::may_be_stored) all the same. Nothing is sent twice.
///
/// Redis has no queues but lists, and makes one for each name. So a task in a queue that no worker reads waits there,
/// and nobody notices. RabbitMQ answers that there is [no such queue](SendErrorKind::NoQueue).
#[derive(Clone)]
pub struct CeleryProducer {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) broker: Broker,
    pub(super) results: Option<Connection>,
    pub(super) result_prefix: String,
    pub(super) queue: String,
    pub(super) origin: String,
    pub(super) max_delay: Duration,
    pub(super) max_payload_bytes: usize,
}

pub(super) enum Broker {
    Redis(Redis),
    Amqp(Amqp),
}

impl CeleryProducer {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }

    /// Connects to a broker, with the default settings. The URL is the `broker_url` of the workers:
    /// `redis://user:password@host:6379/0`, `amqp://user:password@host:5672/vhost`, or `rediss://` and `amqps://` for
    /// TLS. Several nodes of a RabbitMQ cluster are separated by semicolons.
    ///
    /// # Errors
    /// If the URL can't be used, or the broker can't be reached.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::builder(url).connect().await
    }

    /// Sets up a producer with other settings.
    pub fn builder(url: &str) -> CeleryProducerBuilder {
        CeleryProducerBuilder::new(url)
    }

    /// Sends a job as a task: [`Job::NAME`] is the name of the task, and the fields are its keyword arguments. So a
    /// service whose jobs Celery runs today pushes them to [`Jobs`](crate::Jobs) tomorrow.
    ///
    /// # Errors
    /// See [`SendErrorKind`].
    pub async fn push<J: Job>(&self, job: J) -> Result<JobId, SendError> {
        self.send(CeleryTask::from_job(&job)).await
    }

    /// Sends a task, and returns its id.
    ///
    /// # Errors
    /// See [`SendErrorKind`]. [`SendError::may_be_stored`] says whether the task may run nevertheless.
    ///
    /// # Cancel safety
    /// If the future is dropped, the task may be stored or not.
    pub async fn send(&self, task: CeleryTask) -> Result<JobId, SendError> {
        let id = task.options.id.unwrap_or_else(JobId::generate);
        self.send_steps(&[id], task, Vec::new()).await?;
        Ok(id)
    }

    /// Sends a chain: each task starts when the one before it has succeeded, and gets its result as the first argument,
    /// unless it is [`immutable`](CeleryTask::immutable). Returns the ids of all tasks. The result of the chain is that
    /// of the last one. If a task fails, those after it never start, and Celery stores its failure for them, too.
    ///
    /// The worker that ran a step sends the next one. If a later step has no [`queue`](CeleryTask::queue), the
    /// `task_routes` of that worker decide.
    ///
    /// # Errors
    /// As [`send`](Self::send). A later step can't have a priority, because Celery ignores it.
    pub async fn send_chain(&self, tasks: impl IntoIterator<Item = CeleryTask>) -> Result<Vec<JobId>, SendError> {
        let mut tasks = tasks.into_iter();
        let Some(first) = tasks.next() else {
            return Err(SendError::new(JobId::generate(), String::new(), SendErrorKind::EmptyChain));
        };
        let rest: Vec<_> = tasks.collect();
        let ids: Vec<_> =
            [&first].into_iter().chain(&rest).map(|task| task.options.id.unwrap_or_else(JobId::generate)).collect();
        self.send_steps(&ids, first, rest).await?;
        Ok(ids)
    }

    /// The state of a task, as its workers have stored it.
    ///
    /// # Errors
    /// If there is no [result backend](CeleryProducerBuilder::result_backend), or it can't be read.
    pub async fn state(&self, id: JobId) -> Result<CeleryState, ReadError> {
        Ok(self.meta(id).await?.map_or(CeleryState::Pending, |meta| meta.state()))
    }

    /// The result of a task, as its workers have stored it.
    ///
    /// # Errors
    /// As [`state`](Self::state), and if the result is not a `T`.
    pub async fn result<T: DeserializeOwned>(&self, id: JobId) -> Result<CeleryResult<T>, ReadError> {
        match self.meta(id).await? {
            None => Ok(CeleryResult::Pending),
            Some(meta) => meta.result().map_err(|source| ReadError::Type { id, source: source.into() }),
        }
    }

    pub(super) async fn check(&self) -> Result<(), QueueError> {
        match &self.shared.broker {
            Broker::Redis(redis) => redis.check().await,
            Broker::Amqp(amqp) => amqp.check().await,
        }
    }

    async fn meta(&self, id: JobId) -> Result<Option<Meta>, ReadError> {
        let results = self.shared.results.as_ref().ok_or(ReadError::NoResultBackend)?;
        let key = format!("{}{id}", self.shared.result_prefix);
        let stored: Option<Vec<u8>> = results.ask(redis::cmd("GET").arg(key)).await.map_err(ReadError::Backend)?;
        let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
        stored.map(read).transpose().map_err(|source| ReadError::NotJson { id, source: source.into() })
    }

    async fn send_steps(&self, ids: &[JobId], task: CeleryTask, rest: Vec<CeleryTask>) -> Result<(), SendError> {
        let name = task.name.clone();
        let id = ids.first().copied().unwrap_or_else(JobId::generate);
        self.try_send(ids, task, rest).await.map_err(|kind| SendError::new(id, name, kind))
    }

    async fn try_send(&self, ids: &[JobId], task: CeleryTask, rest: Vec<CeleryTask>) -> Result<(), SendErrorKind> {
        let shared = &*self.shared;
        let now = SystemTime::now();
        for task in [&task].into_iter().chain(&rest) {
            task.check()?;
            shared.check_delay(delay(now, task.options.due))?;
        }
        if rest.iter().any(|step| step.options.priority.is_some()) {
            let what = "only the first task of a chain can have a priority: Celery ignores that of a later one";
            return Err(SendErrorKind::Option(what.to_owned()));
        }
        let context = Context { queue: &shared.queue, origin: &shared.origin, now, ids };
        let message = Message::new(context, task, rest)?;
        if message.queue.len() > usize::from(u8::MAX) {
            return Err(SendErrorKind::Option("the name of the queue is longer than 255 bytes".to_owned()));
        }
        let (bytes, limit) = (message.body.len(), shared.max_payload_bytes);
        if bytes > limit {
            return Err(SendErrorKind::TooLarge { bytes, limit });
        }
        match &shared.broker {
            Broker::Redis(redis) => redis.send(&message).await,
            Broker::Amqp(amqp) => amqp.send(&message).await,
        }
    }
}

impl Shared {
    fn check_delay(&self, delay: Duration) -> Result<(), SendErrorKind> {
        let limit = self.max_delay;
        if delay <= limit {
            return Ok(());
        }
        let reason = match self.broker {
            Broker::Redis(_) => format!(
                "Redis gives it to another worker after the visibility timeout of {limit:?}, so that it would run twice: \
                 raise `visibility_timeout` in `broker_transport_options` of all workers and then \
                 `CeleryProducerBuilder::max_delay`, or send it when it is due, from a job with a delay"
            ),
            Broker::Amqp(_) => format!(
                "RabbitMQ closes the channel of a worker that holds a task for longer than `consumer_timeout`, {limit:?}, \
                 and gives all that it holds to others, so that tasks would run twice: raise `consumer_timeout` of the \
                 server and then `CeleryProducerBuilder::max_delay`, or send it when it is due, from a job with a delay"
            ),
        };
        Err(SendErrorKind::TooLate { delay, limit, reason })
    }
}

/// Shows no address, because it may have a password.
impl fmt::Debug for CeleryProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broker = match self.shared.broker {
            Broker::Redis(_) => super::redis::ENGINE,
            Broker::Amqp(_) => super::amqp::ENGINE,
        };
        f.debug_struct("CeleryProducer")
            .field("broker", &broker)
            .field("queue", &self.shared.queue)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(url: &str, task: CeleryTask) -> String {
        let producer = CeleryProducer::builder(url).build().unwrap();
        producer.send(task).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_delay_that_a_worker_can_not_hold_is_an_error_before_anything_is_sent() {
        let task = || CeleryTask::new("t");
        let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
        let redis = "redis://127.0.0.1:1/0";
        let error = sent(redis, task().countdown(hour + second)).await;
        assert!(error.contains("it is due in 3601s") && error.contains("visibility_timeout"), "{error}");
        assert!(sent(redis, task().eta(SystemTime::now() + 2 * hour)).await.contains("visibility_timeout"));
        assert!(sent(redis, task().countdown(hour)).await.contains("can't be reached"));

        let rabbit = "amqp://127.0.0.1:1//";
        assert!(sent(rabbit, task().countdown(hour)).await.contains("consumer_timeout"));
        assert!(sent(rabbit, task().countdown(hour / 2)).await.contains("can't be reached"));

        let producer = CeleryProducer::builder(redis).max_delay(2 * hour).build().unwrap();
        let error = producer.send(task().countdown(2 * hour)).await.unwrap_err();
        assert!(!matches!(error.kind(), SendErrorKind::TooLate { .. }), "{error}");
        let chain = producer.send_chain([task(), task().countdown(3 * hour)]).await.unwrap_err();
        assert!(matches!(chain.kind(), SendErrorKind::TooLate { .. }), "{chain}");
    }

    #[tokio::test]
    async fn a_chain_can_not_be_empty_nor_have_priorities_that_celery_ignores() {
        let producer = CeleryProducer::builder("redis://127.0.0.1:1/0").build().unwrap();
        let empty = producer.send_chain([]).await.unwrap_err();
        assert!(matches!(empty.kind(), SendErrorKind::EmptyChain), "{empty}");
        let steps = [CeleryTask::new("one").priority(1), CeleryTask::new("two").priority(1)];
        let error = producer.send_chain(steps).await.unwrap_err().to_string();
        assert!(error.contains("only the first task of a chain"), "{error}");
    }

    #[tokio::test]
    async fn a_payload_that_is_too_large_is_an_error() {
        let producer = CeleryProducer::builder("redis://127.0.0.1:1/0").max_payload_bytes(200).build().unwrap();
        let error = producer.send(CeleryTask::new("t").arg("x".repeat(200))).await.unwrap_err();
        assert!(matches!(error.kind(), SendErrorKind::TooLarge { limit: 200, .. }), "{error}");
        assert!(!error.may_be_stored());
    }

    #[tokio::test]
    async fn a_result_needs_a_result_backend() {
        let producer = CeleryProducer::builder("redis://127.0.0.1:1/0").build().unwrap();
        let error = producer.state(JobId::generate()).await.unwrap_err().to_string();
        assert!(error.contains("result_backend"), "{error}");
    }

    #[test]
    fn debug_shows_no_password() {
        for url in ["redis://:secret@127.0.0.1:1/0", "amqp://user:secret@127.0.0.1:1//"] {
            let producer =
                CeleryProducer::builder(url).result_backend("redis://:secret@127.0.0.1:1/1").build().unwrap();
            let text = format!("{producer:?}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
