//! What starts a batch early, and keeps batches in order.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// What a batch and its task share while the batch waits for more items.
pub(crate) struct BatchSignal {
    /// Cancelled when the batch need not wait for more items.
    pub(crate) ready: CancellationToken,
    /// The [`gone`](Self::gone) of the batch before.
    pub(crate) previous: OnceLock<CancellationToken>,
    /// Cancelled when the batch has entered the queue of its name, or has ended.
    pub(crate) gone: CancellationToken,
}

/// What the task of a batch holds until it has entered its queue.
pub(crate) struct BatchGuard(pub(crate) Arc<BatchSignal>);

impl BatchGuard {
    pub(crate) fn is_ready(&self) -> WaitForCancellationFuture<'_> {
        self.0.ready.cancelled()
    }

    /// Waits until the batch before has gone. That one was ready when this one was begun, or has ended.
    pub(crate) async fn in_order(&self) {
        if let Some(previous) = self.0.previous.get() {
            previous.cancelled().await;
        }
    }
}

impl Drop for BatchGuard {
    fn drop(&mut self) {
        self.0.gone.cancel();
    }
}
