//! The numbers of tasks and sets, and what tells a task from another.

use std::{fmt, num::ParseIntError, panic::Location, str::FromStr};

use crate::util::clock::Timestamp;

/// The number of a task, unique in its registry for as long as that lives.
///
/// It reads `17` for a spawned task and `17.2` for the second task of set 17, and parses back from that: in an axum
/// handler, take a `Path<TaskId>` with the feature `serde`, or else a `Path<String>` and `parse::<TaskId>()` it. A
/// smaller number need not be an older task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    pub(crate) line: u64,
    /// The place in the set, from 1; 0 for a spawned task, which has its line to itself.
    pub(crate) place: u32,
}

impl TaskId {
    pub(crate) const UNASSIGNED: Self = Self { line: 0, place: 0 };

    /// The set that the task was added to; `None` if it was spawned.
    #[must_use]
    pub const fn set(self) -> Option<SetId> {
        match self.place {
            0 => None,
            _ => Some(SetId(self.line)),
        }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            0 => write!(f, "{}", self.line),
            place => write!(f, "{}.{place}", self.line),
        }
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({self})")
    }
}

impl FromStr for TaskId {
    type Err = ParseIntError;

    /// # Errors
    /// If the text is neither a number nor two numbers with a point between them.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (line, place) = match text.split_once('.') {
            Some((line, place)) => (line, place.parse::<std::num::NonZeroU32>()?.get()),
            None => (text, 0),
        };
        Ok(Self { line: line.parse()?, place })
    }
}

/// The number of a set, out of the same sequence as the numbers of spawned tasks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub(crate) u64);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetId({self})")
    }
}

/// What tells a task from another, in lists, logs and reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) id: TaskId,
    pub(crate) name: &'static str,
    pub(crate) location: &'static Location<'static>,
    pub(crate) added: Timestamp,
}
