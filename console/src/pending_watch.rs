//! The age of the oldest pending task, looked for by one request at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use postlude::TaskRegistry;
use tokio::{sync::watch, time::timeout};

/// How long a request waits for a look: enough for one at some hundred thousand tasks.
const MAX_WAIT: Duration = Duration::from_millis(50);

/// How long the oldest pending task has been waiting: found by one look at a time, beside the requests that ask for it.
/// A request that can't wait for its look gets the result of the one before.
#[derive(Debug, Default)]
pub(crate) struct PendingWatch {
    is_looking: AtomicBool,
    oldest: watch::Sender<Duration>,
}

impl PendingWatch {
    pub(crate) async fn oldest(self: &Arc<Self>, registry: &TaskRegistry) -> Duration {
        // Before the look begins, so that its result is not missed.
        let mut oldest = self.oldest.subscribe();
        // Relaxed: the result comes through the channel.
        if !self.is_looking.swap(true, Ordering::Relaxed) {
            self.look(registry.clone());
        }
        // Of a look that takes longer, a later request gets the result.
        let _in_time = timeout(MAX_WAIT, oldest.changed()).await;
        *oldest.borrow()
    }

    #[expect(clippy::disallowed_methods, reason = "a look at the registry is no task of its own, and may be lost")]
    fn look(self: &Arc<Self>, registry: TaskRegistry) {
        let look = Look(Arc::clone(self));
        tokio::spawn(async move {
            let oldest = registry.oldest_pending().await;
            look.0.oldest.send_replace(oldest);
        });
    }
}

/// A look that is being taken. Dropped with its task, also if the runtime ends it.
struct Look(Arc<PendingWatch>);

impl Drop for Look {
    fn drop(&mut self) {
        self.0.is_looking.store(false, Ordering::Relaxed);
    }
}
