//! The requests that are being handled.

use std::{pin::pin, sync::Arc};

use tokio::sync::Notify;

use crate::{
    engine::shared::Shared,
    util::loom::atomic::{AtomicUsize, Ordering},
};

/// How many requests are in flight: from the call of the service until there is the head of a response, or none will
/// come.
#[derive(Default)]
pub(crate) struct Requests {
    count: AtomicUsize,
    none_left: Notify,
}

impl Requests {
    pub(crate) fn count(&self) -> usize {
        // SeqCst: see `RequestGuard::drop`.
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until no request is in flight. Only for a shutdown that has begun.
    pub(crate) async fn wait_none(&self) {
        loop {
            let mut none_left = pin!(self.none_left.notified());
            none_left.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            none_left.await;
        }
    }
}

/// Counts a request as in flight until dropped.
pub(crate) struct RequestGuard(Arc<Shared>);

impl RequestGuard {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        // SeqCst: see `drop`.
        shared.requests.count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let requests = &self.0.requests;
        // SeqCst, with the flag of the shutdown: either this sees that one has begun, or the shutdown sees this count.
        if requests.count.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.losses.has_begun() {
            self.0.telemetry.run_foreign("a waker", || requests.none_left.notify_waiters());
        }
    }
}
