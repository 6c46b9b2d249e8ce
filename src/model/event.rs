//! Events in the life of a task, as owned values.

use super::{
    id::TaskId,
    report::{TaskInfo, TaskReport},
};

/// Something that happened to a task: the same events that a [`TaskObserver`](crate::TaskObserver) receives, as owned
/// values.
///
/// See [`TaskRegistry::subscribe`](crate::TaskRegistry::subscribe).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskEvent {
    /// A task was added or spawned.
    Added(TaskInfo),
    /// An attempt of a task started.
    Started(TaskInfo),
    /// An attempt failed, and another one will follow.
    AttemptFailed(TaskReport),
    /// A task has its outcome.
    Finished(TaskReport),
    /// This many events were lost, because this reader was too slow.
    Missed(u64),
}

impl TaskEvent {
    /// The task's id; `None` for [`Missed`](Self::Missed).
    #[must_use]
    pub const fn id(&self) -> Option<TaskId> {
        match self {
            Self::Added(task) | Self::Started(task) => Some(task.id),
            Self::AttemptFailed(report) | Self::Finished(report) => Some(report.id),
            Self::Missed(_) => None,
        }
    }

    /// One lower-case word: `added`, `started`, `attempt_failed`, `finished` or `missed`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Added(_) => "added",
            Self::Started(_) => "started",
            Self::AttemptFailed(_) => "attempt_failed",
            Self::Finished(_) => "finished",
            Self::Missed(_) => "missed",
        }
    }
}

/// An object with the event's label as `event`, and the `task` or the `count` of missed events.
#[cfg(feature = "serde")]
impl serde::Serialize for TaskEvent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;

        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("event", self.label())?;
        match self {
            Self::Added(task) | Self::Started(task) => map.serialize_entry("task", task)?,
            Self::AttemptFailed(report) | Self::Finished(report) => map.serialize_entry("task", report)?,
            Self::Missed(count) => map.serialize_entry("count", count)?,
        }
        map.end()
    }
}
