//! Whether the current task of a set is inside a poll.

use crate::util::loom::atomic::{AtomicU64, Ordering};

/// The index of a set's current task, and where its drain stands with it.
///
/// A future that is not being polled is dropped by its drain before the next task starts. A future that is inside a poll
/// can't be dropped: it is abandoned, and another drain goes on. The mark tells the two apart without a lock on the poll
/// path. It carries the index, so that a drain that returns from a poll too late does not take the mark of the next task for
/// its own.
#[derive(Default)]
pub(crate) struct PollMark(AtomicU64);

const IDLE: u64 = 0;

const POLLING: u64 = 1;

const STOPPED: u64 = 2;

/// No task, or one that was abandoned.
const NONE: u64 = 0;

const fn mark(index: u64, state: u64) -> u64 {
    index << 2 | state
}

impl PollMark {
    /// The task is the current one, and not being polled. Under the queue's lock.
    pub(crate) fn set_idle(&self, index: u64) {
        // Release, here and below: whoever sees the mark sees the task as the current one.
        self.0.store(mark(index, IDLE), Ordering::Release);
    }

    /// The task is the current one, and its drain polls it at once. Under the queue's lock.
    #[inline]
    pub(crate) fn set_polling(&self, index: u64) {
        self.0.store(mark(index, POLLING), Ordering::Release);
    }

    /// The task is no longer the current one, because it waits beside the queue. Under the queue's lock.
    pub(crate) fn clear(&self) {
        self.0.store(NONE, Ordering::Release);
    }

    /// The drain begins a poll. `false` if the task was stopped, or is not the current one.
    #[inline]
    pub(crate) fn begin(&self, index: u64) -> bool {
        self.replace(index, IDLE, mark(index, POLLING))
    }

    /// The drain has returned from a poll of a task that waits. `false` if the task was abandoned meanwhile, or is not the
    /// current one.
    #[inline]
    pub(crate) fn end(&self, index: u64) -> bool {
        self.replace(index, POLLING, mark(index, IDLE))
    }

    /// Stops the current task. `true` if it is inside a poll: then it is abandoned. Otherwise its drain finds it stopped,
    /// drops it and goes on. Under the queue's lock.
    pub(crate) fn stop(&self, index: u64) -> bool {
        loop {
            if self.replace(index, IDLE, mark(index, STOPPED)) {
                return false;
            }
            if self.replace(index, POLLING, NONE) {
                return true;
            }
        }
    }

    pub(crate) fn is_stopped(&self, index: u64) -> bool {
        self.0.load(Ordering::Acquire) == mark(index, STOPPED)
    }

    pub(crate) fn is_polling(&self, index: u64) -> bool {
        self.0.load(Ordering::Acquire) == mark(index, POLLING)
    }

    #[inline]
    fn replace(&self, index: u64, from: u64, to: u64) -> bool {
        self.0.compare_exchange(mark(index, from), to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
