//! The names of tasks.

use std::{borrow::Borrow, fmt, ptr, sync::LazyLock};

/// The name of a task: a label of metrics, and a field of the log.
///
/// Names come from a closed set, so that the number of metric series is bounded: a `TaskName` is made of a
/// `&'static str`, or [interned](Self::intern). Do not put ids into names. An empty name counts as no name: `unnamed`.
///
/// ```
/// use postlude::{Task, TaskName};
///
/// let name = TaskName::from("welcome_mail");
/// assert_eq!(name, "welcome_mail");
/// assert_eq!(Task::new(async {}).named(name).name().as_str(), "welcome_mail");
/// assert_eq!(TaskName::from(""), TaskName::UNNAMED);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskName(&'static str);

impl TaskName {
    /// The name of a task without a name: `unnamed`.
    pub const UNNAMED: Self = Self("unnamed");

    /// The name as a string.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// What names become that [`intern`](Self::intern) has no place for. A name `other` of a user is equal to it, but not
    /// the [same](Self::is_same).
    pub(crate) fn other() -> Self {
        static OTHER: LazyLock<&'static str> = LazyLock::new(|| Box::leak(Box::from("other")));
        Self(&OTHER)
    }

    /// Whether it is the name that stands for all that had no place.
    pub(crate) fn is_other(self) -> bool {
        self.is_same(Self::other())
    }

    /// Whether both names are the same string at the same address. Fast, and `false` for some equal names.
    #[inline]
    pub(crate) fn is_same(self, other: Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}

impl From<&'static str> for TaskName {
    fn from(name: &'static str) -> Self {
        if name.is_empty() { Self::UNNAMED } else { Self(name) }
    }
}

impl Borrow<str> for TaskName {
    fn borrow(&self) -> &str {
        self.0
    }
}

impl AsRef<str> for TaskName {
    fn as_ref(&self) -> &str {
        self.0
    }
}

impl PartialEq<str> for TaskName {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for TaskName {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl PartialEq<TaskName> for &str {
    fn eq(&self, other: &TaskName) -> bool {
        *self == other.0
    }
}

impl PartialEq<TaskName> for str {
    fn eq(&self, other: &TaskName) -> bool {
        self == other.0
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl fmt::Debug for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for TaskName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}
