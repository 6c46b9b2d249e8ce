//! Batchers: many items in one task.
//!
//! A batch is a task of the registry from its first item on. The task is pending until the batch is full, flushed or
//! due, or a shutdown begins, and then waits for its permits. Items are added to the batch until the task starts.
//!
//! # Invariants
//! 1. An item that was accepted is in a batch whose task was live at that moment.
//! 2. An item's slot within the capacity is freed when the task of its batch has its outcome.
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
    /// Creates a batcher, which collects items and passes them to `handler` in batches. Each batch is a task of this
    /// name.
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
    /// // in the handlers, each of which has a clone
    /// events.push("signed up".to_owned()).await?;
    /// events.push("signed in".to_owned()).await?;
    ///
    /// registry.shutdown(Duration::from_secs(10)).await; // handles the waiting items
    /// assert_eq!(registry.metrics().completed, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A batch is handled when it is full, when its first item has waited for [`max_delay`](BatchPolicy::max_delay),
    /// when it is [flushed](Batcher::flush), when the last clone of the batcher is dropped, and when a shutdown begins.
    ///
    /// Batches run concurrently, like other tasks. To run them one at a time and in order, set a
    /// [`limit_by_name`](crate::TaskRegistryBuilder::limit_by_name) of 1 on their name. The registry's other limits
    /// apply to batches, too, and [`wait_idle`](Self::wait_idle) waits for a batch that has items.
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

    /// Like [`batcher`](Self::batcher), for batches that are retried when they fail. Each attempt gets a clone of the
    /// items.
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
            slots: Arc::new(Semaphore::new(policy.capacity)),
            current: Mutex::new(Current::new()),
            make: Box::new(make),
        };
        Batcher { queue: Arc::new(queue) }
    }
}

/// Collects items that are handled together: see [`TaskRegistry::batcher`]. Cheap to clone. Dropping the last clone
/// flushes the current batch.
pub struct Batcher<T> {
    queue: Arc<BatchQueue<T>>,
}

struct BatchQueue<T> {
    registry: TaskRegistry,
    name: TaskName,
    location: &'static Location<'static>,
    policy: BatchPolicy,
    /// The slots within the capacity.
    slots: Arc<Semaphore>,
    current: Mutex<Current<T>>,
    make: Box<dyn Fn(Arc<Batch<T>>) -> Task + Send + Sync>,
}

struct Current<T> {
    /// The batch to which items are added. Its task may have started or ended since.
    batch: Option<Arc<Batch<T>>>,
    /// The [`gone`](BatchSignal::gone) token of the last batch.
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
    /// Adds an item. Waits while the batcher is at its capacity.
    ///
    /// # Errors
    /// Returns the item if the registry does not accept the task of a new batch, because it is shut down or at its own
    /// capacity, or its admission filter refuses the task.
    ///
    /// # Cancel safety
    /// If the future is dropped while it waits, the item is dropped with it and was not added.
    pub async fn push(&self, item: T) -> Result<(), RejectedItem<T>> {
        match Arc::clone(&self.queue.slots).acquire_owned().await {
            Ok(slot) => self.queue.add(item, slot),
            // Unreachable: the semaphore is never closed.
            Err(_) => Err(self.queue.rejected(item, RejectReason::BatcherFull)),
        }
    }

    /// Adds an item, or hands it back. This never blocks.
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
    /// Like [`push`](Self::push), and if the batcher is at its capacity.
    pub fn try_push(&self, item: T) -> Result<(), RejectedItem<T>> {
        match Arc::clone(&self.queue.slots).try_acquire_owned() {
            Ok(slot) => self.queue.add(item, slot),
            Err(_) => Err(self.queue.rejected(item, RejectReason::BatcherFull)),
        }
    }

    /// Starts to handle the current batch now. Does not wait for it: use [`TaskRegistry::wait_idle`] for that.
    pub fn flush(&self) {
        let current = self.queue.current.lock().batch.clone();
        start_early(current);
    }
}

/// An item and its slot within the capacity.
type SlottedItem<T> = (T, OwnedSemaphorePermit);

