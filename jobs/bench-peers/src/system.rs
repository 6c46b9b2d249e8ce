//! What is measured: a queue, of one library, on one engine.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

/// How many jobs a worker takes at a time, and runs at a time, in each library.
pub(crate) const CONCURRENCY: usize = 16;

/// A job of which many wait.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Backlog {
    pub(crate) sent: u64,
}

/// A job whose way from the push to its start is timed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) sent: u64,
}

/// The two kinds of jobs. A worker has a handler for one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Backlog,
    Probe,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Probe => "probe",
        }
    }
}

/// A job that was pushed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pushed {
    /// What it carries, which no other job of this run carries.
    pub(crate) sent: u64,
    /// When the push returned.
    pub(crate) returned: u64,
}

impl Pushed {
    pub(crate) fn returned_now(sent: u64) -> Self {
        Self { sent, returned: now() }
    }
}

/// Where the worker is, seen from the producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worker {
    /// It has the producer's connections, as in one program.
    Here,
    /// It has connections of its own, as in another process.
    Elsewhere,
}

/// Ends a worker.
pub(crate) type Stop = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// A queue with a producer.
pub(crate) trait System: Send {
    fn name(&self) -> &'static str;

    /// Loads waiting jobs of the kind [`Backlog`]: past the library in one statement, if the engine can.
    fn load(&mut self, jobs: u64) -> BoxFuture<'_, ()>;

    /// Pushes one job.
    fn push(&mut self, kind: Kind) -> BoxFuture<'_, Pushed>;

    /// Pushes jobs of the kind [`Backlog`] in one call.
    fn push_many(&mut self, jobs: usize) -> BoxFuture<'_, ()>;

    /// Pushes jobs of the kind [`Backlog`], one after the other. Returns how long that took.
    fn time_pushes(&mut self, pushes: u32) -> BoxFuture<'_, Duration> {
        async move {
            let start = Instant::now();
            for _ in 0..pushes {
                self.push(Kind::Backlog).await;
            }
            start.elapsed()
        }
        .boxed()
    }

    /// Pushes many jobs of the kind [`Backlog`] in each of several calls. Returns how long that took.
    fn time_batches(&mut self, batches: u32, jobs: usize) -> BoxFuture<'_, Duration> {
        async move {
            let start = Instant::now();
            for _ in 0..batches {
                self.push_many(jobs).await;
            }
            start.elapsed()
        }
        .boxed()
    }

    /// Starts a worker; `None` if there is no difference to a worker elsewhere.
    fn work(&mut self, kind: Kind, worker: Worker) -> BoxFuture<'_, Option<Stop>>;

    /// The database on the PostgreSQL server.
    fn database(&self) -> Option<&str> {
        None
    }
}

/// How many jobs are loaded by one push.
const PART: u64 = 5_000;

/// Loads waiting jobs by the library.
pub(crate) async fn push_in_parts(system: &mut dyn System, jobs: u64) {
    for from in (0..jobs).step_by(PART as usize) {
        system.push_many(PART.min(jobs - from) as usize).await;
    }
}

/// Nanoseconds of the clock that all processes of the machine have in common.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// What the handlers of all libraries do: they note that the job has started.
pub(crate) fn started(sent: u64) {
    started_at(sent, now());
}

pub(crate) fn started_at(sent: u64, start: u64) {
    STARTED.starts.lock().unwrap().insert(sent, start);
    STARTED.count.fetch_add(1, Ordering::SeqCst);
}

static STARTED: Started = Started { count: AtomicUsize::new(0), starts: Mutex::new(BTreeMap::new()) };

struct Started {
    count: AtomicUsize,
    /// When what was sent then has started.
    starts: Mutex<BTreeMap<u64, u64>>,
}

/// Forgets what has started.
pub(crate) fn forget() {
    STARTED.starts.lock().unwrap().clear();
    STARTED.count.store(0, Ordering::SeqCst);
}

/// When the job that carries this has started; `None` if it has not.
pub(crate) fn start_of(sent: u64) -> Option<u64> {
    STARTED.starts.lock().unwrap().get(&sent).copied()
}

pub(crate) fn count() -> usize {
    STARTED.count.load(Ordering::SeqCst)
}

/// Waits until this number of jobs has started. If that takes too long, returns how many have.
pub(crate) async fn until_started(jobs: usize, limit: Duration) -> usize {
    let wait = async {
        while count() < jobs {
            sleep(Duration::from_micros(200)).await;
        }
    };
    let _it_takes_too_long = timeout(limit, wait).await;
    count()
}
