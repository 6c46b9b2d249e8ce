//! apalis, on Redis and on RabbitMQ.

use std::{future::poll_fn, pin::Pin};

use apalis::prelude::*;
use apalis_amqp::{AmqpBackend, AmqpTask};
use apalis_redis::{Config, RedisStorage};
use futures::{FutureExt, Sink, future::BoxFuture};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    amqp::copy_message,
    apalis_peers::{LOOK_EVERY, backlog, probe, run, worker_name},
    system::{Backlog, CONCURRENCY, Kind, Probe, Pushed, Stop, System, Worker, now},
};

/// Makes all jobs wait that are scheduled.
const MAKE_WAITING: &str = "for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
        redis.call('RPUSH', KEYS[2], id)
    end
    redis.call('DEL', KEYS[1])";

/// How many jobs are loaded by one push into Redis: its connections wait for half a second.
const PART: u64 = 500;

pub(crate) struct ApalisRedis {
    url: String,
    queue: String,
    backlog: RedisStorage<Backlog>,
    probe: RedisStorage<Probe>,
}

impl ApalisRedis {
    pub(crate) async fn new(url: &str, queue: &str) -> Self {
        let backlog = redis_storage(url, queue, Kind::Backlog).await;
        let probe = redis_storage(url, queue, Kind::Probe).await;
        Self { url: url.to_owned(), queue: queue.to_owned(), backlog, probe }
    }
}

async fn redis_storage<T>(url: &str, queue: &str, kind: Kind) -> RedisStorage<T> {
    let connection = apalis_redis::connect(url).await.unwrap();
    RedisStorage::new(connection).with_config(redis_config(queue, kind))
}

fn redis_config(queue: &str, kind: Kind) -> Config {
    Config::default().queue(format!("{queue}-{}", kind.name())).batch_size(CONCURRENCY)
}

impl System for ApalisRedis {
    fn name(&self) -> &'static str {
        "apalis"
    }

    /// All jobs are stored as scheduled ones. Its worker makes those that are due wait, all at once, and ends with an error
    /// if these are more than Lua can handle, about 8,000. So that is done here, after each part.
    fn load(&mut self, jobs: u64) -> BoxFuture<'_, ()> {
        async move {
            let (config, script) = (redis_config(&self.queue, Kind::Backlog), redis::Script::new(MAKE_WAITING));
            let mut connection = apalis_redis::connect(self.url.as_str()).await.unwrap();
            for from in (0..jobs).step_by(PART as usize) {
                self.push_many(PART.min(jobs - from) as usize).await;
                let (scheduled, waiting) = (config.scheduled_jobs_set(), config.active_jobs_list());
                script.key(scheduled).key(waiting).invoke_async::<()>(&mut connection).await.unwrap();
            }
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
                return None;
            }
            // Its pushes tell nobody: each job is a scheduled one, and the server tells of those that are not.
            match kind {
                Kind::Backlog => {
                    let storage = redis_storage::<Backlog>(&self.url, &self.queue, kind).await;
                    run!(storage.poll_with_interval(LOOK_EVERY), backlog)
                }
                Kind::Probe => {
                    let storage = redis_storage::<Probe>(&self.url, &self.queue, kind).await;
                    run!(storage.poll_with_interval(LOOK_EVERY), probe)
                }
            }
        }
        .boxed()
    }
}

pub(crate) struct ApalisAmqp {
    url: String,
    queue: String,
    backlog: AmqpBackend<Backlog>,
    probe: AmqpBackend<Probe>,
}

impl ApalisAmqp {
    pub(crate) fn new(url: &str, queue: &str) -> Self {
        let (backlog, probe) = (amqp_backend(url, queue, Kind::Backlog), amqp_backend(url, queue, Kind::Probe));
        Self { url: url.to_owned(), queue: queue.to_owned(), backlog, probe }
    }
}

/// With quorum queues, as postlude-jobs. It does not ask the broker to confirm what is pushed, and has no setting for it.
fn amqp_backend<T: Send + 'static>(url: &str, queue: &str, kind: Kind) -> AmqpBackend<T> {
    let queue = format!("{queue}-{}", kind.name());
    let config = apalis_amqp::Config::default().queue(queue).prefetch_count(CONCURRENCY as u16).quorum(true);
    AmqpBackend::new_from_addr(url).unwrap().with_config(config)
}

/// Opens the channel, as a push does: the worker of a backend without one panics.
async fn with_channel<T: Send + 'static>(mut backend: AmqpBackend<T>) -> AmqpBackend<T> {
    poll_fn(|context| Sink::<AmqpTask>::poll_ready(Pin::new(&mut backend), context)).await.unwrap();
    backend
}

impl System for ApalisAmqp {
    fn name(&self) -> &'static str {
        "apalis"
    }

    fn load(&mut self, jobs: u64) -> BoxFuture<'_, ()> {
        async move {
            self.push(Kind::Backlog).await;
            copy_message(&self.url, self.backlog.config().queue.as_ref(), jobs).await;
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
                // It is told by the broker in any case.
                return None;
            }
            match kind {
                Kind::Backlog => {
                    run!(with_channel(amqp_backend::<Backlog>(&self.url, &self.queue, kind)).await, backlog)
                }
                Kind::Probe => run!(with_channel(amqp_backend::<Probe>(&self.url, &self.queue, kind)).await, probe),
            }
        }
        .boxed()
    }
}
