//! How a producer is set up.

use std::{fmt, process, sync::Arc, time::Duration};

use super::{
    address::{Address, redis_client},
    amqp::Amqp,
    error::ConnectError,
    producer::{Broker, CeleryProducer, Shared},
    redis::{Priorities, Redis},
};
use crate::queue::redis::connection::{Connection, Source};

/// Settings of a [`CeleryProducer`]. They must be those of the workers.
///
/// # Default
/// - [`queue`](Self::queue) `celery`
/// - [`result_backend`](Self::result_backend) none
/// - [`max_delay`](Self::max_delay) 1 h with Redis, 30 min with RabbitMQ
/// - [`push_timeout`](Self::push_timeout) 10 s
/// - [`max_payload_bytes`](Self::max_payload_bytes) 256 KiB
/// - [`key_prefix`](Self::key_prefix) and [`result_key_prefix`](Self::result_key_prefix) none
/// - [`priority_steps`](Self::priority_steps) 0, 3, 6, 9
/// - [`origin`](Self::origin) `postlude` and the number of the process
#[must_use = "a builder does nothing until `connect` is called"]
pub struct CeleryProducerBuilder {
    url: String,
    results: Option<String>,
    queue: String,
    origin: String,
    max_delay: Option<Duration>,
    push_timeout: Duration,
    max_payload_bytes: usize,
    key_prefix: String,
    result_key_prefix: String,
    priorities: Priorities,
}

impl CeleryProducerBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            results: None,
            queue: "celery".to_owned(),
            origin: format!("postlude{}", process::id()),
            max_delay: None,
            push_timeout: Duration::from_secs(10),
            max_payload_bytes: 256 * 1024,
            key_prefix: String::new(),
            result_key_prefix: String::new(),
            priorities: Priorities::default(),
        }
    }

    /// The queue of tasks that name none: Celery's `task_default_queue`.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = queue.into();
        self
    }

    /// Where the workers store results: their `result_backend`, which must be Redis.
    pub fn result_backend(mut self, url: impl Into<String>) -> Self {
        self.results = Some(url.into());
        self
    }

    /// The longest [`countdown`](super::CeleryTask::countdown) and [`eta`](super::CeleryTask::eta). A longer one is an
    /// error.
    ///
    /// A worker takes a task that is not due and holds it, unacknowledged. After a while the broker takes it for lost
    /// and gives it to another worker, so that it runs twice. With Redis that is after the `visibility_timeout` in
    /// `broker_transport_options`, 1 h. With RabbitMQ it is after the `consumer_timeout` of the server, 30 min. If you
    /// have raised it there, raise it here.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = Some(delay);
        self
    }

    /// How long a send may take. An error after that time says that the task may be stored all the same.
    pub fn push_timeout(mut self, limit: Duration) -> Self {
        self.push_timeout = limit;
        self
    }

    /// The largest payload: the arguments of a task, and of all tasks of a chain.
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.max_payload_bytes = bytes;
        self
    }

    /// The `global_keyprefix` in the workers' `broker_transport_options` (Redis).
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// The `global_keyprefix` in the workers' `result_backend_transport_options`.
    pub fn result_key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.result_key_prefix = prefix.into();
        self
    }

    /// The `priority_steps` in the workers' `broker_transport_options` (Redis): the priorities that have a list of
    /// their own. A priority between two of them is the lower number.
    pub fn priority_steps(mut self, steps: impl IntoIterator<Item = u8>) -> Self {
        self.priorities.steps = steps.into_iter().collect();
        self
    }

    /// The `sep` in the workers' `broker_transport_options` (Redis): what stands between the name of a queue and a
    /// priority.
    pub fn priority_separator(mut self, separator: impl Into<String>) -> Self {
        self.priorities.separator = separator.into();
        self
    }

    /// Who sends: shown by the workers' events and monitors.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Connects to the broker.
    ///
    /// # Errors
    /// If a setting can't be used, or the broker can't be reached.
    pub async fn connect(self) -> Result<CeleryProducer, ConnectError> {
        let producer = self.build()?;
        producer.check().await?;
        Ok(producer)
    }

    /// A producer that connects when the first task is sent, so that your service starts without its broker.
    ///
    /// # Errors
    /// If a setting can't be used.
    pub fn build(self) -> Result<CeleryProducer, ConnectError> {
        if self.queue.is_empty() {
            return Err(ConnectError::Setting("the name of the queue is empty: leave `queue` out for `celery`"));
        }
        let steps = &self.priorities.steps;
        if steps.first() != Some(&0) || !steps.is_sorted() {
            return Err(ConnectError::Setting(
                "`priority_steps` must rise from 0: give the `priority_steps` of the workers",
            ));
        }
        let (broker, max_delay) = match Address::broker(&self.url)? {
            Address::Redis(client) => {
                let redis = Redis::new(*client, self.key_prefix, self.priorities, self.push_timeout);
                (Broker::Redis(redis), Duration::from_secs(60 * 60))
            }
            Address::Amqp(nodes) => (Broker::Amqp(Amqp::new(nodes, self.push_timeout)), Duration::from_secs(30 * 60)),
        };
        let client = self.results.map(|url| redis_client("result backend", &url)).transpose()?;
        let results = client.map(|client| Connection::new(Arc::new(Source::new(client))));
        Ok(CeleryProducer::new(Shared {
            broker,
            results,
            result_prefix: result_prefix(self.result_key_prefix),
            queue: self.queue,
            origin: self.origin,
            max_delay: self.max_delay.unwrap_or(max_delay),
            max_payload_bytes: self.max_payload_bytes,
        }))
    }
}

/// What the keys of results begin with. Celery adds an underscore to a prefix that ends with no separator.
fn result_prefix(mut global: String) -> String {
    if global.chars().last().is_some_and(|last| !":_-.".contains(last)) {
        global.push('_');
    }
    global + "celery-task-meta-"
}

/// Shows no address, because it may have a password.
impl fmt::Debug for CeleryProducerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CeleryProducerBuilder")
            .field("queue", &self.queue)
            .field("origin", &self.origin)
            .field("max_delay", &self.max_delay)
            .field("push_timeout", &self.push_timeout)
            .field("max_payload_bytes", &self.max_payload_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_prefix_is_the_one_that_celery_makes() {
        let prefix = |global: &str| result_prefix(global.to_owned());
        assert_eq!(prefix(""), "celery-task-meta-");
        assert_eq!(prefix("shop"), "shop_celery-task-meta-");
        assert_eq!(prefix("shop:"), "shop:celery-task-meta-");
    }

    #[test]
    fn mistakes_show_before_a_connection_is_made() {
        let builder = || CeleryProducer::builder("redis://user:secret@127.0.0.1/0");
        for (builder, text) in [
            (builder().queue(""), "the queue is empty"),
            (builder().priority_steps([]), "must rise from 0"),
            (builder().priority_steps([0, 9, 3]), "must rise from 0"),
            (builder().priority_steps([3, 6]), "must rise from 0"),
            (builder().result_backend("db+sqlite:///results.db"), "result backend"),
            (CeleryProducer::builder("host"), "broker"),
        ] {
            let shown = format!("{builder:?}");
            let error = builder.build().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
