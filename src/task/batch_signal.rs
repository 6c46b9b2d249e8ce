//! Starts batches early, and keeps them in order.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Shared by a batch and its task while the batch waits for more items.
pub(crate) struct BatchSignal {
    /// Cancelled when the batch should not wait for more items.
    pub(crate) ready: CancellationToken,
    /// The [`gone`](Self::gone) of the previous batch.
    pub(crate) previous: OnceLock<CancellationToken>,
    /// Cancelled when the batch has entered the queue of its name, or has ended.
    pub(crate) gone: CancellationToken,
}

/// Held by the task of a batch until it has entered its queue. Cancels [`gone`](BatchSignal::gone) when dropped.
pub(crate) struct BatchGuard(pub(crate) Arc<BatchSignal>);

impl BatchGuard {
    pub(crate) fn is_ready(&self) -> WaitForCancellationFuture<'_> {
        self.0.ready.cancelled()
    }

    /// Waits until the previous batch is gone. This ends, because the previous batch was ready or had ended when this
    /// one began.
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
