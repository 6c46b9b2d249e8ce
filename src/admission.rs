//! Permits: who may start next.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::task::Kind;

/// The permits of a registry: first in, first out.
pub(crate) struct Permits {
    /// `None`: no limit, and nothing to wait for.
    tasks: Option<Arc<Semaphore>>,
    blocking: Arc<Semaphore>,
}

impl Permits {
    pub(crate) fn new(max_concurrent: Option<usize>, max_blocking: usize) -> Self {
        Self {
            tasks: max_concurrent.map(|limit| Arc::new(Semaphore::new(limit))),
            blocking: Arc::new(Semaphore::new(max_blocking)),
        }
    }

    /// Whether async tasks may start at once.
    pub(crate) const fn are_unlimited(&self) -> bool {
        self.tasks.is_none()
    }

    /// Waits for a turn. Cancel safe: given up, it leaves the queue.
    pub(crate) async fn acquire(&self, kind: Kind) -> Option<OwnedSemaphorePermit> {
        let permits = match kind {
            Kind::Async => self.tasks.as_ref()?,
            Kind::Blocking => &self.blocking,
        };
        // Fails only for a closed semaphore, and nobody closes these.
        Arc::clone(permits).acquire_owned().await.ok()
    }
}
