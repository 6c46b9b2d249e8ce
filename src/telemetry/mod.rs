//! Who is told of tasks.

pub(crate) mod log;
pub(crate) mod observer;
pub(crate) mod span;
pub(crate) mod subscription;

use std::sync::{Arc, OnceLock};

use crate::{
    model::{TaskInfo, TaskReport},
    telemetry::{observer::TaskObserver, subscription::EventBuffer},
};

/// Everybody who is told: the observers, which are called, and the subscribers, who read at their own pace.
#[derive(Default)]
pub(crate) struct Telemetry {
    pub(crate) observers: Vec<Arc<dyn TaskObserver>>,
    /// Whether one of them cares for more than failures.
    attentive: bool,
    /// Made for the first subscriber.
    pub(crate) buffer: OnceLock<Arc<EventBuffer>>,
}

impl Telemetry {
    pub(crate) fn push(&mut self, observer: Arc<dyn TaskObserver>, attentive: bool) {
        self.observers.push(observer);
        self.attentive |= attentive;
    }

    /// Whether anybody is to be told of what is no failure.
    #[inline]
    pub(crate) fn has_observers(&self) -> bool {
        self.attentive || self.buffer().is_some()
    }

    /// The buffer, if anybody reads it.
    pub(crate) fn buffer(&self) -> Option<&Arc<EventBuffer>> {
        self.buffer.get().filter(|buffer| buffer.has_readers())
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.get() {
            buffer.close();
        }
    }
}

/// Something that is told of a task.
#[derive(Clone, Copy)]
pub(crate) enum EventRef<'a> {
    Added(&'a TaskInfo),
    Started(&'a TaskInfo),
    AttemptFailed(&'a TaskReport),
    Finished(&'a TaskReport),
}
