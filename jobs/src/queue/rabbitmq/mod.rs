//! Jobs in quorum queues of `RabbitMQ`.

mod connect;
mod consumer;
mod delayed;
mod delays;
mod message;
mod operate;
mod publisher;
mod push;
mod reserve;
mod settle;
mod shares;
mod together;
mod topology;

use std::{fmt, sync::Arc, time::Duration};

use self::{connect::Shared, topology::Topology};
use super::{capabilities::Capabilities, forward};
pub(crate) use crate::amqp::ENGINE;
use crate::{
    amqp::address::Address,
    model::{error::QueueError, id::JobId, new_job::NewJob},
};

/// What the broker keeps besides the messages is little.
const CAPABILITIES: Capabilities = Capabilities { delay: true, arbitrary_time: true, ..Capabilities::NONE };

/// The `consumer_timeout` that servers have unless they are set otherwise.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Jobs in quorum queues of a `RabbitMQ` server (version 3.10 or later) or cluster, for any number of machines. Cheap to
/// clone; all clones share their connections.
///
/// ```no_run
/// use postlude_jobs::rabbitmq::RabbitQueue;
///
/// # async fn example() -> Result<(), postlude_jobs::QueueError> {
/// let queue = RabbitQueue::connect("amqp://user:password@broker:5672/vhost").await?;
/// # drop(queue);
/// # Ok(())
/// # }
/// ```
///
/// # How it works
/// Each name has a quorum queue for jobs that wait and one for dead jobs, and each of 14 ranges of delays has one for all
/// names. They are declared when they are needed first. Workers take the jobs that are delayed from their queues, keep them
/// until they are due, and send them on: while no worker runs, none becomes due. A push returns when the broker has confirmed it: then most nodes of the
/// cluster have written it to their disks. A worker has as many jobs delivered as may start, and answers each when it has
/// ended.
///
/// **The lease is the connection.** If it ends, the broker delivers the jobs of the worker anew, and counts that as a
/// crash. The broker also closes the channel of a job that runs for longer than its
/// [`consumer_timeout`](Self::consumer_timeout).
///
/// **A job can be stored twice.** The broker knows no ids: a push that is repeated is stored again. A retry stores the job
/// anew and then forgets the old one, and the process may die between the two. An answer to the broker that is lost makes
/// a job run again.
///
/// [`capabilities`](crate::Queue::capabilities) and the chapter about jobs say what the broker can't do.
#[derive(Clone)]
pub struct RabbitQueue {
    shared: Arc<Shared>,
}

impl RabbitQueue {
    /// Connects to the queue `jobs` of a server.
    ///
    /// The URL is `amqp://user:password@host:port/vhost`; without a path, the default virtual host `/` is meant. With
    /// `amqps://` the connection is encrypted, and the server's certificate is checked with the root certificates of the
    /// system, or those in the file that the environment variable `SSL_CERT_FILE` names; if the process has no default
    /// provider of [rustls](https://docs.rs/rustls), ring is made the default. `?heartbeat=15` is how many seconds the two
    /// sides may be silent: twice that, and the broker takes the jobs of a worker back.
    ///
    /// # Errors
    /// If the URL is none, or no connection can be made.
    pub async fn connect(url: &str) -> Result<Self, QueueError> {
        Self::connect_to(&[url], "jobs").await
    }

    /// Connects to a queue by its name, at one of the nodes of a cluster: the first that answers, and another one if that
    /// is lost. Queues of different names share nothing. A name has letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// If a URL is none, the name is not allowed, or no connection can be made.
    pub async fn connect_to(urls: &[&str], queue: &str) -> Result<Self, QueueError> {
        let addresses = urls.iter().map(|url| Address::parse(url)).collect::<Result<_, _>>()?;
        let queue = Self { shared: Arc::new(Shared::new(addresses, Topology::new(queue)?)) };
        queue.shared.prepare(None).await?;
        Ok(queue)
    }

    /// Says what the `consumer_timeout` of the servers is: the broker does not tell. Unless this is called, it is taken to
    /// be 30 minutes, as servers have it.
    ///
    /// The broker takes a job back that runs for longer, together with all jobs of its name in the same worker. So a start
    /// refuses a job with a longer [time limit](crate::JobPolicy::timeout), and a run without a time limit is cancelled a
    /// little earlier.
    #[must_use]
    pub fn consumer_timeout(self, timeout: Duration) -> Self {
        self.shared.set_consumer_timeout(timeout);
        self
    }

    /// Makes up to `most` dead jobs of a name wait again, the oldest first, with all their attempts before them. Returns how
    /// many.
    ///
    /// # Errors
    /// If the server can't be reached, or refuses it. Some may wait again by then.
    pub async fn replay_dead(&self, name: &str, most: u64) -> Result<u64, QueueError> {
        self.shared.replay_dead(name, most).await
    }

    /// Removes all dead jobs of a name. Returns how many.
    ///
    /// # Errors
    /// If the server can't be reached, or refuses it.
    pub async fn discard_dead(&self, name: &str) -> Result<u64, QueueError> {
        self.shared.discard_dead(name).await
    }
}

impl fmt::Debug for RabbitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitQueue").field("prefix", &self.shared.topology.prefix()).finish_non_exhaustive()
    }
}

forward::to_shared!(RabbitQueue, CAPABILITIES, {
    fn longest_run(&self) -> Option<Duration> {
        Some(self.shared.longest_run())
    }

    fn delivers_ahead(&self) -> bool {
        true
    }

    fn withhold(&self, owner: JobId) -> crate::queue::Answer<'_, ()> {
        Box::pin(self.shared.withhold(owner))
    }

    fn leave(&self, owner: JobId) -> crate::queue::Answer<'_, ()> {
        Box::pin(self.shared.leave(owner))
    }
});
