//! The remains of a task that has used up its attempts.

use std::{collections::VecDeque, mem};

use crate::{model::Attempt, task::work::BoxedWork, util::panic::drop_catching};

/// The highest number of attempts in a dead letter: enough for the defaults of Celery and Sidekiq, and a bound for
/// policies without a limit.
const MAX_KEPT: usize = 32;

/// The remains of a task that has used up its attempts.
pub(crate) struct Exhausted {
    pub(crate) failed: FailedAttempts,
    /// Can make another attempt.
    pub(crate) source: BoxedWork,
}

/// The attempts before the last one, at most `MAX_KEPT - 1` of them.
#[derive(Default)]
pub(crate) struct FailedAttempts(VecDeque<Attempt>);

impl FailedAttempts {
    pub(crate) fn push(&mut self, attempt: Attempt) {
        if self.0.len() == MAX_KEPT - 1 {
            drop_catching(self.0.pop_front());
        }
        self.0.push_back(attempt);
    }

    pub(crate) fn into_vec(mut self) -> Vec<Attempt> {
        mem::take(&mut self.0).into()
    }
}

impl Drop for FailedAttempts {
    /// Drops the attempts one by one, because each drop may panic.
    fn drop(&mut self) {
        self.0.drain(..).for_each(drop_catching);
    }
}
