//! Jobs in a Redis server.

mod answer;
mod connect;
pub(crate) mod connection;
mod durability;
mod error;
mod notify;
mod operate;
mod push;
mod reserve;
mod scripts;
mod settle;
mod tend;

use std::{fmt, sync::Arc};

use redis::{Client, sentinel::SentinelClient};

pub use self::durability::Durability;
use self::{connect::Shared, connection::Source, error::not_sent};
use super::{capabilities::Capabilities, forward};
use crate::model::{error::QueueError, id::JobId, new_job::NewJob};

pub(crate) const ENGINE: &str = "Redis";

/// All but a push in a transaction of the user.
const CAPABILITIES: Capabilities = Capabilities { transactional_push: false, ..Capabilities::ALL };

/// Jobs in a Redis server (version 6.2 or later) or a compatible one, such as Valkey, for any number of machines. Cheap
/// to clone; all clones share their connections.
///
/// ```no_run
/// use postlude_jobs::redis::RedisQueue;
///
/// # async fn example() -> Result<(), postlude_jobs::QueueError> {
/// let queue = RedisQueue::connect("redis://127.0.0.1/").await?;
/// # drop(queue);
/// # Ok(())
/// # }
/// ```
///
/// # How it works
/// A job is a hash, and sorted sets have the ids of the jobs that wait, are scheduled, run, and so on. Each change is
/// one script, which the server carries out as a whole, for at most some hundred jobs. Only the current owner of a run
/// can settle it. After a push, workers are told (`PUBLISH`), and they look once a second besides. Time is the clock of
/// the server.
///
/// **What a push survives is a setting of the server.** A push returns when the server has answered. With `appendonly
/// yes` and `appendfsync always`, the job is on the disk by then; with `everysec`, the death of the server may lose
/// the jobs of the last second or two; without `appendonly`, it loses all since the last snapshot. The start warns of
/// what is wrong, and [`durability`](Self::durability) says what is set. `maxmemory-policy` must be `noeviction`.
/// Replicas follow a little later: a failover can lose the latest pushes, and give a job that was settled in the last
/// moment to a worker again. With Redis Sentinel ([`with_sentinel`](Self::with_sentinel)), the queue follows to the
/// replica that is promoted.
///
/// All keys of a queue begin with `postlude:{name}:` and are in one slot of a cluster. The queue follows the slot from
/// node to node (`MOVED`), so the address of any node will do. One queue uses one node: throughput grows by more
/// queues.
#[derive(Clone)]
pub struct RedisQueue {
    shared: Arc<Shared>,
}

impl RedisQueue {
    /// Connects to the queue `jobs` of a server.
    ///
    /// The URL is that of the crate [redis](https://docs.rs/redis): `redis://user:password@host:port/database`. With
    /// `rediss://` the connection is encrypted, and the server's certificate is checked with the root certificates of
    /// the system; if the process has no default provider of [rustls](https://docs.rs/rustls), ring is made the
    /// default.
    ///
    /// # Errors
    /// If the URL is none, or no connection can be made.
    pub async fn connect(url: &str) -> Result<Self, QueueError> {
        Self::connect_to(url, "jobs").await
    }

    /// Connects to a queue of a server by its name. Queues of different names share nothing.
    ///
    /// # Errors
    /// If the URL is none, or no connection can be made.
    pub async fn connect_to(url: &str, queue: &str) -> Result<Self, QueueError> {
        let queue = Self::with_client(Client::open(url).map_err(not_sent)?, queue);
        queue.shared.now().await?;
        Ok(queue)
    }

    /// Uses a client of yours, for example one with certificates for TLS. It connects at the first operation.
    #[must_use]
    pub fn with_client(client: Client, queue: &str) -> Self {
        Self { shared: Arc::new(Shared::new(Source::new(client), queue)) }
    }

    /// Uses the server that Redis Sentinel names, and after a failover the one that it names then. It connects at the
    /// first operation.
    ///
    /// The client has the addresses of the sentinels, the name under which they watch the server, and what it takes to
    /// log in at either. It must be one for the master. ([`SentinelClient`] is of the crate
    /// [redis](https://docs.rs/redis), with its feature `sentinel`.) If the process has no default provider of
    /// [rustls](https://docs.rs/rustls), ring is made the default.
    ///
    /// While there is no master, operations fail with [`QueueError::Unreachable`], which is transient: workers go on by
    /// themselves, and what is pushed meanwhile has to be pushed again. A failover can lose what the replica did not
    /// have yet. With `min-replicas-to-write 1`, a server that is cut off from its replica stops taking pushes after
    /// `min-replicas-max-lag` seconds, so that it does not take any while the sentinels have another master.
    ///
    /// ```no_run
    /// use postlude_jobs::redis::RedisQueue;
    /// use redis::{ConnectionAddr, sentinel::{SentinelClientBuilder, SentinelServerType}};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let sentinel = |host: &str| ConnectionAddr::Tcp(host.to_owned(), 26379);
    /// let sentinels = [sentinel("sentinel-1"), sentinel("sentinel-2"), sentinel("sentinel-3")];
    /// let client = SentinelClientBuilder::new(sentinels, "main".to_owned(), SentinelServerType::Master)?
    ///     .set_client_to_redis_password("secret".to_owned())
    ///     .build()?;
    /// let queue = RedisQueue::with_sentinel(client, "jobs");
    /// # drop(queue);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_sentinel(client: SentinelClient, queue: &str) -> Self {
        Self { shared: Arc::new(Shared::new(Source::sentinels(client), queue)) }
    }

    /// What the server is set to keep.
    ///
    /// ```no_run
    /// # async fn example(queue: postlude_jobs::redis::RedisQueue) -> Result<(), postlude_jobs::QueueError> {
    /// println!("{}", queue.durability().await?); // appendonly yes, appendfsync everysec, maxmemory-policy noeviction
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the server can't be reached.
    pub async fn durability(&self) -> Result<Durability, QueueError> {
        self.shared.durability().await
    }
}

impl fmt::Debug for RedisQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisQueue").field("prefix", &self.shared.prefix).finish_non_exhaustive()
    }
}

forward::to_shared!(RedisQueue, CAPABILITIES);
