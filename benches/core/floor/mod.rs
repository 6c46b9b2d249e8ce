//! The floor: the least registry that keeps a registry's promises to a plain task, and does nothing else.
//!
//! What postlude costs above it is what its history, names, spans, hooks, policies, limits, scopes and handles cost.
//! What it costs above a bare spawn can't be saved, for each part is there for a promise:
//!
//! | part | promise |
//! |---|---|
//! | a number, and a map from it to the task, until the end | what is live can be listed, and is never forgotten |
//! | a map, which lets go of its room | memory comes back after a flood |
//! | the lock at the start, and the task's waker in the map | it can be aborted by its number, waiting or running |
//! | the catch of unwinds | a task that panics harms nothing but itself |
//! | the count at the end, also where the runtime drops the task | each task ends in exactly one counted outcome |
//! | three readings of the clock, two histograms and a sum | how long tasks wait and run, as quantiles and on average |
//! | tokio's clock | tests can pause it |
//! | shards | threads don't meet |
//! | the look at the map when a task ends | whoever waits until all is done is woken |

mod books;
mod set;
mod spawned;

use std::{
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    task::yield_now,
    time::Instant,
};

use self::{
    books::{Counts, Outcome, Shard},
    set::Set,
    spawned::Spawned,
};

const SHARDS: usize = 4;

/// The registry. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Registry {
    shards: Arc<[Arc<Shard>; SHARDS]>,
    idle: Arc<Notify>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let idle = Arc::new(Notify::new());
        let shard = |index: usize| Arc::new(Shard::new(index as u64, Arc::clone(&idle)));
        Self { shards: Arc::new(std::array::from_fn(shard)), idle }
    }

    #[expect(clippy::disallowed_methods, reason = "a peer of what spawns for others")]
    pub(crate) fn spawn<F>(&self, work: F) -> u64
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shard = Arc::clone(self.own_shard());
        let number = shard.add(Instant::now());
        tokio::spawn(Spawned::new(shard, number, work));
        number
    }

    pub(crate) fn set(&self) -> Arc<Set> {
        Set::new(Arc::clone(self.own_shard()))
    }

    /// Ends a task; `false` if it had ended.
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    pub(crate) fn abort(&self, number: u64) -> bool {
        let Some(task) = self.shard(number as usize).end(number, Outcome::Aborted) else {
            return false;
        };
        task.wake();
        true
    }

    /// What is live of what was spawned: its number, how long it has been there, and how long it has been running.
    pub(crate) fn list(&self) -> Vec<(u64, Duration, Option<Duration>)> {
        let now = Instant::now();
        self.shards.iter().flat_map(|shard| shard.list(now)).collect()
    }

    /// How the tasks have ended.
    pub(crate) fn counts(&self) -> Counts {
        self.shards.iter().fold(Counts::default(), |sum, shard| sum.plus(shard.counts()))
    }

    pub(crate) async fn wait_idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// Whether nothing is live; if something is, its end will be told.
    fn is_idle(&self) -> bool {
        let mut shards: Vec<_> = self.shards.iter().map(|shard| shard.lock()).collect();
        let is_idle = shards.iter().all(|books| books.is_idle());
        shards.iter_mut().for_each(|books| books.is_awaited = !is_idle);
        is_idle
    }

    /// The shard of this thread.
    fn own_shard(&self) -> &Arc<Shard> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static SEAT: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        self.shard(SEAT.with(|seat| *seat))
    }

    #[expect(clippy::indexing_slicing, reason = "below the length of the array")]
    fn shard(&self, number: usize) -> &Arc<Shard> {
        &self.shards[number % SHARDS]
    }
}

/// Polls, and turns a panic into an outcome.
fn guarded(poll: impl FnOnce() -> Poll<()>) -> Poll<Outcome> {
    catch_unwind(AssertUnwindSafe(poll))
        .map_or(Poll::Ready(Outcome::Panicked), |polled| polled.map(|()| Outcome::Completed))
}

/// Stops the benchmark if the floor does less than it says.
pub(crate) async fn keeps_its_promises() {
    async fn panics() {
        // Without the message of a panic.
        resume_unwind(Box::new(()));
    }

    let registry = Registry::new();
    let (held, dropped) = oneshot::channel::<()>();
    let running = registry.spawn(async move {
        pending::<()>().await;
        drop(held);
    });
    let waiting = registry.spawn(pending());
    assert!(registry.abort(waiting), "a waiting task can be aborted");
    assert!(!registry.abort(waiting), "a task ends once");
    while registry.list().iter().any(|(_, _, running_for)| running_for.is_none()) {
        yield_now().await;
    }
    let listed: Vec<u64> = registry.list().into_iter().map(|(number, ..)| number).collect();
    assert_eq!(listed, [running], "what is live is listed");
    assert!(registry.abort(running), "a running task can be aborted");
    assert!(dropped.await.is_err(), "what is aborted is dropped");
    registry.spawn(panics());
    let set = registry.set();
    set.add(panics());
    set.add(yield_now());
    Arc::clone(&set).launch();
    set.add(async {});
    registry.spawn(async {});
    registry.wait_idle().await;
    assert_eq!(registry.counts(), Counts { completed: 3, panicked: 2, aborted: 2 }, "each end is counted");
}
