//! What became of tasks that did not get done: kept for a while, to be looked at and tried again.

use crate::{
    ledger::dead_letters::{DeadLetterStore, ReplaySource},
    model::{DeadLetter, Page, RejectReason, ReplayError, TaskId},
    registry::{TaskRegistry, handle::TaskHandle},
    task::Task,
};

/// The tasks that did not get done: those that have used up their attempts, and those that had only one.
///
/// They are kept in memory, as many as [`TaskRegistryBuilder::dead_letters`](crate::TaskRegistryBuilder::dead_letters)
/// says, and no longer than the process lives; the oldest goes first, which
/// [`TaskMetrics::dead_letters_displaced`](crate::TaskMetrics::dead_letters_displaced) counts. Each letter keeps the
/// errors of its attempts. The letter of a [retrying](Task::retrying) task keeps its factory, too, and so everything
/// that the factory has captured: a bound of 1,000 and a factory with a megabyte in it make a gigabyte, and a factory
/// that holds a [`TaskSet`](crate::TaskSet) keeps that set from draining by itself.
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
    /// All that are kept, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<DeadLetter> {
        self.store().list()
    }

    /// A page of the letters, the latest first: at most `limit` of them, that came before the one with the number
    /// `before`. A limit of 0 counts as 1.
    ///
    /// The cursor is the number of a letter in the order in which they came. It stays valid after the letter is gone, so
    /// letters that come and go between two pages make the pages neither repeat nor skip other letters.
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

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store().len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Spawns the task again, with its name, its time limit and its policy, and takes its letter from the list. It is a
    /// new task, with an id of its own, that knows whose replay it is; its attempts count from 1, and if it does not get
    /// done either, it leaves a letter of its own.
    ///
    /// It is spawned, also if the first one was in a set: it starts now, whatever its `delay` and its condition were, and
    /// it has no request, so [`after`](crate::after) adds to nothing in it.
    ///
    /// # Errors
    /// If there is no such letter, if another replay of it is in progress, if the task can't be made again, or if the
    /// registry does not accept it. The letter stays where it is then, and is listed all the while.
    pub fn replay(&self, id: TaskId) -> Result<TaskHandle, ReplayError> {
        let source = match self.store().take_source(id) {
            ReplaySource::Taken(source) => source,
            ReplaySource::InProgress => return Err(ReplayError::InProgress { id }),
            ReplaySource::Dropped => return Err(ReplayError::Rejected { id, reason: RejectReason::Closed }),
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

    /// Replays every letter that can be, the oldest first, until the registry accepts no more; the others stay.
    #[expect(clippy::must_use_candidate, reason = "the handles are optional")]
    pub fn replay_all(&self) -> Vec<TaskHandle> {
        let ids: Vec<_> =
            self.list().into_iter().filter(|letter| letter.is_replayable).map(|letter| letter.id).collect();
        let mut handles = Vec::new();
        for id in ids {
            match self.replay(id) {
                Ok(handle) => handles.push(handle),
                Err(ReplayError::Rejected { .. }) => break,
                // Replayed or discarded by somebody else meanwhile.
                Err(
                    ReplayError::Unknown { .. } | ReplayError::InProgress { .. } | ReplayError::NotReplayable { .. },
                ) => {}
            }
        }
        handles
    }

    /// Throws a letter away. `false` if there is none of that task.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn discard(&self, id: TaskId) -> bool {
        self.store().take(id).is_some()
    }

    /// Throws all letters away, and returns how many there were.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn clear(&self) -> usize {
        self.store().clear()
    }

    fn store(&self) -> &DeadLetterStore {
        &self.registry.shared.dead_letters
    }
}

impl TaskRegistry {
    /// The tasks that did not get done.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters { registry: self.clone() }
    }
}
