//! What the server keeps when it is killed, as its configuration says.

use std::{collections::HashMap, fmt};

use super::{ENGINE, connect::Shared};
use crate::model::error::QueueError;

/// What a server is set to keep: see [`RedisQueue::durability`](super::RedisQueue::durability).
///
/// What is `None` can't be known: managed servers forbid `CONFIG`. Then see what their operator says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Durability {
    /// Whether each write goes to a log (`appendonly`). Without it, all since the last snapshot is lost with the
    /// server.
    pub append_only: Option<bool>,
    /// When the log is written to the disk (`appendfsync`): `always` before a push returns; `everysec` (the default)
    /// within a second or two, and until then the server may not even have handed it to the operating system; `no` when
    /// that likes.
    pub append_fsync: Option<String>,
    /// What is done when the memory is full (`maxmemory-policy`): it has to be `noeviction`, and `allkeys-*` would
    /// delete jobs.
    pub eviction: Option<String>,
}

impl Durability {
    /// Whether a push that has returned survives the death of the server and a power failure.
    pub(super) fn is_full(&self) -> bool {
        self.append_only == Some(true) && self.append_fsync.as_deref() == Some("always")
    }

    /// What is wrong, for the log.
    pub(super) fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        match (self.append_only, self.append_fsync.as_deref()) {
            (Some(false), _) => {
                warnings.push(
                    "`appendonly` is off: jobs since the last snapshot are lost if the server ends; set it to `yes`",
                );
            }
            (Some(true), Some("no")) => {
                warnings.push(
                    "`appendfsync` is `no`: a power failure may lose the jobs of half a minute; set it to \
                     `everysec`, or to `always`",
                );
            }
            _ => {}
        }
        // `volatile-*` evicts keys with a time to live only, and the keys of jobs have none.
        if self.eviction.as_deref().is_some_and(|policy| policy.starts_with("allkeys")) {
            warnings
                .push("`maxmemory-policy` lets the server delete jobs when its memory is full; set it to `noeviction`");
        }
        warnings
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |value: Option<&str>| value.unwrap_or("unknown").to_owned();
        let append_only = self.append_only.map(|on| if on { "yes" } else { "no" });
        write!(
            f,
            "appendonly {}, appendfsync {}, maxmemory-policy {}",
            known(append_only),
            known(self.append_fsync.as_deref()),
            known(self.eviction.as_deref())
        )
    }
}

impl Shared {
    /// Asks for the configuration. What the server does not tell, its figures may.
    pub(super) async fn durability(&self) -> Result<Durability, QueueError> {
        let append_only = self.setting("appendonly").await?.map(|value| value == "yes");
        let append_fsync = self.setting("appendfsync").await?;
        let eviction = self.setting("maxmemory-policy").await?;
        let mut durability = Durability { append_only, append_fsync, eviction };
        if durability.append_only.is_none() || durability.eviction.is_none() {
            let info = self.main.ask::<String>(&redis::cmd("INFO")).await;
            let info = match info {
                Ok(info) => info,
                Err(QueueError::Refused { .. }) => return Ok(durability),
                Err(error) => return Err(error),
            };
            let figures: HashMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
            let figure = |name| figures.get(name).map(|value| value.trim());
            durability.append_only = durability.append_only.or_else(|| figure("aof_enabled").map(|value| value == "1"));
            durability.eviction = durability.eviction.or_else(|| figure("maxmemory_policy").map(str::to_owned));
        }
        Ok(durability)
    }

    /// A setting; `None` if the server does not tell.
    async fn setting(&self, name: &str) -> Result<Option<String>, QueueError> {
        let answer = self.main.ask::<HashMap<String, String>>(redis::cmd("CONFIG").arg("GET").arg(name)).await;
        match answer {
            Ok(mut settings) => Ok(settings.remove(name)),
            Err(QueueError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Logs what is wrong, or can't be known, once.
    pub(super) async fn warn_of_durability(&self) -> Result<(), QueueError> {
        let durability = self.durability().await?;
        if self.has_warned.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return Ok(());
        }
        for warning in durability.warnings() {
            tracing::warn!(target: "postlude_jobs", engine = ENGINE, "{warning}");
        }
        if durability.append_only.is_none() || durability.append_fsync.is_none() || durability.eviction.is_none() {
            tracing::info!(
                target: "postlude_jobs", engine = ENGINE, %durability,
                "the server does not tell all of its configuration, so what it keeps can't be known: see what its \
                 operator says"
            );
        } else if !durability.is_full() {
            tracing::info!(
                target: "postlude_jobs", engine = ENGINE, %durability, "the latest pushes may be lost with the server"
            );
        }
        Ok(())
    }
}
