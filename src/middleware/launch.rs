use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Ending,
    departure::{self, Departure},
};
use crate::{
    TaskId,
    line::Line,
    scope::{Entered, Scope},
};

/// What it takes to launch a request's set. A handle of the set, kept in the form in which it becomes the current one.
pub(crate) struct Launch {
    scope: Scope,
    launch_within: Duration,
}

impl Launch {
    pub(crate) fn new(line: Arc<Line>, launch_within: Duration) -> Self {
        line.handle_made();
        Self { scope: Scope::Request(line), launch_within }
    }

    /// For calls into what answers the request: makes its set the current one.
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        Entered::new(&mut self.scope, TaskId::UNASSIGNED)
    }

    /// A chunk of the body on its way to the server; watched, if there is something to launch.
    pub(crate) fn watch(&self, departure: &mut Option<Arc<Departure>>, chunk: Bytes) -> Bytes {
        match self.line() {
            Some(line) if !chunk.is_empty() && line.has_number() && line.len() > 0 => {
                departure.get_or_insert_with(|| Departure::new(Arc::clone(line), self.launch_within)).watch(chunk)
            }
            _ => chunk,
        }
    }

    /// There is a response, whose end is still to come.
    pub(crate) fn answered(&self, ending: Ending) {
        if let Some(line) = self.line() {
            line.answered(ending);
        }
    }

    /// Launches the set after a response whose end has no bytes that could tell when it has left.
    pub(crate) fn without_bytes(self, ending: Ending) {
        let Some(line) = self.line() else { return };
        // Empty, and it will stay so, if nobody else has a handle.
        let is_over = line.is_sole() && (!line.has_number() || line.len() == 0);
        if !is_over && line.depart(ending) {
            departure::last_bytes_left(line, self.launch_within);
        }
    }

    const fn line(&self) -> Option<&Arc<Line>> {
        match &self.scope {
            Scope::Request(line) => Some(line),
            // Only while it is entered.
            Scope::None | Scope::InSet(_) | Scope::Spawned(_) | Scope::Apart(_) => None,
        }
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        if let Some(line) = self.line() {
            line.handle_dropped();
        }
    }
}
