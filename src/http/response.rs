use std::{mem, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    engine::{
        context::{Entered, TaskContext},
        hold::Hold,
        queue::SetQueue,
    },
    http::release::releasing,
    model::{Ending, TaskId},
};

/// What it takes to launch a request's set. A handle of the set, kept in the form in which it becomes the current one.
pub(crate) struct ResponseGuard {
    scope: TaskContext,
    drain_within: Duration,
}

impl ResponseGuard {
    pub(crate) fn new(line: Arc<SetQueue>, drain_within: Duration) -> Self {
        line.handle_made();
        Self::counted(line, drain_within)
    }

    /// A handle that the line has counted.
    pub(crate) const fn counted(line: Arc<SetQueue>, drain_within: Duration) -> Self {
        Self { scope: TaskContext::Request(line), drain_within }
    }

    /// For calls into what answers the request: makes its set the current one.
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        Entered::new(&mut self.scope, TaskId::UNASSIGNED)
    }

    /// Whether there may be something to launch: a task was offered.
    pub(crate) fn has_tasks(&self) -> bool {
        self.line().is_some_and(|line| line.has_number())
    }

    /// A chunk of the body on its way to the server, in a form that tells when it was released.
    pub(crate) fn watch(&self, chunk: Bytes) -> Bytes {
        match self.line() {
            Some(line) if !chunk.is_empty() => releasing(chunk, Hold::of_chunk(Arc::clone(line), self.drain_within)),
            _ => chunk,
        }
    }

    /// There is a response, whose end is still to come.
    pub(crate) fn answered(&self, ending: Ending) {
        if let Some(line) = self.line() {
            line.answered(ending);
        }
    }

    /// Launches the set when the response, which has ended, has left.
    pub(crate) fn end(mut self, ending: Ending) {
        // This handle is not given back: from here on, the last one has nothing to launch any more.
        let TaskContext::Request(line) = mem::take(&mut self.scope) else { return };
        // Nothing was ever offered, and nothing will be, if nobody else has a handle.
        if line.is_sole() && !line.has_number() {
            return;
        }
        Hold::of_body(line, self.drain_within).body_ended(ending);
    }

    const fn line(&self) -> Option<&Arc<SetQueue>> {
        match &self.scope {
            TaskContext::Request(line) => Some(line),
            // Only while it is entered.
            TaskContext::None | TaskContext::InSet(_) | TaskContext::Spawned(_) | TaskContext::AttemptState(_) => None,
        }
    }
}

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        if let Some(line) = self.line() {
            line.handle_dropped();
        }
    }
}
