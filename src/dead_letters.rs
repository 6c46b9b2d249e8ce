//! What became of tasks that did not get done: kept for a while, to be looked at and tried again.

use std::{
    collections::VecDeque,
    fmt,
    panic::Location,
    time::{Duration, SystemTime},
};

use crate::{
    Outcome, Page, RejectReason, SetId, Task, TaskHandle, TaskId, TaskRegistry, TaskReport, attempts::Trail,
    inner::Inner, outcome::drop_quietly, run::BoxedWork, sync::Mutex,
};

/// A task that failed, panicked or timed out, for good: see [`DeadLetters`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The task.
    pub id: TaskId,
    /// Its name, `unnamed` if it was given none.
    pub name: &'static str,
    /// Where it was made.
    pub location: &'static Location<'static>,
    /// The set it was added to; `None` if it was spawned.
    pub set: Option<SetId>,
    /// The dead letter that it was a replay of.
    pub replay_of: Option<TaskId>,
    /// Its attempts, the last one last. Of very many, the last 32.
    pub attempts: Vec<Attempt>,
    /// Whether it can be replayed: it was a [retrying](Task::retrying) task.
    pub is_replayable: bool,
}

/// One attempt of a task.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// Which one, from 1.
    pub number: u32,
    /// When it ended, by the system's clock.
    pub ended_at: SystemTime,
    /// How long it ran.
    pub ran_for: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

impl fmt::Display for DeadLetter {
    /// One line of what and where, then a line for each attempt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} `{}` ({})", self.id, self.name, self.location)?;
        for Attempt { number, ran_for, outcome, .. } in &self.attempts {
            write!(f, "\n  attempt {number}, after {ran_for:.1?}: {outcome}")?;
        }
        Ok(())
    }
}

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
/// assert_eq!((dead[0].name, dead[0].attempts.len()), ("webhook", 4));
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
        self.store().letters.lock().kept.iter().map(|kept| kept.letter.clone()).collect()
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
    /// assert_eq!((page.items[0].name, page.items[1].name), ("third", "second"));
    /// let page = dead_letters.page(page.next, 2);
    /// assert_eq!((page.items[0].name, page.next), ("first", None));
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
        let letters = self.store().letters.lock();
        letters.kept.iter().find(|kept| kept.letter.id == id).map(|kept| kept.letter.clone())
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store().letters.lock().kept.len()
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
    /// If there is no such letter (any more), if the task can't be made again, or if the registry does not accept it.
    /// The letter stays where it is then.
    pub fn replay(&self, id: TaskId) -> Result<TaskHandle, ReplayError> {
        let Some(mut kept) = self.store().take(id) else {
            return Err(ReplayError::Unknown { id });
        };
        let Some(source) = kept.source.take() else {
            self.store().put_back(kept);
            return Err(ReplayError::NotReplayable { id });
        };
        self.registry.try_spawn(Task::replay(source, id)).map_err(|rejected| {
            let reason = rejected.reason();
            kept.source = Some(rejected.into_task().work);
            self.store().put_back(kept);
            ReplayError::Rejected { id, reason }
        })
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
                Err(ReplayError::Unknown { .. } | ReplayError::NotReplayable { .. }) => {}
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
        let kept = std::mem::take(&mut self.store().letters.lock().kept);
        kept.len()
    }

    fn store(&self) -> &Store {
        &self.registry.inner.dead_letters
    }
}

impl TaskRegistry {
    /// The tasks that did not get done.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters { registry: self.clone() }
    }
}

/// Why a dead letter was not replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// There is no letter of this task.
    #[error("there is no dead letter of task {id}: it was replayed, discarded, or displaced by newer ones")]
    #[non_exhaustive]
    Unknown {
        /// The task.
        id: TaskId,
    },
    /// The task was made from one future or closure, which is gone.
    #[error("task {id} can't be made again: make it with `Task::retrying`, if only with one attempt")]
    #[non_exhaustive]
    NotReplayable {
        /// The task.
        id: TaskId,
    },
    /// The registry does not accept it.
    #[error("task {id} was not accepted again, and stays a dead letter: {reason}")]
    #[non_exhaustive]
    Rejected {
        /// The task.
        id: TaskId,
        /// Why.
        reason: RejectReason,
    },
}

