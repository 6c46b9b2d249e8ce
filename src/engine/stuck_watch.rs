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

/// What the log was told.
#[derive(Default)]
struct Logged {
    tasks: FxHashMap<TaskId, LoggedTask>,
    /// How many tasks it did not name.
    more: usize,
}

/// What the log was told of a stuck task.
struct LoggedTask {
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

    /// Logs the stuck tasks for which a line is due, and those that are not stuck any more. Returns whether it has to
    /// be called again.
    fn log_stuck(&self, logged: &mut Logged) -> bool {
        let now = Timestamp::now();
        let (stuck, more) = self.abandoned.stuck(NAMED);
        for (identity, since) in &stuck {
            let known = logged.tasks.entry(identity.id).or_insert(LoggedTask {
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
        // Once, and at each doubling.
        if more > 0 && more >= logged.more.saturating_mul(2) {
            logged.more = more;
            self.telemetry.log(|| tracing::warn!(target: "postlude", more, "more tasks are stuck than the log names"));
        }
        logged.more = logged.more.min(more);
        logged.tasks.retain(|id, known| {
            let is_stuck = self.abandoned.has(*id);
            if !is_stuck {
                self.log_returned(known, now);
            }
            is_stuck
        });
        self.abandoned.not_dropped() > 0
    }

    fn log_returned(&self, stuck: &LoggedTask, now: Timestamp) {
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
    let mut logged = Logged::default();
    while let Some(strong) = Shared::after(&shared, DROPPED_AT_LAST).await {
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

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use std::{io::Write, panic::Location};

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::engine::shared::TaskRegistry;

    /// The lines of the log.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        /// How many there are since the last call: that name a task, that count the others, and that a task is back.
        fn take(&self) -> [usize; 3] {
            let text = String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap();
            ["task is stuck", "more tasks are stuck", "no longer stuck"].map(|wanted| text.matches(wanted).count())
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_stuck_tasks_are_counted_at_each_doubling_and_each_that_returns_is_told() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let (shared, mut logged) = (TaskRegistry::new().shared, Logged::default());
        let id = |number| TaskId { number, index: 0 };
        let stick = |numbers: std::ops::Range<u64>| {
            for number in numbers {
                let (location, added) = (Location::caller(), Timestamp::now());
                let identity = Identity { id: id(number), name: "task".into(), location, added };
                shared.abandoned.insert_running(identity, added, || true);
            }
        };
        let mut look = || {
            assert!(shared.log_stuck(&mut logged));
            lines.take()
        };
        stick(0..150);
        assert_eq!(look(), [100, 1, 0]);
        assert_eq!(look()[1..], [0, 0]);
        stick(150..199);
        assert_eq!(look()[1..], [0, 0]);
        stick(199..200);
        assert_eq!(look()[1..], [1, 0]);
        shared.abandoned.returned(id(7));
        assert_eq!(look()[1..], [0, 1]);
    }
}
