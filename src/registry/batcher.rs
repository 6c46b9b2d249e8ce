//! Many items, handled together.
//!
//! A batch is a task of the registry from its first item on: it waits, pending, until it is full, flushed, due, or a
//! shutdown begins, and then for its turn. What was pushed until it starts is in it.
//!
//! # Invariants
//! 1. An item that was accepted is in a batch whose task was live at that moment.
//! 2. An item's place within the capacity is free again when the task of its batch has its outcome.
//! 3. Lock order: the batcher's lock, then a batch's or the ledger's. No foreign code runs under either.

use std::{
    fmt,
    future::Future,
    panic::Location,
    sync::{Arc, OnceLock},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    model::{BatchPolicy, RejectReason, RetryPolicy, TaskId, TaskName},
    registry::TaskRegistry,
    task::{RejectedItem, Task, TaskOutput, batch_signal::BatchSignal},
    util::{loom::Mutex, panic::drop_catching},
};

impl TaskRegistry {
    /// Gathers items, and hands them to `handler` many at a time. Each batch is a task of this name.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::{BatchPolicy, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BoxError> {
    /// let registry = TaskRegistry::new();
    /// let policy = BatchPolicy::default().max_items(100).max_delay(Duration::from_secs(1));
    /// let events = registry.batcher("events", policy, |events: Vec<String>| async move {
    ///     println!("{}", events.join("\n")); // one write for many events
    ///     Ok::<(), std::io::Error>(())
    /// });
    ///
    /// // in the handlers, each with a clone
    /// events.push("signed up".to_owned()).await?;
    /// events.push("signed in".to_owned()).await?;
    ///
    /// registry.shutdown(Duration::from_secs(10)).await; // handles what waits
    /// assert_eq!(registry.metrics().completed, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A batch is handled when it is full, when its first item has waited for long enough, when it is
    /// [flushed](Batcher::flush), when the last clone of the batcher is dropped, and when a shutdown begins.
    ///
    /// Batches run at the same time, like other tasks: one at a time, and in order, with a
    /// [`limit_by_name`](crate::TaskRegistryBuilder::limit_by_name) of 1 on their name. The registry's other limits hold for them, too,
    /// and [`wait_idle`](Self::wait_idle) waits for a batch that has items.
    #[track_caller]
    pub fn batcher<T, F, Fut>(&self, name: &'static str, policy: BatchPolicy, handler: F) -> Batcher<T>
    where
        T: Send + 'static,
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        let handler = Arc::new(handler);
        self.batcher_of(name.into(), policy, move |batch| {
            let handler = Arc::clone(&handler);
            Task::new(async move { handler(batch.take()).await })
        })
    }

    /// The same, for batches that are tried again when they fail: each attempt gets a clone of the items.
    ///
    /// A batch that has used up its attempts is kept as a [dead letter](Self::dead_letters), with its items.
    #[track_caller]
    pub fn retrying_batcher<T, F, Fut>(
        &self,
        name: impl Into<TaskName>,
        policy: BatchPolicy,
        retry: RetryPolicy,
        handler: F,
    ) -> Batcher<T>
    where
        T: Clone + Send + 'static,
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        let handler = Arc::new(handler);
        self.batcher_of(name.into(), policy, move |batch| {
            let handler = Arc::clone(&handler);
            let mut items = None;
            Task::retrying(retry.clone(), move || {
                let Items(items) = items.get_or_insert_with(|| Items(batch.take()));
                handler(items.clone())
            })
        })
    }

    #[track_caller]
    fn batcher_of<T: Send + 'static>(
        &self,
        name: TaskName,
        policy: BatchPolicy,
        make: impl Fn(Arc<Batch<T>>) -> Task + Send + Sync + 'static,
    ) -> Batcher<T> {
        let policy = policy.within(Semaphore::MAX_PERMITS);
        let queue = BatchQueue {
            registry: self.clone(),
            name,
            location: Location::caller(),
            policy,
            room: Arc::new(Semaphore::new(policy.capacity)),
            current: Mutex::new(Current::new()),
            make: Box::new(make),
        };
        Batcher { queue: Arc::new(queue) }
    }
}

/// Gathers items that are handled together: see [`TaskRegistry::batcher`]. Cheap to clone; dropping the last clone
/// flushes.
pub struct Batcher<T> {
    queue: Arc<BatchQueue<T>>,
}

struct BatchQueue<T> {
    registry: TaskRegistry,
    name: TaskName,
    location: &'static Location<'static>,
    policy: BatchPolicy,
    /// The places within the capacity.
    room: Arc<Semaphore>,
    current: Mutex<Current<T>>,
    make: Box<dyn Fn(Arc<Batch<T>>) -> Task + Send + Sync>,
}

