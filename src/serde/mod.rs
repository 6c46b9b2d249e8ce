//! How infos, reports, events, dead letters and figures are written: objects with the names of the fields, durations as
//! seconds, moments as seconds since 1970, ids as text, words in lower case.

use std::{fmt, panic::Location, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
    ser::SerializeMap,
};

use crate::{
    model::{
        BoxError, Chain, DiscardReason, DrainReport, Outcome, SetId, ShutdownReport, TaskEvent, TaskId, TaskInfo,
        TaskReport, TaskState, TaskStatus,
    },
    util::panic::catch_panic,
};

/// Writes entries of an object.
macro_rules! entries {
    ($map:ident: $($key:literal = $value:expr),+ $(,)?) => {{
        $($map.serialize_entry($key, &$value)?;)+
    }};
}

mod dead_letters;
mod figures;

impl Serialize for TaskId {
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

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TaskId, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl Serialize for SetId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for TaskState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

impl Serialize for DiscardReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

impl Serialize for TaskInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map:
            "id" = self.id,
            "name" = self.name,
            "location" = Place(self.location),
            "set" = self.set,
            "state" = self.state,
            "attempt" = self.attempt,
            "age" = self.age.as_secs_f64(),
            "running_for" = seconds(self.running_for),
            "due_in" = seconds(self.due_in),
        );
        map.end()
    }
}

impl Serialize for TaskReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map:
            "id" = self.id,
            "name" = self.name,
            "location" = Place(self.location),
            "set" = self.set,
            "state" = self.outcome.label(),
            "attempt" = self.attempt,
            "replay_of" = self.replay_of,
            "queued_for" = self.queued_for.as_secs_f64(),
            "ran_for" = self.ran_for.as_secs_f64(),
            "ended_ago" = self.ended_ago.as_secs_f64(),
        );
        details(&mut map, &self.outcome)?;
        if let Some(refusal) = &self.refusal {
            map.serialize_entry("error", &message(refusal))?;
        }
        map.end()
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map: "state" = self.label());
        details(&mut map, self)?;
        map.end()
    }
}

/// What only some outcomes have.
fn details<M: SerializeMap>(map: &mut M, outcome: &Outcome) -> Result<(), M::Error> {
    match outcome {
        Outcome::Failed(error) => map.serialize_entry("error", &message(error)),
        Outcome::Panicked(panic) => map.serialize_entry("error", panic.message()),
        Outcome::TimedOut(limit) => map.serialize_entry("limit", &limit.as_secs_f64()),
        Outcome::Discarded(reason) => map.serialize_entry("reason", reason),
        Outcome::Completed | Outcome::Aborted => Ok(()),
    }
}

/// An error and its sources. Their `Display` is the user's code.
fn message(error: &BoxError) -> String {
    catch_panic(|| Chain(error).to_string()).unwrap_or_else(|panic| format!("(its message can't be had: {panic})"))
}

impl Serialize for TaskStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Live(task) => task.serialize(serializer),
            Self::Ended(report) => report.serialize(serializer),
        }
    }
}

impl Serialize for TaskEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map: "event" = self.label());
        match self {
            Self::Added(task) | Self::Started(task) => entries!(map: "task" = task),
            Self::AttemptFailed(report) | Self::Finished(report) => entries!(map: "task" = report),
            Self::Missed(count) => entries!(map: "count" = count),
        }
        map.end()
    }
}

impl Serialize for DrainReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map:
            "completed" = self.completed,
            "failed" = self.failed,
            "panicked" = self.panicked,
            "timed_out" = self.timed_out,
            "aborted" = self.aborted,
            "discarded" = self.discarded,
        );
        map.end()
    }
}

impl Serialize for ShutdownReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entries!(map:
            "completed" = self.completed,
            "failed" = self.failed,
            "aborted" = self.aborted,
            "discarded" = self.discarded,
            "unnamed" = self.unnamed,
            "stuck" = self.stuck,
            "took" = self.took.as_secs_f64(),
        );
        map.end()
    }
}

/// A place in the source, as `file:line`.
struct Place(&'static Location<'static>);

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}:{}", self.0.file(), self.0.line()))
    }
}

fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| duration.as_secs_f64())
}
