//! Logs tasks that are stuck: their outcome is counted, and their work still runs.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use rustc_hash::FxHashMap;

use crate::{
    engine::{abandoned::DROPPED_AT_LAST, shared::Shared},
    model::{Identity, TaskId},
    util::{
        clock::Timestamp,
        loom::atomic::{AtomicBool, Ordering},
    },
};

/// How many stuck tasks the log names at a time.
const NAMED: usize = 100;

/// Whether somebody looks for stuck tasks.
#[derive(Default)]
pub(crate) struct StuckWatch {
    is_looking: AtomicBool,
}

/// What the log was told of a stuck task.
struct Logged {
    identity: Identity,
    since: Timestamp,
    /// After which time the next line is due.
    next: Duration,
}

impl Shared {
    /// Looks for stuck tasks from now on, until no ended task is left whose work still runs. Called after a task that
    /// has started was ended by a caller, without a lock.
    pub(crate) fn watch_stuck(self: &Arc<Self>) {
        // SeqCst, here and below: either this sees that nobody looks, or the watcher sees the task.
        if !self.stuck_watch.is_looking.swap(true, Ordering::SeqCst) {
            self.spawn(watch(Arc::downgrade(self)));
        }
    }

    /// Logs the stuck tasks for which a line is due, and those that are not stuck any more. Returns whether it has to be
    /// called again.
    fn log_stuck(&self, logged: &mut FxHashMap<TaskId, Logged>) -> bool {
        let now = Timestamp::now();
        let (stuck, more) = self.abandoned.stuck(NAMED);
        for (identity, since) in &stuck {
            let known = logged.entry(identity.id).or_insert(Logged {
                identity: *identity,
                since: *since,
                next: Duration::ZERO,
            });
            let ended_ago = now.since(*since);
            if ended_ago < known.next {
                continue;
            }
            known.next = ended_ago.saturating_mul(2);
            self.telemetry.log(|| {
                tracing::warn!(
                    target: "postlude",
                    id = %identity.id,
                    name = identity.name.as_str(),
                    location = %identity.location,
                    ?ended_ago,
                    "task is stuck: it was aborted or timed out, and its work still runs, with its permits; let long \
                     work watch `cancellation()`"
                );
            });
        }
        if more > 0 {
            self.telemetry.log(|| tracing::warn!(target: "postlude", more, "more tasks are stuck than the log names"));
        }
        logged.retain(|id, known| {
            let is_stuck = more > 0 || stuck.iter().any(|(identity, _)| identity.id == *id);
            if !is_stuck {
                self.log_returned(known, now);
            }
            is_stuck
        });
        self.abandoned.not_dropped() > 0
    }

    fn log_returned(&self, stuck: &Logged, now: Timestamp) {
        let (identity, ran_on_for) = (&stuck.identity, now.since(stuck.since));
        self.telemetry.log(|| {
            tracing::info!(
                target: "postlude",
                id = %identity.id,
                name = identity.name.as_str(),
                location = %identity.location,
                ?ran_on_for,
                "task is no longer stuck: its work has returned"
            );
        });
    }
}

async fn watch(shared: Weak<Shared>) {
    let mut logged = FxHashMap::default();
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let sleep = strong.timer.sleep(DROPPED_AT_LAST);
        drop(strong);
        sleep.await;
        // Without a runtime, every wait for a time is over at once.
        let Some(strong) = shared.upgrade().filter(|shared| !shared.ledger.has_runtime_ended()) else {
            return;
        };
        if strong.log_stuck(&mut logged) {
            continue;
        }
        strong.stuck_watch.is_looking.store(false, Ordering::SeqCst);
        // One that was ended since the look has found this watcher still looking.
        if strong.abandoned.not_dropped() == 0 || strong.stuck_watch.is_looking.swap(true, Ordering::SeqCst) {
            return;
        }
    }
}