struct Current<T> {
    /// The batch that is filled. It may have started, or have been ended by somebody, since.
    batch: Option<Arc<Batch<T>>>,
    /// When the batch that was begun last is [gone](BatchSignal::gone).
    last: CancellationToken,
}

impl<T> Current<T> {
    fn new() -> Self {
        let last = CancellationToken::new();
        last.cancel();
        Self { batch: None, last }
    }
}

impl<T: Send + 'static> Batcher<T> {
    /// Adds an item, when there is room for it.
    ///
    /// # Errors
    /// Gives the item back if the registry does not accept the task of a new batch: it is shut down or at its own
    /// capacity, or its rule said no.
    ///
    /// # Cancel safety
    /// Given up while it waits for room, it has added nothing, and the item is dropped with it.
    pub async fn push(&self, item: T) -> Result<(), RejectedItem<T>> {
        match Arc::clone(&self.queue.room).acquire_owned().await {
            Ok(place) => self.queue.add(item, place),
            // Only for a closed semaphore, and nobody closes this one.
            Err(_) => Err(self.queue.rejected(item, RejectReason::BatcherFull)),
        }
    }

    /// Adds an item, or hands it back. Never blocks.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::{BatchPolicy, RejectReason, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// let policy = BatchPolicy::default().max_items(10).capacity(1);
    /// let clicks = registry.batcher("clicks", policy, |_: Vec<u32>| async {});
    /// clicks.try_push(1).unwrap();
    /// let rejected = clicks.try_push(2).unwrap_err();
    /// assert_eq!((rejected.reason(), rejected.into_item()), (RejectReason::BatcherFull, 2));
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`push`](Self::push), and if there is no room.
    pub fn try_push(&self, item: T) -> Result<(), RejectedItem<T>> {
        match Arc::clone(&self.queue.room).try_acquire_owned() {
            Ok(place) => self.queue.add(item, place),
            Err(_) => Err(self.queue.rejected(item, RejectReason::BatcherFull)),
        }
    }

    /// Has what waits handled now. It does not wait for that: [`TaskRegistry::wait_idle`] does.
    pub fn flush(&self) {
        let current = self.queue.current.lock().batch.clone();
        start_early(current);
    }
}

/// An item, and its place within the capacity.
type Placed<T> = (T, OwnedSemaphorePermit);

impl<T: Send + 'static> BatchQueue<T> {
    fn add(&self, item: T, place: OwnedSemaphorePermit) -> Result<(), RejectedItem<T>> {
        let joined = self.join((item, place), &mut self.current.lock());
        let placed = match joined {
            Ok(full) => {
                start_early(full);
                return Ok(());
            }
            Err(placed) => placed,
        };
        // A new batch. The rule of the user's is asked without the lock, so somebody else may be faster.
        let batch = Batch::new(self.registry.shared.losses.stopping().child_token());
        let task = Task::made_at(self.location, (self.make)(Arc::clone(&batch)));
        let task = task.named(self.name).batched(self.policy.max_delay, Arc::clone(&batch.signal));
        let task = match self.registry.prepare(task) {
            Ok(task) => task,
            Err(rejected) => return Err(RejectedItem::with_task(rejected, placed.0)),
        };
        let mut current = self.current.lock();
        let placed = match self.join(placed, &mut current) {
            Ok(full) => {
                drop(current);
                start_early(full);
                return Ok(());
            }
            Err(placed) => placed,
        };
        let passed_mark = match self.registry.admit(&task) {
            Ok(passed_mark) => passed_mark,
            Err(reason) => {
                drop(current);
                return Err(self.rejected(placed.0, reason));
            }
        };
        let previous = std::mem::replace(&mut current.last, batch.signal.gone.clone());
        batch.begin(task.meta().id(), placed, previous);
        let is_full = self.policy.max_items == 1;
        let replaced = if is_full { current.batch.take() } else { current.batch.replace(Arc::clone(&batch)) };
        drop(current);
        drop(replaced);
        start_early(is_full.then(|| Arc::clone(&batch)));
        let ended = self.registry.start(task, passed_mark);
        let closing = CloseOnDrop { batch, registry: Some(self.registry.clone()) };
        self.registry.shared.spawn(async move {
            ended.await;
            closing.task_ended();
        });
        Ok(())
    }

    /// Puts an item into the current batch, if there is one that takes it; returns the batch if that has made it full.
    fn join(&self, placed: Placed<T>, current: &mut Current<T>) -> Result<Option<Arc<Batch<T>>>, Placed<T>> {
        let Some(batch) = current.batch.as_ref().filter(|batch| batch.is_live(&self.registry)) else {
            return Err(placed);
        };
        let count = batch.add(placed)?;
        Ok(if count < self.policy.max_items { None } else { current.batch.take() })
    }
}