impl<T: Send + 'static> BatchQueue<T> {
    fn add(&self, item: T, slot: OwnedSemaphorePermit) -> Result<(), RejectedItem<T>> {
        let pushed = self.push_to_current((item, slot), &mut self.current.lock());
        let item = match pushed {
            Ok(full) => {
                start_early(full);
                return Ok(());
            }
            Err(item) => item,
        };
        // There is no batch to add to: make one. The admission filter is called without the lock, so another thread may
        // add a batch meanwhile.
        let batch = Batch::new(self.registry.shared.losses.stopping().child_token());
        let task = Task::made_at(self.location, (self.make)(Arc::clone(&batch)));
        let task = task.named(self.name).batched(self.policy.max_delay, Arc::clone(&batch.signal));
        let task = match self.registry.prepare(task) {
            Ok(task) => task,
            Err(rejected) => return Err(RejectedItem::with_task(rejected, item.0)),
        };
        let mut current = self.current.lock();
        let item = match self.push_to_current(item, &mut current) {
            Ok(full) => {
                drop(current);
                start_early(full);
                return Ok(());
            }
            Err(item) => item,
        };
        let passed_mark = match self.registry.admit(&task) {
            Ok(passed_mark) => passed_mark,
            Err(reason) => {
                drop(current);
                return Err(self.rejected(item.0, reason));
            }
        };
        let previous = std::mem::replace(&mut current.last, batch.signal.gone.clone());
        batch.begin(task.meta().id(), item, previous);
        let is_full = self.policy.max_items == 1;
        let replaced = if is_full { current.batch.take() } else { current.batch.replace(Arc::clone(&batch)) };
        drop(current);
        drop(replaced);
        start_early(is_full.then(|| Arc::clone(&batch)));
        let handle = self.registry.start(task, passed_mark);
        let closing = CloseOnDrop { batch, registry: Some(self.registry.clone()) };
        self.registry.shared.spawn(async move {
            handle.await;
            closing.task_ended();
        });
        Ok(())
    }

    /// Adds an item to the current batch, if there is one whose task is live. Returns the batch if it is full now.
    fn push_to_current(
        &self,
        item: SlottedItem<T>,
        current: &mut Current<T>,
    ) -> Result<Option<Arc<Batch<T>>>, SlottedItem<T>> {
        let Some(batch) = current.batch.as_ref().filter(|batch| batch.is_live(&self.registry)) else {
            return Err(item);
        };
        let count = batch.add(item)?;
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
    /// The number of items in the current batch.
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
            .field("free", &self.queue.slots.available_permits())
            .finish_non_exhaustive()
    }
}

/// Items that are handled together.
struct Batch<T> {
    /// The task that handles them. Set once it was accepted.
    id: OnceLock<TaskId>,
    signal: Arc<BatchSignal>,
    gathered: Mutex<Gathered<T>>,
}

struct Gathered<T> {
    /// `None` once they are being handled or were dropped.
    items: Option<Vec<T>>,
    /// Their slots within the capacity; `None` when the task has ended.
    slots: Option<OwnedSemaphorePermit>,
}

impl<T> Batch<T> {
    fn new(ready: CancellationToken) -> Arc<Self> {
        let gathered = Gathered { items: Some(Vec::new()), slots: None };
        let signal = BatchSignal { ready, previous: OnceLock::new(), gone: CancellationToken::new() };
        Arc::new(Self { id: OnceLock::new(), signal: Arc::new(signal), gathered: Mutex::new(gathered) })
    }

    /// Adds the first item, when the task was accepted.
    fn begin(&self, id: TaskId, (item, slot): SlottedItem<T>, previous: CancellationToken) {
        // This is called once, before the batch is shared.
        let _unset = (self.id.set(id), self.signal.previous.set(previous));
        let mut gathered = self.gathered.lock();
        gathered.items.get_or_insert_default().push(item);
        gathered.slots = Some(slot);
    }

    fn is_live(&self, registry: &TaskRegistry) -> bool {
        self.id.get().is_some_and(|id| registry.shared.with_live(*id, |_| ()).is_some())
    }

    /// Adds an item, and returns the number of items. Hands the item back if the batch is being handled.
    fn add(&self, item: SlottedItem<T>) -> Result<usize, SlottedItem<T>> {
        let mut gathered = self.gathered.lock();
        let Gathered { items: Some(items), slots: Some(slots) } = &mut *gathered else {
            return Err(item);
        };
        items.push(item.0);
        slots.merge(item.1);
        Ok(items.len())
    }

    /// Takes the items to handle them.
    fn take(&self) -> Vec<T> {
        self.gathered.lock().items.take().unwrap_or_default()
    }

    /// Drops items that were not handled and frees the slots, when the task has ended.
    fn close(&self) {
        let mut gathered = self.gathered.lock();
        let unhandled = Gathered { items: gathered.items.take(), slots: gathered.slots.take() };
        drop(gathered);
        drop(unhandled);
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

/// Items that are dropped one by one, because each drop may panic.
struct Items<T>(Vec<T>);

impl<T> Drop for Items<T> {
    fn drop(&mut self) {
        self.0.drain(..).for_each(drop_catching);
    }
}

/// Ends the wait of a batch for more items. Never call this under a lock, because it wakes tasks.
fn start_early<T>(batch: Option<Arc<Batch<T>>>) {
    if let Some(batch) = batch {
        batch.signal.ready.cancel();
    }
}
