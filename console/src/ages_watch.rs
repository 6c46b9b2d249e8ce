//! The ages of the oldest tasks, looked for by one request at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use postlude::{TaskAges, TaskRegistry};
use tokio::{sync::watch, time::timeout};

use crate::health::NeededAges;

/// How long a request waits for a look: enough for one at some hundred thousand tasks.
const MAX_WAIT: Duration = Duration::from_millis(50);

/// The ages of the oldest tasks: found by one look at a time, beside the requests that ask for them. A request that
/// can't wait for its look gets the result of the one before.
#[derive(Debug, Default)]
pub(crate) struct AgesWatch {
    is_looking: AtomicBool,
    ages: watch::Sender<TaskAges>,
}

impl AgesWatch {
    pub(crate) async fn ages(self: &Arc<Self>, registry: &TaskRegistry, needed: NeededAges) -> TaskAges {
        if needed == NeededAges::None {
            return TaskAges::default();
        }
        // Before the look begins, so that its result is not missed.
        let mut ages = self.ages.subscribe();
        // Relaxed: the result comes through the channel.
        if !self.is_looking.swap(true, Ordering::Relaxed) {
            self.look(registry.clone(), needed);
        }
        // Of a look that takes longer, a later request gets the result.
        let _in_time = timeout(MAX_WAIT, ages.changed()).await;
        *ages.borrow()
    }

    #[expect(clippy::disallowed_methods, reason = "a look at the registry is no task of its own, and may be lost")]
    fn look(self: &Arc<Self>, registry: TaskRegistry, needed: NeededAges) {
        let look = Look(Arc::clone(self));
        tokio::spawn(async move {
            let ages = if needed == NeededAges::All {
                registry.ages().await
            } else {
                // It looks at no task if none is pending.
                let mut ages = TaskAges::default();
                ages.pending = registry.oldest_pending().await;
                ages
            };
            look.0.ages.send_replace(ages);
        });
    }
}

/// A look that is being taken. Dropped with its task, also if the runtime ends it.
struct Look(Arc<AgesWatch>);

impl Drop for Look {
    fn drop(&mut self) {
        self.0.is_looking.store(false, Ordering::Relaxed);
    }
}
