//! Dead jobs, and the errors of attempts.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{
    id::JobId,
    info::timestamp,
    time::{from_millis, to_millis},
};

/// A job whose attempts are used up: see [`Jobs::dead`](crate::Jobs::dead).
#[derive(Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadJob {
    /// The id.
    pub id: JobId,
    /// The name.
    pub name: String,
    /// When it was pushed.
    #[serde(serialize_with = "timestamp")]
    pub pushed_at: SystemTime,
    /// When it died.
    #[serde(serialize_with = "timestamp")]
    pub died_at: SystemTime,
    /// How many of its attempts failed, panicked or timed out, since it was pushed or last replayed.
    pub failures: u32,
    /// How many of its runs ended with their process or with a lost lease, since it was pushed or last replayed.
    pub crashes: u32,
    /// How often it was replayed.
    pub replays: u32,
    /// The errors of its attempts, the first and the latest ones, also those before a replay.
    pub errors: Vec<JobError>,
    /// Its headers.
    #[serde(skip)]
    pub headers: BTreeMap<String, String>,
    #[serde(skip)]
    pub(crate) payload: Vec<u8>,
}

impl DeadJob {
    /// The payload as it is stored: JSON, or what the [codec](crate::Codec) made of it. It is not part of `Debug` and
    /// of
    /// `Serialize`, because it may hold what must not be shown.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

impl fmt::Debug for DeadJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadJob")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("failures", &self.failures)
            .field("crashes", &self.crashes)
            .field("errors", &self.errors)
            .finish_non_exhaustive()
    }
}

/// Why an attempt of a job did not complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobError {
    /// When the attempt ended.
    #[serde(serialize_with = "timestamp")]
    pub at: SystemTime,
    /// The number of the attempt.
    pub attempt: u32,
    /// The error, with its sources, in one line.
    pub message: String,
}

/// The longest message that is stored.
const MAX_MESSAGE_BYTES: usize = 2_000;

/// How many errors of a job are stored: the first, and the latest of the others.
pub(crate) const MAX_ERRORS: i32 = 50;

#[derive(Serialize, Deserialize)]
struct Stored {
    at: i64,
    attempt: u32,
    error: String,
}

impl JobError {
    pub(crate) fn new(at: SystemTime, attempt: u32, message: &str) -> Self {
        let mut end = message.len().min(MAX_MESSAGE_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        // PostgreSQL stores no zero character in text.
        let message = message.get(..end).unwrap_or_default().replace('\0', "\u{fffd}");
        Self { at, attempt, message }
    }

    pub(crate) fn to_stored(&self) -> String {
        let stored = Stored { at: to_millis(self.at), attempt: self.attempt, error: self.message.clone() };
        serde_json::to_string(&stored).unwrap_or_else(|_| String::from("{}"))
    }

    /// Reads a stored list.
    pub(crate) fn parse(stored: &str) -> Vec<Self> {
        let stored: Vec<Stored> = serde_json::from_str(stored).unwrap_or_default();
        let read = |one: Stored| Self { at: from_millis(one.at), attempt: one.attempt, message: one.error };
        stored.into_iter().map(read).collect()
    }
}

/// The error of a run whose lease ran out.
pub(crate) const CRASHED: &str = "its worker's process ended, or did not renew the lease";

/// What is added to it, after the number of crashes, when the job is dead.
pub(crate) const NO_MORE_CRASHES: &str = "times, and the job may have no more crashes";

/// The error of a run whose lease ran out, with what is added to it.
pub(crate) fn crash_message(crashes: u32, is_dead: bool) -> String {
    if is_dead { format!("{CRASHED}: {crashes} {NO_MORE_CRASHES}") } else { CRASHED.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_being_stored() {
        let error = JobError::new(from_millis(1_000), 2, "receiver is down");
        assert_eq!(JobError::parse(&format!("[{}]", error.to_stored())), [error]);
        assert_eq!(JobError::parse("not a list"), []);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = JobError::new(from_millis(0), 1, &"ü".repeat(MAX_MESSAGE_BYTES));
        assert_eq!(error.message.len(), MAX_MESSAGE_BYTES);
        assert_eq!(JobError::new(from_millis(0), 1, "a\0b").message, "a\u{fffd}b");
    }
}
