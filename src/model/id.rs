//! The numbers of tasks and sets, and what tells one task from another.

use std::{
    fmt,
    num::{NonZeroU64, ParseIntError},
    panic::Location,
    str::FromStr,
};

use super::name::TaskName;
use crate::util::clock::Timestamp;

/// The number of a task, unique in its registry for as long as that lives.
///
/// It reads `17` for a spawned task and `17.2` for the second task of set 17, and parses back from that: in an axum
/// handler, take a `Path<TaskId>` with the feature `serde`, or else a `Path<String>` and `parse::<TaskId>()` it. A smaller
/// number need not be an older task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The number of the set, or of the spawned task: both come from one sequence.
    pub(crate) number: u64,
    /// The index in the set, from 1; 0 for a spawned task.
    pub(crate) index: u64,
}

impl TaskId {
    pub(crate) const UNASSIGNED: Self = Self { number: 0, index: 0 };

    /// The set that the task was added to; `None` if it was spawned.
    #[must_use]
    pub const fn set(self) -> Option<SetId> {
        match self.index {
            0 => None,
            _ => Some(SetId(self.number)),
        }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => write!(f, "{}", self.number),
            index => write!(f, "{}.{index}", self.number),
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
        let (number, index) = match text.split_once('.') {
            Some((number, index)) => (number, index.parse::<NonZeroU64>()?.get()),
            None => (text, 0),
        };
        Ok(Self { number: number.parse()?, index })
    }
}

/// The number of a set, from the same sequence as the numbers of spawned tasks.
///
/// [`TaskRegistry::abort_set`](crate::TaskRegistry::abort_set) takes it.
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

/// What tells one task from another, in lists, logs and reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) id: TaskId,
    pub(crate) name: TaskName,
    pub(crate) location: &'static Location<'static>,
    pub(crate) added: Timestamp,
}

/// Ids are serialised as text, as they are displayed.
#[cfg(feature = "serde")]
mod as_text {
    use std::fmt;

    use serde::{
        Deserialize, Deserializer, Serialize, Serializer,
        de::{Error, Unexpected, Visitor},
    };

    use super::{SetId, TaskId};

    impl Serialize for TaskId {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    impl Serialize for SetId {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    impl<'de> Deserialize<'de> for TaskId {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Text;

            impl Visitor<'_> for Text {
                type Value = TaskId;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a task's id, like \"17\" or \"17.2\"")
                }

                fn visit_str<E: Error>(self, text: &str) -> Result<TaskId, E> {
                    text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
                }
            }

            deserializer.deserialize_str(Text)
        }
    }
}
