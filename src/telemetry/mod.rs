//! Who is told of tasks.

pub(crate) mod log;
pub(crate) mod observer;
pub(crate) mod span;
pub(crate) mod subscription;

use std::sync::{Arc, OnceLock};

use crate::{
    model::{TaskInfo, TaskReport},
    telemetry::{observer::TaskObserver, subscription::Feed},
};

/// Everybody who is told: the observers, which are called, and the subscribers, who read at their own pace.
#[derive(Default)]
pub(crate) struct Audience {
    pub(crate) observers: Vec<Arc<dyn TaskObserver>>,
    /// Whether one of them cares for more than failures.
    attentive: bool,
    /// Made for the first subscriber.
    pub(crate) feed: OnceLock<Arc<Feed>>,
}

impl Audience {
    pub(crate) fn push(&mut self, observer: Arc<dyn TaskObserver>, attentive: bool) {
        self.observers.push(observer);
        self.attentive |= attentive;
    }

    /// Whether anybody is to be told of what is no failure.
    #[inline]
    pub(crate) fn is_attentive(&self) -> bool {
        self.attentive || self.feed().is_some()
    }

    /// The feed, if anybody reads it.
    pub(crate) fn feed(&self) -> Option<&Arc<Feed>> {
        self.feed.get().filter(|feed| feed.has_readers())
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        if let Some(feed) = self.feed.get() {
            feed.close();
        }
    }
}

/// Something that is told of a task.
#[derive(Clone, Copy)]
pub(crate) enum News<'a> {
    Added(&'a TaskInfo),
    Started(&'a TaskInfo),
    AttemptFailed(&'a TaskReport),
    Finished(&'a TaskReport),
}
