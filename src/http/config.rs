//! The settings of a `TaskLayer`, and their defaults.

use std::{sync::Arc, time::Duration};

use crate::{
    engine::set_queue::{DrainCondition, SetQueue},
    http::response::ResponseGuard,
    registry::{TaskRegistry, set::TaskSet},
};

/// The default of [`TaskLayer::drain_within`](crate::TaskLayer::drain_within); also used where no layer sets it.
pub(crate) const DEFAULT_DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// The settings of a [`TaskLayer`](crate::TaskLayer), which all its requests share.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) registry: TaskRegistry,
    pub(crate) drain_when: Option<Arc<DrainCondition>>,
    pub(crate) drain_within: Duration,
    pub(crate) sheds: bool,
}

impl Config {
    pub(crate) const fn new(registry: TaskRegistry) -> Self {
        Self { registry, drain_when: None, drain_within: DEFAULT_DRAIN_WITHIN, sheds: false }
    }

    /// A set for a request, and the guard that drains it.
    pub(crate) fn set(&self) -> (TaskSet, ResponseGuard) {
        let queue = SetQueue::new(self.registry.clone(), self.drain_when.clone(), 2);
        let guard = ResponseGuard::counted(Arc::clone(&queue), self.drain_within);
        (TaskSet::counted(queue), guard)
    }
}
