//! A job that is not stored yet.

use std::fmt;

use postlude::Priority;

use super::{
    headers::Headers,
    id::JobId,
    options::{Due, Unique},
};

/// A job that is ready to be stored: policy, codec and headers are applied. Made by
/// [`Jobs::prepare`](crate::Jobs::prepare), and stored by the `push_in` of a queue, within a transaction of your own.
#[derive(Clone)]
#[must_use = "a prepared job is not stored until it is given to `push_in`"]
pub struct NewJob {
    pub(crate) id: JobId,
    pub(crate) name: &'static str,
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: Headers,
    pub(crate) priority: Priority,
    pub(crate) due: Due,
    pub(crate) unique: Option<Unique>,
    pub(crate) max_attempts: u32,
    pub(crate) max_crashes: u32,
}

impl NewJob {
    /// The id under which the job will be stored.
    #[must_use]
    pub const fn id(&self) -> JobId {
        self.id
    }
}

impl fmt::Debug for NewJob {
    /// Without the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewJob")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("payload_bytes", &self.payload.len())
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
impl NewJob {
    /// A job for tests: `mail`, due now.
    pub(crate) fn sample() -> Self {
        Self {
            id: JobId::generate(),
            name: "mail",
            payload: b"{}".to_vec(),
            headers: Headers::new(),
            priority: Priority::Normal,
            due: Due::Now,
            unique: None,
            max_attempts: 25,
            max_crashes: 3,
        }
    }
}

/// The stored form of a priority: a smaller number is reserved first.
pub(crate) fn priority_to_stored(priority: Priority) -> i16 {
    match priority {
        Priority::High => 0,
        Priority::Low => 2,
        _ => 1,
    }
}

/// The priority of a stored number.
pub(crate) fn priority_from_stored(stored: i16) -> Priority {
    match stored {
        ..=0 => Priority::High,
        1 => Priority::Normal,
        2.. => Priority::Low,
    }
}
