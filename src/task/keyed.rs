//! The key of a task, and what became of its claim.

use crate::{
    model::{TaskId, TaskKey, UniquePolicy},
    util::clock::Timestamp,
};

/// The key of a task.
pub(crate) struct Keyed {
    pub(crate) key: TaskKey,
    /// What happens if the key is live; `None` if it may be live many times.
    pub(crate) unique: Option<UniquePolicy>,
    pub(crate) claim: Claim,
}

impl Default for Keyed {
    fn default() -> Self {
        Self { key: TaskKey::from(""), unique: None, claim: Claim::None }
    }
}

/// What became of the claim of a unique key.
#[derive(Clone, Copy)]
pub(crate) enum Claim {
    /// It was not made yet.
    None,
    Held(Held),
    /// The task must not start: it is a duplicate of this one.
    Duplicate(TaskId),
    /// The task's own condition refused the ending of its request, so it claims no key and does not start.
    Refused,
}

#[derive(Clone, Copy)]
pub(crate) struct Held {
    /// Since when the first of the tasks that replaced one another waits; `None` if it has replaced none.
    pub(crate) place: Option<Timestamp>,
    /// Up to when its start may be delayed.
    pub(crate) put_off_until: Option<Timestamp>,
    /// Whether it must wait for the end of the task that has the key.
    pub(crate) waits: bool,
}
