//! The settings of a `TaskLayer`, and their defaults.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;

use crate::{
    engine::{
        request_line::RequestLine,
        set_queue::{DrainCondition, SetQueue},
    },
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
    /// Whether it was logged that a layer further out has another registry.
    pub(crate) warned: Arc<AtomicBool>,
}

impl Config {
    pub(crate) fn new(registry: TaskRegistry) -> Self {
        Self { registry, drain_when: None, drain_within: DEFAULT_DRAIN_WITHIN, sheds: false, warned: Arc::default() }
    }

    /// Logs, once, that a layer further out has given the request a set of another registry.
    pub(crate) fn check_given(&self, given: &TaskSet) {
        // Relaxed: nothing else depends on it.
        if Arc::ptr_eq(&given.registry().shared, &self.registry.shared) || self.warned.swap(true, Ordering::Relaxed) {
            return;
        }
        self.registry.shared.telemetry.log(|| {
            tracing::warn!(
                target: "postlude",
                "two `TaskLayer`s of different registries are around one handler: the outer one's registry runs the \
                 tasks of requests, and the inner one's runs none; remove one of the layers"
            );
        });
    }

    /// A set for a request, and the guard that drains it.
    pub(crate) fn set<B>(&self, request: &Request<B>) -> (TaskSet, ResponseGuard) {
        let line = RequestLine::of(request);
        let queue = SetQueue::of_request(self.registry.clone(), self.drain_when.clone(), line);
        let guard = ResponseGuard::counted(Arc::clone(&queue), self.drain_within);
        (TaskSet::counted(queue), guard)
    }
}
