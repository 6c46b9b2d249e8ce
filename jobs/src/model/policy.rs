//! How often and how long jobs are tried.

use std::time::Duration;

use postlude::{Priority, RetryPolicy};

/// How often and how long the jobs of one kind are tried.
///
/// # Default
/// - [`max_attempts`](Self::max_attempts) 25, [`max_crashes`](Self::max_crashes) 3
/// - [`backoff`](Self::backoff): n⁴ + 15 seconds after the nth failure, counted from 0, and up to 10 · (n + 1) seconds of
///   jitter, as Sidekiq does: 25 attempts take some 17 days, so that an outage of minutes or hours kills no job
/// - [`timeout`](Self::timeout): that of the registry
/// - [`priority`](Self::priority): [`Priority::Normal`]
///
/// ```
/// use std::time::Duration;
/// use postlude::RetryPolicy;
/// use postlude_jobs::JobPolicy;
///
/// let policy = JobPolicy::default()
///     .max_attempts(5)
///     .backoff(RetryPolicy::exponential().max_delay(Duration::from_secs(60)));
/// # drop(policy);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a policy does nothing until `Job::policy` returns it"]
pub struct JobPolicy {
    pub(crate) max_attempts: u32,
    pub(crate) max_crashes: u32,
    backoff: Option<RetryPolicy>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Priority,
}

impl JobPolicy {
    /// After how many failures a job is dead. Zero counts as 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// After how many crashes a job is dead: runs during which its worker's process ended, or lost its lease. Zero
    /// counts as 1.
    pub fn max_crashes(mut self, crashes: u32) -> Self {
        self.max_crashes = crashes.max(1);
        self
    }

    /// The delays between two attempts. Only the delays of the policy are used, with their jitter: how often a job is
    /// tried is [`max_attempts`](Self::max_attempts).
    pub fn backoff(mut self, policy: RetryPolicy) -> Self {
        self.backoff = Some(policy);
        self
    }

    /// Ends an attempt that takes longer than `limit`, as [`Task::timeout`](postlude::Task::timeout) does. The lease of
    /// a job is renewed while it runs, so the time limit may be longer than the lease.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Which jobs are reserved first, and which of the reserved ones start first.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The delay after the given number of failures, at least 1.
    pub(crate) fn delay_after(&self, failures: u32) -> Duration {
        match &self.backoff {
            Some(policy) => policy.delay_after(failures).unwrap_or_default(),
            None => default_delay(failures, fastrand::f64()),
        }
    }
}

impl Default for JobPolicy {
    fn default() -> Self {
        Self { max_attempts: 25, max_crashes: 3, backoff: None, timeout: None, priority: Priority::Normal }
    }
}

/// Sidekiq's formula. `random` is uniform between 0 and 1.
fn default_delay(failures: u32, random: f64) -> Duration {
    // Beyond some hundred failures the delay is a century, and no longer grows.
    let nth = u64::from(failures.saturating_sub(1).min(200));
    let jitter = Duration::from_secs(10 * (nth + 1)).mul_f64(random.clamp(0.0, 1.0));
    Duration::from_secs(nth.pow(4) + 15) + jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_delay_is_sidekiqs() {
        for (failures, random, seconds) in [(1, 0.0, 15), (2, 0.0, 16), (3, 0.0, 31), (3, 1.0, 61), (25, 0.0, 331_791)]
        {
            assert_eq!(default_delay(failures, random), Duration::from_secs(seconds), "{failures}, {random}");
        }
        default_delay(u32::MAX, f64::NAN.max(1.0));
    }

    #[test]
    fn twenty_four_default_delays_take_some_17_days() {
        let all: Duration = (1..25).map(|failures| default_delay(failures, 0.5)).sum();
        assert_eq!(all.as_secs() / 86_400, 16, "{all:?}");
    }

    #[test]
    fn a_backoff_of_ones_own_replaces_the_default() {
        let policy = JobPolicy::default().backoff(RetryPolicy::constant(Duration::from_secs(2)));
        assert_eq!(policy.delay_after(9), Duration::from_secs(2));
        let empty = JobPolicy::default().backoff(RetryPolicy::delays([]));
        assert_eq!(empty.delay_after(1), Duration::ZERO);
    }
}
