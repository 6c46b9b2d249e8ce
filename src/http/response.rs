//! Drains the set of a request when its response has left.

use std::{mem, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    engine::{
        context::{Entered, TaskContext},
        queue::SetQueue,
        requests::RequestGuard,
    },
    http::release::{Hold, releasing},
    model::{Ending, TaskId},
};

/// What it takes to launch a request's set. A handle of the set, kept in the form in which it becomes the current one.
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

    /// For calls into what answers the request: makes its set the current one.
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        Entered::new(&mut self.context, TaskId::UNASSIGNED)
    }

    /// Counts the request as in flight.
    pub(crate) fn request(&self) -> Option<RequestGuard> {
        self.queue().map(|queue| RequestGuard::new(queue.shared()))
    }

    /// Whether there may be something to launch: a task was offered.
    pub(crate) fn has_tasks(&self) -> bool {
        self.queue().is_some_and(|queue| queue.has_number())
    }

    /// A chunk of the body on its way to the server, in a form that tells when it was released.
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

    /// Launches the set when the response, which has ended, has left.
    pub(crate) fn end(mut self, ending: Ending) {
        // This handle is not given back: from here on, the last one has nothing to launch any more.
        let TaskContext::Request(queue) = mem::take(&mut self.context) else { return };
        // Nothing was ever offered, and nothing will be, if nobody else has a handle.
        if queue.is_sole() && !queue.has_number() {
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
