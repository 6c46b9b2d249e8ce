//! How long a worker waits for an engine that fails.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Delays that double, with jitter, so that workers do not come back all at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a success. Returns whether there was a failure before.
    pub(crate) fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }

    /// Notes a failure: how long to wait, and whether to warn of it, which is done at the first failure and at each
    /// doubling.
    pub(crate) fn failed(&mut self) -> (Duration, bool) {
        self.failures = self.failures.saturating_add(1);
        (delay(self.failures, fastrand::f64()), self.failures.is_power_of_two())
    }
}

fn delay(failures: u32, random: f64) -> Duration {
    let doubled = FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(LONGEST).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        for (failures, random, millis) in
            [(1, 1.0, 100), (1, 0.0, 50), (3, 1.0, 400), (30, 1.0, 10_000), (u32::MAX, 0.0, 5_000)]
        {
            assert_eq!(delay(failures, random), Duration::from_millis(millis), "{failures}");
        }
    }

    #[test]
    fn warns_at_the_first_failure_and_at_each_doubling() {
        let mut backoff = Backoff::default();
        let warned: Vec<bool> = (0..5).map(|_| backoff.failed().1).collect();
        assert_eq!(warned, [true, true, false, true, false]);
        assert!(backoff.succeeded());
        assert!(!backoff.succeeded());
    }
}
