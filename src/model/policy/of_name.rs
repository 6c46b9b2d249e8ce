//! What holds for the tasks of one name.

use std::time::Duration;

use super::RetryPolicy;
use crate::model::{error::BuildError, name::TaskName};

/// What holds for the tasks of one name that say nothing else: see
/// [`TaskRegistryBuilder::policy`](crate::TaskRegistryBuilder::policy).
///
/// # Default
/// Nothing: the tasks of the name are like others.
///
/// ```
/// use std::time::Duration;
/// use postlude::{NamePolicy, RetryPolicy};
///
/// let policy = NamePolicy::default()
///     .timeout(Duration::from_secs(30))
///     .expires_after(Duration::from_secs(600))
///     .retry(RetryPolicy::exponential().attempts(8));
/// # let _ = policy;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a policy does nothing until it is given to a builder"]
pub struct NamePolicy {
    pub(crate) timeout: Option<Duration>,
    pub(crate) expires_after: Option<Duration>,
    pub(crate) retry: Option<RetryPolicy>,
}

impl NamePolicy {
    /// The time limit for attempts of tasks without a [`timeout`](crate::Task::timeout) of their own, in place of the
    /// registry's [`default_timeout`](crate::TaskRegistryBuilder::default_timeout). With `Duration::MAX` they have
    /// none.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// The time within which tasks must start that have no [`expires_after`](crate::Task::expires_after) of their own. The
    /// batches of a [`Batcher`](crate::Batcher) do not expire.
    pub fn expires_after(mut self, wait: Duration) -> Self {
        self.expires_after = Some(wait);
        self
    }

    /// The policy of [retrying](crate::Task::retrying) tasks that have the default one:
    /// see [`RetryPolicy::default`](RetryPolicy#impl-Default-for-RetryPolicy). Other tasks are not retried because of
    /// it: what they do can be done only once.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Whether it sets anything.
    #[cfg(feature = "serde")]
    pub(crate) const fn is_some(&self) -> bool {
        self.timeout.is_some() || self.expires_after.is_some() || self.retry.is_some()
    }

    /// # Errors
    /// If a time is zero.
    pub(crate) fn check(&self, name: TaskName) -> Result<(), BuildError> {
        for (setting, time) in [("timeout", self.timeout), ("expires_after", self.expires_after)] {
            if time == Some(Duration::ZERO) {
                return Err(BuildError::ZeroTimeOfName { setting, name });
            }
        }
        Ok(())
    }
}
