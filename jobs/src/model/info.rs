//! What is known of one job.

use std::{fmt, time::SystemTime};

use postlude::{Priority, TaskProgress};
use serde::{Serialize, Serializer};

use super::{id::JobId, notes, time::to_millis};

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobState {
    /// It is due, and no worker has reserved it.
    Waiting,
    /// It is due later: delayed, or to be tried again.
    Scheduled,
    /// A worker has reserved it.
    Running,
    /// It has completed. It is kept for the [retention](crate::JobsBuilder::retention).
    Completed,
    /// Its attempts are used up. It is kept until it is replayed or discarded.
    Dead,
    /// It was [cancelled](crate::Jobs::cancel) before a worker reserved it. It is kept for the retention.
    Cancelled,
}

impl JobState {
    /// One lower-case word, such as `waiting`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) const fn to_stored(self) -> i16 {
        match self {
            Self::Waiting => 0,
            Self::Scheduled => 1,
            Self::Running => 2,
            Self::Completed => 3,
            Self::Dead => 4,
            Self::Cancelled => 5,
        }
    }

    pub(crate) const fn from_stored(stored: i16) -> Self {
        match stored {
            0 => Self::Waiting,
            1 => Self::Scheduled,
            2 => Self::Running,
            3 => Self::Completed,
            5 => Self::Cancelled,
            _ => Self::Dead,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// What a queue knows of one job, apart from its payload: see [`Jobs::find`](crate::Jobs::find).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobInfo {
    /// The id.
    pub id: JobId,
    /// The name.
    pub name: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Its priority.
    #[serde(serialize_with = "priority")]
    pub priority: Priority,
    /// When it was pushed.
    #[serde(serialize_with = "timestamp")]
    pub pushed_at: SystemTime,
    /// When it was, or will be, due.
    #[serde(serialize_with = "timestamp")]
    pub due_at: SystemTime,
    /// When its latest run began.
    #[serde(serialize_with = "optional_timestamp")]
    pub started_at: Option<SystemTime>,
    /// When it completed, died or was cancelled.
    #[serde(serialize_with = "optional_timestamp")]
    pub finished_at: Option<SystemTime>,
    /// How many of its attempts failed, panicked or timed out, since it was pushed or last replayed.
    pub failures: u32,
    /// How many of its runs ended with their process or with a lost lease, since it was pushed or last replayed.
    pub crashes: u32,
    /// After how many failures it is dead.
    pub max_attempts: u32,
    /// After how many crashes it is dead.
    pub max_crashes: u32,
    /// How often it was replayed.
    pub replays: u32,
    /// The error of its last attempt that did not complete.
    pub last_error: Option<String>,
    /// How far its latest run has come, as the handler has reported with [`postlude::progress()`]. The worker stores it
    /// once a second, and when the handler returns.
    #[serde(serialize_with = "notes::optional_progress")]
    pub progress: Option<TaskProgress>,
    /// What the handler has left with [`Current::set_result`](crate::Current::set_result), if the job has completed.
    pub result: Option<serde_json::Value>,
}

/// Milliseconds since the Unix epoch.
pub(crate) fn timestamp<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(to_millis(*time))
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn optional_timestamp<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(to_millis).serialize(serializer)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn priority<S: Serializer>(priority: &Priority, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(priority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_being_stored() {
        use JobState::{Cancelled, Completed, Dead, Running, Scheduled, Waiting};
        for state in [Waiting, Scheduled, Running, Completed, Dead, Cancelled] {
            assert_eq!(JobState::from_stored(state.to_stored()), state);
        }
    }
}
