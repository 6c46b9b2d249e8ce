//! Drains the set of a request when its response has left.

use std::{mem, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    engine::{
        context::{Entered, TaskContext},
        hold::HoldLimit,
        requests::RequestGuard,
        set_queue::SetQueue,
    },
    http::{
        config::DEFAULT_DRAIN_WITHIN,
        release::{Hold, releasing},
    },
    model::{Ending, TaskId},
};

/// Drains a request's set when dropped. Stored as a `TaskContext`, so that entering it copies nothing.
pub(crate) struct ResponseGuard {
    context: TaskContext,
    drain_within: Duration,
}

impl ResponseGuard {
    pub(crate) fn new(queue: Arc<SetQueue>, drain_within: Duration) -> Self {
        queue.handle_made();
        Self::counted(queue, drain_within)
    }

    /// A handle that the queue has counted.
    pub(crate) const fn counted(queue: Arc<SetQueue>, drain_within: Duration) -> Self {
        Self { context: TaskContext::Request(queue), drain_within }
    }

    /// Guard for a call into the handler or the body: makes the request's set the current one.
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        Entered::new(&mut self.context, TaskId::UNASSIGNED)
    }

    /// Counts the request as in flight.
    pub(crate) fn request(&self) -> Option<RequestGuard> {
        self.queue().map(|queue| RequestGuard::new(queue.shared()))
    }

    /// Whether a task was offered, or may be by somebody else.
    pub(crate) fn may_have_tasks(&self) -> bool {
        self.queue().is_some_and(|queue| queue.may_have_tasks())
    }

    /// The same chunk, in a form that holds the set until the server releases it.
    pub(crate) fn watch(&self, chunk: Bytes) -> Bytes {
        match self.queue() {
            Some(queue) if !chunk.is_empty() => releasing(chunk, Hold::of_chunk(Arc::clone(queue), self.drain_within)),
            _ => chunk,
        }
    }

    /// There is a response, whose end is still to come.
    pub(crate) fn response_ready(&self, ending: Ending) {
        if let Some(queue) = self.queue() {
            queue.response_ready(ending);
        }
    }

    /// The server has polled the body.
    pub(crate) fn polled(&self, is_pending: bool) {
        if let Some(queue) = self.queue() {
            queue.holds.polled(is_pending);
        }
    }

    /// From here on, the wait for the client has a limit.
    pub(crate) fn start_limit(&self, is_pending: bool) {
        if let Some(queue) = self.queue() {
            if is_pending {
                queue.holds.polled(true);
            }
            // Zero means not to wait for bytes. That a client takes none must still not hold the set for ever.
            let within = if self.drain_within.is_zero() { DEFAULT_DRAIN_WITHIN } else { self.drain_within };
            HoldLimit::start(queue, within);
        }
    }

    /// Drains the set when the response, which has ended, has left.
    pub(crate) fn end(mut self, ending: Ending) {
        // This handle stays counted, so that the last one of the others does not drain the set.
        let TaskContext::Request(queue) = mem::take(&mut self.context) else { return };
        if !queue.may_have_tasks() {
            return;
        }
        Hold::of_body(queue, self.drain_within).body_ended(ending);
    }

    const fn queue(&self) -> Option<&Arc<SetQueue>> {
        match &self.context {
            TaskContext::Request(queue) => Some(queue),
            // Only while it is entered.
            TaskContext::None | TaskContext::InSet(_) | TaskContext::Spawned(_) | TaskContext::Closure(_) => None,
        }
    }
}

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        if let Some(queue) = self.queue() {
            queue.handle_dropped();
        }
    }
}
