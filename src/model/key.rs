//! The keys of tasks.

use std::{fmt, sync::Arc};

use super::name::TaskName;

/// The key of a task: which of all things its name is about, such as a user or a file.
///
/// A key is text, or an integer as text. It is compared with those of live tasks of the same name: see
/// [`Task::unique`](crate::Task::unique) and
/// [`TaskRegistryBuilder::limit_by_key`](crate::TaskRegistryBuilder::limit_by_key). A key is not logged, listed or
/// exported, and its memory is free when no live task has it. Unlike a name, it may come from a client.
///
/// ```
/// use postlude::TaskKey;
///
/// assert_eq!(TaskKey::from("user-17").as_str(), "user-17");
/// assert_eq!(TaskKey::from(17_u64), TaskKey::from("17"));
/// let key = TaskKey::from(format!("user-{}", 17)); // each conversion from text copies it once
/// assert_eq!(key.clone(), key); // a clone copies nothing
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey(Arc<str>);

impl TaskKey {
    /// The key as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for TaskKey {
    fn from(key: &str) -> Self {
        Self(key.into())
    }
}

impl From<String> for TaskKey {
    fn from(key: String) -> Self {
        Self(key.into())
    }
}

impl From<&String> for TaskKey {
    fn from(key: &String) -> Self {
        Self(key.as_str().into())
    }
}

impl From<Arc<str>> for TaskKey {
    fn from(key: Arc<str>) -> Self {
        Self(key)
    }
}

macro_rules! from_integers {
    ($($integer:ty),*) => {$(
        impl From<$integer> for TaskKey {
            fn from(key: $integer) -> Self {
                Self(key.to_string().into())
            }
        }
    )*};
}

from_integers!(i32, i64, i128, u32, u64, u128, usize);

impl fmt::Debug for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A key among the tasks of one name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyOfName {
    pub(crate) name: TaskName,
    pub(crate) key: TaskKey,
}
