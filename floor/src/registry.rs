//! The registry.

use std::{
    panic::{AssertUnwindSafe, Location, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    set::{Handle, Set},
    spawned::Spawned,
    state::{Counts, End, Label, Outcome, Shard},
};

pub(crate) const SHARDS: usize = 4;
/// The name of a task that has none.
pub(crate) const UNNAMED: &str = "unnamed";

/// A registry of live tasks. A clone is the same registry.
#[derive(Clone)]
pub struct Registry {
    shards: Arc<[Arc<Shard>; SHARDS]>,
    idle: Arc<Notify>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        let idle = Arc::new(Notify::new());
        let shard = |index: usize| Arc::new(Shard::new(index as u64, Arc::clone(&idle)));
        Self { shards: Arc::new(std::array::from_fn(shard)), idle }
    }

    /// Spawns a task without a name; returns its number. `None` if the registry is closed.
    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "a peer of what spawns for others")]
    pub fn spawn<F>(&self, work: F) -> Option<u64>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shard = Arc::clone(self.own_shard());
        let number = shard.add(Label { name: UNNAMED, location: Location::caller() }, Instant::now())?;
        tokio::spawn(Spawned::new(shard, number, work));
        Some(number)
    }

    /// A set of tasks that run one after another.
    pub fn set(&self) -> Handle {
        Handle::new(self.bare_set())
    }

    /// A set that drains when it is told to.
    pub(crate) fn bare_set(&self) -> Arc<Set> {
        Set::new(Arc::clone(self.own_shard()))
    }

    /// Accepts no more tasks.
    pub fn close(&self) {
        self.shards.iter().for_each(|shard| shard.close());
    }

    /// Aborts a task; `false` if it had ended.
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    pub fn abort(&self, number: u64) -> bool {
        let Some(task) = self.shard(number as usize).end(number, Outcome::Aborted) else {
            return false;
        };
        task.wake();
        true
    }

    /// The live spawned tasks: the number of each, how long it has been there, and how long it has been running.
    pub fn list(&self) -> Vec<(u64, Duration, Option<Duration>)> {
        let now = Instant::now();
        self.shards.iter().flat_map(|shard| shard.list(now)).collect()
    }

    /// Aborts a task of a set; `false` if it had ended.
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    pub fn abort_in_set(&self, set: u64, index: u64) -> bool {
        self.shard(set as usize).set(set).is_some_and(|set| set.abort(index))
    }

    /// The live tasks of sets: the number of the set, the index in it, and the name.
    pub fn list_sets(&self) -> Vec<(u64, u64, &'static str)> {
        self.shards.iter().flat_map(|shard| shard.sets()).flat_map(|set| set.list()).collect()
    }

    /// How the tasks have ended.
    pub fn counts(&self) -> Counts {
        self.count(None)
    }

    /// How the tasks of a name have ended.
    pub fn counts_of(&self, name: &str) -> Counts {
        self.count(Some(name))
    }

    fn count(&self, name: Option<&str>) -> Counts {
        let sets = self.shards.iter().flat_map(|shard| shard.sets());
        sets.for_each(|set| set.count_ends());
        self.shards.iter().fold(Counts::default(), |sum, shard| sum.plus(shard.counts(name)))
    }

    /// The last ends, in no order.
    pub fn ends(&self) -> Vec<End> {
        self.shards.iter().flat_map(|shard| shard.ends()).collect()
    }

    /// Waits until no task is live.
    pub async fn wait_idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// Whether no task is live. If one is, its end notifies.
    fn is_idle(&self) -> bool {
        let mut shards: Vec<_> = self.shards.iter().map(|shard| shard.lock()).collect();
        let is_idle = shards.iter().all(|state| state.is_idle());
        shards.iter_mut().for_each(|state| state.is_awaited = !is_idle);
        is_idle
    }

    /// The shard of this thread.
    #[inline]
    fn own_shard(&self) -> &Arc<Shard> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static INDEX: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        self.shard(INDEX.with(|index| *index))
    }

    #[expect(clippy::indexing_slicing, reason = "below the length of the array")]
    fn shard(&self, number: usize) -> &Arc<Shard> {
        &self.shards[number % SHARDS]
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// Polls, and turns a panic into an outcome.
#[inline]
pub(crate) fn catch_panic(poll: impl FnOnce() -> Poll<()>) -> Poll<Outcome> {
    catch_unwind(AssertUnwindSafe(poll))
        .map_or(Poll::Ready(Outcome::Panicked), |polled| polled.map(|()| Outcome::Completed))
}

#[cfg(test)]
mod tests {
    use std::{future::pending, panic::resume_unwind};

    use tokio::{sync::oneshot, task::yield_now};

    use super::*;

    /// Panics without the message of a panic.
    async fn panics() {
        resume_unwind(Box::new(()));
    }

    #[tokio::test]
    async fn abort_ends_waiting_and_running_tasks() {
        let registry = Registry::new();
        let (held, dropped) = oneshot::channel::<()>();
        let running = registry.spawn(async move {
            pending::<()>().await;
            drop(held);
        });
        let (running, waiting) = (running.unwrap(), registry.spawn(pending()).unwrap());
        assert!(registry.abort(waiting));
        assert!(!registry.abort(waiting), "a task ends once");
        yield_now().await;
        assert!(matches!(registry.list()[..], [(number, _, Some(_))] if number == running));
        assert!(registry.abort(running));
        assert!(dropped.await.is_err(), "an aborted task is dropped");
        registry.wait_idle().await;
        assert_eq!(registry.counts(), Counts { aborted: 2, ..Counts::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn list_has_live_tasks_with_their_times() {
        let registry = Registry::new();
        let task = registry.spawn(pending()).unwrap();
        assert_eq!(registry.list(), [(task, Duration::ZERO, None)]);
        yield_now().await;
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(registry.list(), [(task, Duration::from_secs(1), Some(Duration::from_secs(1)))]);
        registry.abort(task);
        assert!(registry.list().is_empty());
    }

    #[tokio::test]
    async fn abort_in_set_ends_tasks_in_each_state_and_the_others_run_in_order() {
        let registry = Registry::new();
        let set = registry.set();
        let (held, dropped) = oneshot::channel::<()>();
        set.add_named("first", async move {
            pending::<()>().await;
            drop(held);
        });
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for task in 2..=4 {
            let sender = sender.clone();
            set.add_named("others", async move { sender.send((task, Set::current().is_some())).unwrap() });
        }
        drop(set);
        yield_now().await;
        let listed = registry.list_sets();
        let number = listed[0].0;
        assert_eq!(listed.iter().map(|(_, index, _)| *index).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(registry.abort_in_set(number, 3) && !registry.abort_in_set(number, 3));
        assert!(registry.abort_in_set(number, 1) && dropped.await.is_err());
        registry.wait_idle().await;
        assert_eq!((order.try_recv(), order.try_recv()), (Ok((2, true)), Ok((4, true))));
        assert!(!registry.abort_in_set(number, 4) && order.try_recv().is_err());
        let aborted = Counts { aborted: 1, ..Counts::default() };
        assert_eq!(registry.counts_of("first"), aborted);
        assert_eq!(registry.counts_of("others"), Counts { completed: 2, ..aborted });
        assert_eq!(registry.ends().len(), 4);
    }

    #[tokio::test]
    async fn a_set_goes_on_without_a_task_that_was_aborted_inside_its_poll() {
        let registry = Registry::new();
        let set = registry.set();
        let own = registry.clone();
        set.add(async move {
            let number = own.list_sets()[0].0;
            assert!(own.abort_in_set(number, 1));
        });
        set.add(async {});
        drop(set);
        registry.wait_idle().await;
        assert_eq!(registry.counts(), Counts { completed: 1, aborted: 1, panicked: 0 });
    }

    #[tokio::test]
    async fn counts_have_each_end() {
        let registry = Registry::new();
        registry.spawn(panics());
        let set = registry.set();
        set.add(panics());
        set.add(yield_now());
        set.add(async { assert!(Set::current().unwrap().add(async {}).is_some()) });
        drop(set);
        registry.spawn(async {});
        registry.wait_idle().await;
        assert_eq!(registry.counts(), Counts { completed: 4, panicked: 2, aborted: 0 });
    }

    #[test]
    fn end_of_runtime_aborts_and_counts() {
        let registry = Registry::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            registry.spawn(pending());
            let set = registry.set();
            set.add(pending());
            set.add(async {});
            drop(set);
            yield_now().await;
        });
        drop(runtime);
        assert_eq!(registry.counts(), Counts { aborted: 3, ..Counts::default() });
        assert!(registry.list().is_empty());
    }

    #[tokio::test]
    async fn a_set_drains_with_its_last_handle_and_tells_how_its_tasks_have_ended() {
        let registry = Registry::new();
        let set = registry.set();
        let other = set.clone();
        set.add(async {});
        set.add(panics());
        let mut drained = Box::pin(set.drained());
        assert!(futures::FutureExt::now_or_never(&mut drained).is_none());
        yield_now().await;
        assert_eq!((registry.list_sets().len(), registry.counts()), (2, Counts::default()));
        drop(other);
        let counts = Counts { completed: 1, panicked: 1, aborted: 0 };
        assert_eq!((drained.await, registry.counts()), (counts, counts));
    }

    #[tokio::test]
    async fn a_closed_registry_accepts_nothing() {
        let registry = Registry::new();
        let (listed, empty) = (registry.set(), registry.set());
        listed.add(async {});
        registry.close();
        assert_eq!((listed.add(async {}), empty.add(async {}), registry.spawn(async {})), (None, None, None));
        drop((listed, empty));
        registry.wait_idle().await;
        assert_eq!(registry.counts().completed, 1);
    }

    #[tokio::test]
    async fn wait_idle_waits_for_spawned_tasks_and_sets() {
        let registry = Registry::new();
        let (spawned, set) = (oneshot::channel::<()>(), oneshot::channel::<()>());
        registry.spawn(async { drop(spawned.1.await) });
        let tasks = registry.set();
        tasks.add(async { drop(set.1.await) });
        drop(tasks);
        let mut idle = Box::pin(registry.wait_idle());
        for end in [spawned.0, set.0] {
            yield_now().await;
            assert!(futures::FutureExt::now_or_never(&mut idle).is_none());
            end.send(()).unwrap();
        }
        idle.await;
    }
}
