use std::sync::Arc;

use super::{Ending, gate::BodyGate, layer::Config};
use crate::TaskSet;

/// What it takes to launch a request's set.
pub(crate) struct Launch {
    pub(crate) set: TaskSet,
    config: Arc<Config>,
}

impl Launch {
    pub(crate) const fn new(set: TaskSet, config: Arc<Config>) -> Self {
        Self { set, config }
    }

    /// A gate that opens when the bytes it has counted have left.
    pub(crate) fn gate(&self) -> Arc<BodyGate> {
        Arc::new(BodyGate::new(Arc::clone(&self.config)))
    }

    /// Launches the set behind a gate.
    pub(crate) fn behind(self, gate: Arc<BodyGate>, ending: Ending) {
        gate.body_ended();
        self.set.line().launch(Some(gate), Some(ending));
    }

    /// Launches the set after a response whose end has no bytes that could tell when it has left.
    pub(crate) fn without_bytes(self, ending: Ending) {
        if self.is_over() {
            return;
        }
        let gate = self.gate();
        self.behind(gate, ending);
    }

    /// Whether the set is empty and will stay so, because nobody else has a handle of it.
    fn is_over(&self) -> bool {
        let line = self.set.line();
        line.is_sole() && (!line.has_number() || self.set.is_empty())
    }
}
