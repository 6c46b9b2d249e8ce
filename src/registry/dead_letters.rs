//! Dead letters: failed tasks, kept for inspection and replay.

use crate::{
    ledger::dead_letters::{DeadLetterStore, ReplaySource},
    model::{DeadLetter, Page, RejectReason, ReplayError, TaskId},
    registry::{TaskRegistry, handle::TaskHandle},
    task::Task,
};

/// The dead letters of a registry: tasks whose last attempt failed, panicked or timed out.
///
/// Letters are kept in memory, up to the number set by
/// [`TaskRegistryBuilder::dead_letters`](crate::TaskRegistryBuilder::dead_letters), and do not outlive the process.
/// When that number is reached, the oldest letter is evicted, which
/// [`TaskMetrics::dead_letters_evicted`](crate::TaskMetrics::dead_letters_evicted) counts. Each letter keeps the errors
/// of its attempts.
///
/// The letter of a [retrying](Task::retrying) task also keeps the task's factory and everything that the factory has
/// captured: 1,000 letters with a megabyte each take a gigabyte, and a factory that holds a [`TaskSet`](crate::TaskSet)
/// prevents that set from draining when its other handles are dropped.
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use postlude::{RetryPolicy, Task, TaskRegistry};
///
/// static UP: AtomicBool = AtomicBool::new(false);
///
/// async fn deliver() -> Result<(), &'static str> {
///     if UP.load(Ordering::Relaxed) { Ok(()) } else { Err("receiver is down") }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// registry.spawn(Task::retrying(RetryPolicy::default(), deliver).named("webhook")).await;
///
/// let dead = registry.dead_letters().list();
/// assert_eq!((dead[0].name.as_str(), dead[0].attempts.len()), ("webhook", 4));
///
/// UP.store(true, Ordering::Relaxed); // the receiver has recovered
/// let replay = registry.dead_letters().replay(dead[0].id).unwrap();
/// assert!(replay.await.is_completed());
/// assert!(registry.dead_letters().is_empty());
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DeadLetters {
    registry: TaskRegistry,
}

impl DeadLetters {
    /// All letters, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<DeadLetter> {
        self.store().list()
    }

    /// A page of the letters, the latest first: at most `limit` letters with a sequence number below `before`. A limit
    /// of 0 counts as 1.
    ///
    /// The cursor is a letter's sequence number, which stays valid after the letter is gone. Letters that are added or
    /// removed between two pages do not make the pages repeat or skip other letters.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// for name in ["first", "second", "third"] {
    ///     registry.spawn(Task::new(async { Err::<(), _>("down") }).named(name)).await;
    /// }
    /// let dead_letters = registry.dead_letters();
    /// let page = dead_letters.page(None, 2);
    /// assert_eq!(page.items[0].name, "third");
    /// assert_eq!(page.items[1].name, "second");
    /// let page = dead_letters.page(page.next, 2);
    /// assert_eq!((page.items[0].name.as_str(), page.next), ("first", None));
    /// # }
    /// ```
    #[must_use]
    pub fn page(&self, before: Option<u64>, limit: usize) -> Page<DeadLetter, u64> {
        let limit = limit.max(1);
        let mut letters = self.store().latest(before, limit.saturating_add(1));
        let has_next = letters.len() > limit;
        letters.truncate(limit);
        let last = letters.last().map(|(number, _)| *number);
        Page { items: letters.into_iter().map(|(_, letter)| letter).collect(), next: last.filter(|_| has_next) }
    }

    /// The letter of a task, if it is kept.
    #[must_use]
    pub fn find(&self, id: TaskId) -> Option<DeadLetter> {
        self.store().find(id)
    }

    /// The number of letters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store().len()
    }

    /// Whether there are no letters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Spawns the task of a letter again, with its name, time limit and retry policy, and removes the letter. The
    /// replay is a new task with its own id and attempts that count from 1. Its reports name the dead letter in
    /// `replay_of`. If it fails, it becomes a dead letter of its own.
    ///
    /// A replay is a spawned task, even if the original task was in a set. It starts now, without the original `delay`
    /// and condition. It has no request, so [`after`](crate::after) returns an error in it.
    ///
    /// # Errors
    /// If there is no such letter, if another replay of it is in progress, if the task can't be made again, or if the
    /// registry does not accept it. The letter stays where it is then, and is listed all the while.
    pub fn replay(&self, id: TaskId) -> Result<TaskHandle, ReplayError> {
        let source = match self.store().take_source(id) {
            ReplaySource::Taken(source) => source,
            ReplaySource::InProgress => return Err(ReplayError::InProgress { id }),
            ReplaySource::Dropped => {
                let has_ended = self.registry.shared.ledger.has_runtime_ended();
                let reason = if has_ended { RejectReason::RuntimeEnded } else { RejectReason::Closed };
                return Err(ReplayError::Rejected { id, reason });
            }
            ReplaySource::None => return Err(ReplayError::NotReplayable { id }),
            ReplaySource::Unknown => return Err(ReplayError::Unknown { id }),
        };
        match self.registry.try_spawn(Task::replay(source, id)) {
            Ok(handle) => {
                drop(self.store().take(id));
                Ok(handle)
            }
            Err(rejected) => {
                let reason = rejected.reason();
                let source = Some(rejected.into_task().work);
                // A registry that was shut down keeps no sources: they may hold it.
                let accepts = !matches!(reason, RejectReason::Closed | RejectReason::RuntimeEnded);
                self.store().put_back(id, source.filter(|_| accepts));
                Err(ReplayError::Rejected { id, reason })
            }
        }
    }

    /// Replays all letters that can be replayed, the oldest first, until the registry accepts no more. The other
    /// letters are kept.
    #[expect(clippy::must_use_candidate, reason = "the handles are optional")]
    pub fn replay_all(&self) -> Vec<TaskHandle> {
        let ids: Vec<_> =
            self.list().into_iter().filter(|letter| letter.is_replayable).map(|letter| letter.id).collect();
        let mut handles = Vec::new();
        for id in ids {
            match self.replay(id) {
                Ok(handle) => handles.push(handle),
                Err(ReplayError::Rejected { .. }) => break,
                // The letter was replayed or discarded by other code meanwhile.
                Err(
                    ReplayError::Unknown { .. } | ReplayError::InProgress { .. } | ReplayError::NotReplayable { .. },
                ) => {}
            }
        }
        handles
    }

    /// Discards a letter. Returns `false` if there is no letter of that task.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn discard(&self, id: TaskId) -> bool {
        self.store().take(id).is_some()
    }

    /// Discards all letters, and returns their number.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn clear(&self) -> usize {
        self.store().clear()
    }

    fn store(&self) -> &DeadLetterStore {
        &self.registry.shared.dead_letters
    }
}

impl TaskRegistry {
    /// The dead letters: tasks whose last attempt failed, panicked or timed out.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters { registry: self.clone() }
    }
}
