//! Where a batch waits for more items.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Where a batch waits for more items, and then for the batches before it to have gone: they join their queue in order.
pub(crate) struct BatchSignal {
    /// Cancelled when it need not wait for more items.
    pub(crate) ready: CancellationToken,
    pub(crate) previous: OnceLock<CancellationToken>,
    /// Cancelled when it waits for nothing but its turn, or has ended.
    pub(crate) gone: CancellationToken,
}

/// What the task of a batch holds until it has gone through its gate.
pub(crate) struct Ticket(pub(crate) Arc<BatchSignal>);

impl Ticket {
    pub(crate) fn is_ready(&self) -> WaitForCancellationFuture<'_> {
        self.0.ready.cancelled()
    }

    /// Waits until the batch before has gone. That was ready when this one was begun, or has ended.
    pub(crate) async fn in_order(&self) {
        if let Some(previous) = self.0.previous.get() {
            previous.cancelled().await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.gone.cancel();
    }
}
