//! What a task that has used up its attempts leaves.

use std::{collections::VecDeque, mem};

use crate::{model::Attempt, task::work::BoxedWork, util::panic::drop_catching};

/// How many attempts a dead letter keeps: enough for the defaults of Celery and Sidekiq, and a bound for a policy that never
/// ends.
const MAX_KEPT: usize = 32;

/// What a task that has used up its attempts leaves.
pub(crate) struct Exhausted {
    pub(crate) failed: FailedAttempts,
    /// What can make another attempt.
    pub(crate) source: BoxedWork,
}

/// The attempts before the last one, as far as they are kept.
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
    /// One by one, because the drop of each may panic.
    fn drop(&mut self) {
        self.0.drain(..).for_each(drop_catching);
    }
}
