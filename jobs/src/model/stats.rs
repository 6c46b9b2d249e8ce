//! How many jobs there are.

use std::{collections::BTreeMap, time::Duration};

use serde::{Serialize, Serializer};

/// How many jobs a queue has, by name: see [`Jobs::stats`](crate::Jobs::stats).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobStats {
    /// The figures of each name that has jobs that are not completed, or is paused.
    pub names: BTreeMap<String, NameStats>,
    /// The figures that the engine does not tell: they are zero, and mean nothing. `RabbitQueue` counts what waits and
    /// what is dead, and only of the names that this process has pushed or handles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Figure>,
}

/// A figure of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Figure {
    /// [`NameStats::waiting`].
    Waiting,
    /// [`NameStats::scheduled`].
    Scheduled,
    /// [`NameStats::running`].
    Running,
    /// [`NameStats::dead`].
    Dead,
    /// [`NameStats::oldest_waiting`].
    OldestWaiting,
    /// [`NameStats::paused`].
    Paused,
}

impl JobStats {
    /// The figures of a name; zero if there are no jobs of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> NameStats {
        self.names.get(name).cloned().unwrap_or_default()
    }

    /// The figures of all names together.
    #[must_use]
    pub fn total(&self) -> NameStats {
        let mut total = NameStats::default();
        for stats in self.names.values() {
            total.waiting += stats.waiting;
            total.scheduled += stats.scheduled;
            total.running += stats.running;
            total.dead += stats.dead;
            total.oldest_waiting = total.oldest_waiting.max(stats.oldest_waiting);
            total.paused |= stats.paused;
        }
        total
    }
}

/// How many jobs of one name there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NameStats {
    /// Jobs that are due and that no worker has reserved.
    pub waiting: u64,
    /// Jobs that are due later: delayed, or to be tried again.
    pub scheduled: u64,
    /// Jobs that a worker has reserved.
    pub running: u64,
    /// Dead jobs.
    pub dead: u64,
    /// For how long the oldest waiting job has been due; `None` if none is waiting.
    #[serde(serialize_with = "seconds")]
    pub oldest_waiting: Option<Duration>,
    /// Whether the name is [paused](crate::Jobs::pause).
    pub paused: bool,
}

impl NameStats {
    /// Adds a row of figures: of jobs in a stored state, or of a paused name, whose state is negative.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
    pub(crate) fn add(&mut self, state: i16, jobs: i64, oldest: Option<Duration>) {
        let jobs = u64::try_from(jobs).unwrap_or(0);
        match state {
            ..0 => self.paused = true,
            0 => self.waiting += jobs,
            1 => self.scheduled += jobs,
            2 => self.running += jobs,
            4 => self.dead += jobs,
            _ => {}
        }
        self.oldest_waiting = self.oldest_waiting.max(oldest);
    }
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}
