//! What happens to a task whose key is live.

use std::time::Duration;

/// What happens to a task if another live task of its name has the same [key](crate::Task::key): see
/// [`Task::unique`](crate::Task::unique).
///
/// A task that does not run for its key ends as [`DiscardReason::Duplicate`](crate::DiscardReason::Duplicate). Its
/// report names the other task: [`TaskReport::duplicate_of`](crate::TaskReport::duplicate_of).
///
/// | policy | the other task is pending | the other task has started |
/// |---|---|---|
/// | [`join`](Self::join) | the new task is a duplicate of it | the same |
/// | [`skip`](Self::skip) | the new task is refused | the same |
/// | [`replace`](Self::replace) | the other task is a duplicate of the new one | the new task waits for its end |
///
/// ```
/// use std::time::Duration;
/// use postlude::{Task, UniquePolicy};
///
/// # async fn reindex(_document: u64) {}
/// # fn changed(document: u64) -> Task {
/// // Two seconds after the last change, and a minute after the first one at the latest.
/// let policy = UniquePolicy::replace().put_off_at_most(Duration::from_secs(60));
/// Task::new(reindex(document))
///     .named("reindex")
///     .key(document)
///     .unique(policy)
///     .delay(Duration::from_secs(2))
/// # }
/// # drop(changed(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a policy does nothing until it is given to a task"]
pub struct UniquePolicy {
    pub(crate) if_live: IfLive,
    pub(crate) abort_running: bool,
    pub(crate) put_off_at_most: Option<Duration>,
}

/// What happens if the key is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfLive {
    Join,
    Skip,
    Replace,
}

impl UniquePolicy {
    const fn new(if_live: IfLive) -> Self {
        Self { if_live, abort_running: false, put_off_at_most: None }
    }

    /// The new task is accepted and ends at once as a duplicate of the other one, which does the work for both.
    /// [`TaskHandle::joined`](crate::TaskHandle::joined) returns the id of the other one.
    ///
    /// If the other task may have read its data before a change that the new task is about, use
    /// [`replace`](Self::replace).
    pub const fn join() -> Self {
        Self::new(IfLive::Join)
    }

    /// The new task is refused: `try_spawn` and `try_add` hand it back with
    /// [`RejectReason::Duplicate`](crate::RejectReason::Duplicate), `spawn` and `add` discard it. In a set that does not
    /// drain yet, the task is accepted, and is discarded if the key is live when the set begins to drain.
    pub const fn skip() -> Self {
        Self::new(IfLive::Skip)
    }

    /// The new task replaces one that has not started. If the other task has started, the new one waits for its end,
    /// so that no change is missed. Only one task waits: it is replaced, too.
    ///
    /// With a [delay](crate::Task::delay), each new task starts the delay again.
    /// [`put_off_at_most`](Self::put_off_at_most) bounds that. A new task without a delay keeps the place of the one
    /// that it replaces among those that wait for a limit, so a task that is replaced again and again is not overtaken.
    pub const fn replace() -> Self {
        Self::new(IfLive::Replace)
    }

    /// With [`replace`](Self::replace): aborts the other task if it has started. The new task starts when the other one
    /// has its outcome. A closure can't be stopped, and may still be running then: a
    /// [`limit_by_key`](crate::TaskRegistryBuilder::limit_by_key) of 1 makes the new task wait until it has returned.
    pub const fn abort_running(mut self) -> Self {
        self.abort_running = true;
        self
    }

    /// With [`replace`](Self::replace): for how long a [delay](crate::Task::delay) may be started again, from the first
    /// of the tasks that were replaced one after another. When the time is over, the latest of them starts. With zero,
    /// no delay is started again.
    pub const fn put_off_at_most(mut self, time: Duration) -> Self {
        self.put_off_at_most = Some(time);
        self
    }
}
