//! The connections to the broker.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{
    CONSUMER_TIMEOUT, ENGINE,
    consumer::Deliveries,
    publisher::{Addresses, Publisher},
    topology::{Place, Topology},
};
use crate::{
    amqp::{address::Address, error::sent, link::Link},
    model::{error::QueueError, id::JobId},
};

/// What stands for the lease where the broker waits for a sign of life for ever.
const NO_HEARTBEAT: Duration = Duration::from_secs(60);

pub(super) struct Shared {
    pub(super) addresses: Arc<Addresses>,
    pub(super) topology: Topology,
    pub(super) publisher: Publisher,
    /// Jobs are delivered on this connection.
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    /// What was delivered to each worker.
    pub(super) workers: Mutex<HashMap<JobId, Arc<Deliveries>>>,
    pub(super) changes: watch::Sender<u64>,
    /// In milliseconds. It is set before a start, and orders nothing.
    consumer_timeout: AtomicU64,
    /// The heartbeat in milliseconds, twice, as last negotiated. It orders nothing.
    lease: AtomicU64,
    /// The clock of the queue is one that nobody sets: the broker tells no time.
    clock: (Instant, SystemTime),
}

impl Shared {
    pub(super) fn new(addresses: Vec<Address>, topology: Topology) -> Self {
        let heartbeat = addresses.first().and_then(|address| address.uri().query.heartbeat).unwrap_or_default();
        let lease = if heartbeat == 0 { NO_HEARTBEAT } else { 2 * Duration::from_secs(heartbeat.into()) };
        let addresses = Arc::new(Addresses::new(addresses));
        Self {
            publisher: Publisher::new(Arc::clone(&addresses), topology.clone()),
            addresses,
            topology,
            link: tokio::sync::Mutex::default(),
            workers: Mutex::default(),
            changes: watch::Sender::new(0),
            consumer_timeout: AtomicU64::new(to_u64(CONSUMER_TIMEOUT)),
            lease: AtomicU64::new(to_u64(lease)),
            clock: (Instant::now(), SystemTime::now()),
        }
    }

    /// Connects, so that a wrong address or password shows at the start.
    pub(super) async fn prepare(&self, lease: Option<Duration>) -> Result<(), QueueError> {
        if lease.is_some() {
            let what = "set a lease: a worker has a job as long as its connection lives, so leave `lease` out, and set \
                        how soon a silent connection ends in the URL, such as `?heartbeat=15`";
            return Err(QueueError::Unsupported { engine: ENGINE, what });
        }
        self.publisher.connect().await
    }

    pub(super) fn set_consumer_timeout(&self, limit: Duration) {
        self.consumer_timeout.store(to_u64(limit), Ordering::Relaxed);
    }

    /// How long a job may run: the broker takes it back after its `consumer_timeout`.
    pub(super) fn longest_run(&self) -> Duration {
        Duration::from_millis(self.consumer_timeout.load(Ordering::Relaxed))
    }

    /// How long a worker may be silent before the broker takes its jobs back.
    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease.load(Ordering::Relaxed))
    }

    pub(super) async fn now(&self) -> Result<SystemTime, QueueError> {
        let (then, at) = self.clock;
        Ok(at + then.elapsed())
    }

    pub(super) fn announce(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }

    /// The broker tells of jobs by delivering them. Those that are due wait for somebody to notice.
    pub(super) async fn watch(&self) {
        self.forward_delayed().await;
    }

    /// What was delivered to a worker, on a connection that lives.
    pub(super) async fn deliveries(&self, owner: JobId) -> Result<Arc<Deliveries>, QueueError> {
        if let Some(deliveries) = self.worker(owner).filter(|deliveries| deliveries.is_usable()) {
            return Ok(deliveries);
        }
        let mut link = self.link.lock().await;
        if let Some(old) = self.worker(owner)
            && !old.is_usable()
        {
            // What it is unknown of ends with the connection, and is delivered anew.
            old.link.give_up();
            if link.as_ref().is_some_and(|link| Arc::ptr_eq(link, &old.link)) {
                *link = None;
            }
        }
        let current = if let Some(link) = link.clone().filter(|link| link.is_alive()) {
            link
        } else {
            let new = self.addresses.connect(&format!("works off {}", self.topology.prefix())).await?;
            let lease = new.heartbeat().map_or(NO_HEARTBEAT, |heartbeat| 2 * heartbeat);
            self.lease.store(to_u64(lease), Ordering::Relaxed);
            let new = Arc::new(new);
            *link = Some(Arc::clone(&new));
            new
        };
        let before = self.worker(owner);
        let deliveries = Arc::new(Deliveries::new(current, self.changes.clone(), before.as_deref()));
        let mut workers = self.workers.lock();
        let replaced = workers.insert(owner, Arc::clone(&deliveries));
        drop(workers);
        drop(replaced);
        Ok(deliveries)
    }

    /// Ends what is delivered to a worker. The broker has carried out all its answers then: they might get lost if the
    /// process ended with answers on their way.
    pub(super) async fn leave(&self, owner: JobId) -> Result<(), QueueError> {
        let (deliveries, was_last) = {
            let mut workers = self.workers.lock();
            let deliveries = workers.remove(&owner);
            (deliveries, workers.is_empty())
        };
        let Some(deliveries) = deliveries else { return Ok(()) };
        if !was_last {
            return deliveries.close().await.map_err(sent);
        }
        let mut link = self.link.lock().await;
        if link.as_ref().is_some_and(|link| Arc::ptr_eq(link, &deliveries.link)) {
            *link = None;
        }
        drop(link);
        deliveries.link.close().await.map_err(sent)
    }

    pub(super) fn worker(&self, owner: JobId) -> Option<Arc<Deliveries>> {
        self.workers.lock().get(&owner).map(Arc::clone)
    }

    pub(super) fn all_workers(&self) -> Vec<Arc<Deliveries>> {
        self.workers.lock().values().map(Arc::clone).collect()
    }

    /// Declares the queues of some names.
    pub(super) async fn declare(&self, names: &[&'static str]) -> Result<(), QueueError> {
        for name in names {
            Topology::check_name(name)?;
            self.publisher.declare_once(&Place::Dead((*name).to_owned())).await?;
            self.publisher.declare_once(&Place::Waiting((*name).to_owned())).await?;
        }
        Ok(())
    }
}

fn to_u64(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
