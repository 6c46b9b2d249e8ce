//! The connections to the server, and its keys.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use redis::{Script, ScriptInvocation};
use tokio::sync::watch;

use super::{
    ENGINE,
    connection::{Connection, Source},
    scripts,
};
use crate::model::{
    error::QueueError,
    time::{from_millis, millis},
};

/// The version of the keys.
const SCHEMA: i64 = 1;

/// How many jobs one script handles: the server serves nobody else meanwhile.
pub(super) const STEP: usize = 500;

pub(super) struct Shared {
    /// What all keys begin with.
    pub(super) prefix: String,
    pub(super) source: Arc<Source>,
    pub(super) main: Connection,
    /// Renews leases, which must not wait for large pushes of this process.
    pub(super) renewer: Connection,
    pub(super) changes: watch::Sender<u64>,
    /// A flag that orders nothing: two may warn at the same time.
    pub(super) has_warned: AtomicBool,
}

impl Shared {
    pub(super) fn new(source: Source, queue: &str) -> Self {
        let source = Arc::new(source);
        Self {
            prefix: format!("postlude:{{{queue}}}:"),
            main: Connection::new(Arc::clone(&source)),
            renewer: Connection::new(Arc::clone(&source)),
            source,
            changes: watch::Sender::new(0),
            has_warned: AtomicBool::new(false),
        }
    }

    /// A call of a script, with the prefix as its key.
    pub(super) fn call<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        script.key(self.prefix.as_str())
    }

    /// Notes the version of the keys, or checks it, and stores the lease.
    pub(super) async fn prepare(&self, lease: Option<Duration>) -> Result<(), QueueError> {
        let lease = lease.map(|lease| millis(lease).to_string()).unwrap_or_default();
        let found: i64 = self.main.run(self.call(&scripts::PREPARE).arg(SCHEMA).arg(lease)).await?;
        if found > SCHEMA {
            let advice = "a newer version of postlude-jobs has changed them: update this program";
            return Err(QueueError::Schema { engine: ENGINE, found, needed: SCHEMA, advice });
        }
        self.warn_of_durability().await
    }

    pub(super) async fn now(&self) -> Result<SystemTime, QueueError> {
        let (seconds, micros): (i64, i64) = self.main.ask(&redis::cmd("TIME")).await?;
        Ok(from_millis(seconds.saturating_mul(1000).saturating_add(micros / 1000)))
    }
}
