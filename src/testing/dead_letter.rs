//! `DeadLetterBuilder`

use std::{
    panic::Location,
    time::{Duration, SystemTime},
};

use super::{in_set, unreal_task};
use crate::{
    model::{Attempt, DeadLetter, Outcome, TaskId, TaskName},
    util::clock::Timestamp,
};

/// Makes a [`DeadLetter`], to test a hook for dead letters.
///
/// ```
/// use std::sync::Arc;
/// use postlude::{BoxError, Outcome, testing::DeadLetterBuilder};
///
/// let refused = Outcome::Failed(Arc::from(BoxError::from("connection refused")));
/// let letter = DeadLetterBuilder::new("webhook").attempt(refused.clone()).attempt(refused).build();
/// assert_eq!(letter.attempts.len(), 2);
/// assert!(letter.to_string().ends_with("attempt 2, after 0.0ns: failed: connection refused"));
/// ```
///
/// # Default
/// The letter of a spawned task that can be replayed, with an id of its own and no attempts. Its location is that of the
/// call of [`new`](Self::new).
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct DeadLetterBuilder(DeadLetter);

impl DeadLetterBuilder {
    /// The letter of a task with this name.
    #[track_caller]
    pub fn new(name: impl Into<TaskName>) -> Self {
        let info = unreal_task(name.into(), Location::caller()).info(Timestamp::now());
        let (id, name, location) = (info.id, info.name, info.location);
        let (set, replay_of, attempts) = (None, None, Vec::new());
        Self(DeadLetter { id, name, location, set, replay_of, attempts, is_replayable: true })
    }

    /// Adds an attempt, which has just ended and took no time. Its fields can be changed in the letter.
    pub fn attempt(mut self, outcome: Outcome) -> Self {
        let number = self.0.attempts.last().map_or(1, |last| last.number.saturating_add(1));
        let (ended_at, ran_for) = (SystemTime::now(), Duration::ZERO);
        self.0.attempts.push(Attempt { number, ended_at, ran_for, outcome });
        self
    }

    /// The task was added to a set.
    pub fn in_set(mut self) -> Self {
        self.0.id = in_set(self.0.id);
        self.0.set = self.0.id.set();
        self
    }

    /// The task was a replay of this dead letter.
    pub fn replay_of(mut self, id: TaskId) -> Self {
        self.0.replay_of = Some(id);
        self
    }

    /// The task can't be replayed.
    pub fn not_replayable(mut self) -> Self {
        self.0.is_replayable = false;
        self
    }

    /// The letter.
    #[must_use]
    pub fn build(self) -> DeadLetter {
        self.0
    }
}
