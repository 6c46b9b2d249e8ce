//! A mark on the current task of a set that tells whether it is inside a poll.

use crate::util::loom::atomic::{AtomicU64, Ordering};

/// The index of a set's current task, and the state of its drain: idle, polling or stopped.
///
/// If a stopped task is not being polled, its drain drops the future before the next task starts. If it is inside a
/// poll, the future can't be dropped: it is abandoned, and another drain takes over. The mark distinguishes the two
/// cases without a lock on the poll path. It contains the index, so that a drain that returns from an abandoned task
/// does not change the mark of the next task.
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
    /// Marks the task as current and not being polled. Called under the queue's lock.
    pub(crate) fn set_idle(&self, index: u64) {
        // Release, here and below: a thread that sees the mark sees the task as the current one.
        self.0.store(mark(index, IDLE), Ordering::Release);
    }

    /// Marks the task as current and being polled. Called under the queue's lock.
    #[inline]
    pub(crate) fn set_polling(&self, index: u64) {
        self.0.store(mark(index, POLLING), Ordering::Release);
    }

    /// Clears the mark, because the task sleeps and is no longer the current one. Called under the queue's lock.
    pub(crate) fn clear(&self) {
        self.0.store(NONE, Ordering::Release);
    }

    /// Marks the start of a poll. `false` if the task was stopped, or is not the current one.
    #[inline]
    pub(crate) fn begin(&self, index: u64) -> bool {
        self.replace(index, IDLE, mark(index, POLLING))
    }

    /// Marks the end of a poll that returned `Pending`. `false` if the task was abandoned meanwhile, or is not the
    /// current one.
    #[inline]
    pub(crate) fn end(&self, index: u64) -> bool {
        self.replace(index, POLLING, mark(index, IDLE))
    }

    /// Stops the current task. Returns `true` if it is inside a poll: it is abandoned. Otherwise its drain finds it
    /// stopped, drops it and goes on. Called under the queue's lock.
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