impl<T> BatchQueue<T> {
    const fn rejected(&self, item: T, reason: RejectReason) -> RejectedItem<T> {
        RejectedItem::new(self.name, reason, item)
    }
}

#[cfg(all(test, postlude_loom))]
impl<T> Batcher<T> {
    /// How many items wait in the current batch.
    pub(crate) fn gathered(&self) -> usize {
        let current = self.queue.current.lock().batch.clone();
        current.map_or(0, |batch| batch.gathered.lock().items.as_ref().map_or(0, Vec::len))
    }
}

impl<T> Drop for BatchQueue<T> {
    fn drop(&mut self) {
        start_early(self.current.get_mut().batch.take());
    }
}

impl<T> Clone for Batcher<T> {
    fn clone(&self) -> Self {
        Self { queue: Arc::clone(&self.queue) }
    }
}

impl<T> fmt::Debug for Batcher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher")
            .field("name", &self.queue.name)
            .field("policy", &self.queue.policy)
            .field("free", &self.queue.room.available_permits())
            .finish_non_exhaustive()
    }
}

/// Items that are handled together.
struct Batch<T> {
    /// The task that handles them, once it was accepted.
    id: OnceLock<TaskId>,
    signal: Arc<BatchSignal>,
    gathered: Mutex<Gathered<T>>,
}

struct Gathered<T> {
    /// `None`: they are being handled, or are gone.
    items: Option<Vec<T>>,
    /// Their places within the capacity; `None` when the task has ended.
    room: Option<OwnedSemaphorePermit>,
}

impl<T> Batch<T> {
    fn new(ready: CancellationToken) -> Arc<Self> {
        let gathered = Gathered { items: Some(Vec::new()), room: None };
        let signal = BatchSignal { ready, previous: OnceLock::new(), gone: CancellationToken::new() };
        Arc::new(Self { id: OnceLock::new(), signal: Arc::new(signal), gathered: Mutex::new(gathered) })
    }

    /// Its task was accepted.
    fn begin(&self, id: TaskId, (item, place): Placed<T>, previous: CancellationToken) {
        // The only call, and nobody else knows the batch yet.
        let _unset = (self.id.set(id), self.signal.previous.set(previous));
        let mut gathered = self.gathered.lock();
        gathered.items.get_or_insert_default().push(item);
        gathered.room = Some(place);
    }

    fn is_live(&self, registry: &TaskRegistry) -> bool {
        self.id.get().is_some_and(|id| registry.shared.with_live(*id, |_| ()).is_some())
    }

    /// Adds an item, and says how many there are; gives it back if the batch is being handled.
    fn add(&self, placed: Placed<T>) -> Result<usize, Placed<T>> {
        let mut gathered = self.gathered.lock();
        let Gathered { items: Some(items), room: Some(room) } = &mut *gathered else {
            return Err(placed);
        };
        items.push(placed.0);
        room.merge(placed.1);
        Ok(items.len())
    }

    /// Takes the items to handle them.
    fn take(&self) -> Vec<T> {
        self.gathered.lock().items.take().unwrap_or_default()
    }

    /// Its task has ended, handled or not.
    fn close(&self) {
        let mut gathered = self.gathered.lock();
        let rest = Gathered { items: gathered.items.take(), room: gathered.room.take() };
        drop(gathered);
        drop(rest);
    }
}

/// Closes a batch when its task has ended, or when the runtime has.
struct CloseOnDrop<T> {
    batch: Arc<Batch<T>>,
    /// `None` when the task has ended. Otherwise the runtime has, and no item must be accepted for the room that is freed.
    registry: Option<TaskRegistry>,
}

impl<T> CloseOnDrop<T> {
    fn task_ended(mut self) {
        self.registry = None;
    }
}

impl<T> Drop for CloseOnDrop<T> {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.take() {
            registry.shared.runtime_ended();
        }
        self.batch.close();
    }
}

impl<T> Drop for Gathered<T> {
    fn drop(&mut self) {
        drop(self.items.take().map(Items));
    }
}

/// Items that are dropped one by one, because the drop of each may panic.
struct Items<T>(Vec<T>);

impl<T> Drop for Items<T> {
    fn drop(&mut self) {
        self.0.drain(..).for_each(drop_catching);
    }
}

/// Lets a batch wait no longer. Never under a lock, because it wakes.
fn start_early<T>(batch: Option<Arc<Batch<T>>>) {
    if let Some(batch) = batch {
        batch.signal.ready.cancel();
    }
}