pub(crate) type DeadLetterHook = dyn Fn(&DeadLetter) + Send + Sync;

/// Where a registry keeps its dead letters.
pub(crate) struct Store {
    limit: usize,
    letters: Mutex<Letters>,
    hook: Option<Box<DeadLetterHook>>,
}

#[derive(Default)]
struct Letters {
    /// The oldest first.
    kept: VecDeque<Kept>,
    next: u64,
    displaced: u64,
}

struct Kept {
    /// In which order they came.
    number: u64,
    letter: DeadLetter,
    source: Option<BoxedWork>,
}

impl Drop for Kept {
    /// One by one, as each may panic.
    fn drop(&mut self) {
        drop_quietly(self.source.take());
        self.letter.attempts.drain(..).for_each(drop_quietly);
    }
}

impl Store {
    pub(crate) fn new(limit: usize, hook: Option<Box<DeadLetterHook>>) -> Self {
        Self { limit, letters: Mutex::default(), hook }
    }

    pub(crate) const fn are_kept(&self) -> bool {
        self.limit > 0
    }

    /// The latest letters that came before the `before`th, the latest first, each with its number.
    fn latest(&self, before: Option<u64>, count: usize) -> Vec<(u64, DeadLetter)> {
        let letters = self.letters.lock();
        let end = letters.kept.partition_point(|kept| before.is_none_or(|before| kept.number < before));
        let latest = letters.kept.range(..end).rev().take(count);
        latest.map(|kept| (kept.number, kept.letter.clone())).collect()
    }

    /// How many are kept, and how many had to go.
    pub(crate) fn figures(&self) -> (u64, u64) {
        let letters = self.letters.lock();
        (letters.kept.len() as u64, letters.displaced)
    }

    fn add(&self, mut kept: Kept) {
        let mut letters = self.letters.lock();
        kept.number = letters.next;
        letters.next += 1;
        letters.kept.push_back(kept);
        let displaced = letters.displace(self.limit);
        drop(letters);
        drop(displaced);
    }

    fn take(&self, id: TaskId) -> Option<Kept> {
        let mut letters = self.letters.lock();
        let place = letters.kept.iter().position(|kept| kept.letter.id == id)?;
        letters.kept.remove(place)
    }

    /// Puts a letter back where it was, which may be where the next one has to go.
    fn put_back(&self, kept: Kept) {
        let mut letters = self.letters.lock();
        let place = letters.kept.partition_point(|other| other.number < kept.number);
        letters.kept.insert(place, kept);
        let displaced = letters.displace(self.limit);
        drop(letters);
        drop(displaced);
    }
}

impl Letters {
    /// Takes out the oldest, if there are too many.
    fn displace(&mut self, limit: usize) -> Option<Kept> {
        let displaced = if self.kept.len() > limit { self.kept.pop_front() } else { None };
        self.displaced += u64::from(displaced.is_some());
        displaced
    }
}

impl Inner {
    /// Keeps the letter of a task that did not get done, and tells the hook. Never under a lock.
    pub(crate) fn bury(&self, report: &TaskReport, trail: Option<Box<Trail>>) {
        if !self.dead_letters.are_kept() || !report.outcome.is_dead() {
            // Aborted after its last attempt, and before that was counted.
            drop_quietly(trail);
            return;
        }
        let (failed, source) = trail.map(|trail| (trail.failed, trail.source)).unzip();
        let mut attempts = failed.unwrap_or_default().into_vec();
        attempts.push(Attempt::of(report));
        let letter = DeadLetter {
            id: report.id,
            name: report.name,
            location: report.location,
            set: report.set,
            replay_of: report.replay_of,
            attempts,
            is_replayable: source.is_some(),
        };
        let copy = Kept { number: 0, letter: letter.clone(), source: None };
        self.dead_letters.add(Kept { number: 0, letter, source });
        if let Some(hook) = &self.dead_letters.hook {
            self.call("the hook for dead letters", || hook(&copy.letter));
        }
    }
}
