//! When a failed task is retried.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use super::jitter::scaled;
use crate::model::outcome::Outcome;

/// When a failed task is retried, and when it is not.
///
/// ```
/// use std::{io, time::Duration};
/// use postlude::RetryPolicy;
///
/// // Up to 8 attempts within an hour, and only after I/O errors.
/// let policy = RetryPolicy::exponential()
///     .first_delay(Duration::from_millis(500))
///     .max_delay(Duration::from_secs(60))
///     .attempts(8)
///     .give_up_after(Duration::from_secs(3600))
///     .retry_if(|error| error.downcast_ref::<io::Error>().is_some());
/// # drop(policy);
/// ```
///
/// # Default
/// [`RetryPolicy::default`] is the [policy of the task's name](crate::NamePolicy::retry) if there is one, and otherwise
/// [`exponential`](Self::exponential):
/// - [`first_delay`](Self::first_delay) 1 s, [`factor`](Self::factor) 2, [`max_delay`](Self::max_delay) 600 s,
///   [`full_jitter`](Self::full_jitter) on, [`attempts`](Self::attempts) 4 (one attempt and three retries), as Celery
///   does with `retry_backoff`. With full jitter, a delay is uniform between zero and the computed one, which best
///   spreads the retries of tasks that failed at the same time (Marc Brooker, "Exponential Backoff And Jitter", AWS
///   Architecture Blog, 2015).
/// - [`give_up_after`](Self::give_up_after): no limit
/// - [`retry_if`](Self::retry_if): every error and every timeout is retried
/// - [`retry_panics`](Self::retry_panics): no
///
/// Sidekiq's policy of 25 retries over three weeks is `RetryPolicy::delays((0..25_u64).map(|n|
/// Duration::from_secs(n.pow(4) + 15)))`. Note that retries do not outlive the process.
#[derive(Clone)]
#[must_use = "a policy does nothing until it is given to a task"]
pub struct RetryPolicy {
    first_delay: Duration,
    factor: f64,
    max_delay: Duration,
    /// Listed delays, which replace the computed ones.
    delays: Option<Arc<[Duration]>>,
    jitter: bool,
    attempts: u32,
    give_up_after: Duration,
    retry_if: Option<Arc<RetryCondition>>,
    retry_panics: bool,
    /// Whether its delays and attempts are the default ones, so that those of the task's name take their place.
    is_default: bool,
}

type RetryCondition = dyn Fn(&(dyn Error + Send + Sync + 'static)) -> bool + Send + Sync;

impl RetryPolicy {
    /// Exponential backoff with full jitter: see [the defaults](Self#default).
    pub fn exponential() -> Self {
        Self {
            first_delay: Duration::from_secs(1),
            factor: 2.0,
            max_delay: Duration::from_secs(600),
            delays: None,
            jitter: true,
            attempts: 4,
            give_up_after: Duration::MAX,
            retry_if: None,
            retry_panics: false,
            is_default: false,
        }
    }

    /// The same delay before each retry, without jitter. Four attempts, unless [`attempts`](Self::attempts) is set.
    pub fn constant(delay: Duration) -> Self {
        Self { first_delay: delay, factor: 1.0, max_delay: Duration::MAX, jitter: false, ..Self::exponential() }
    }

    /// The given delays, one before each retry, without jitter. There is one attempt more than there are delays.
    ///
    /// With more [`attempts`](Self::attempts), the last delay is repeated. [`first_delay`](Self::first_delay) and
    /// [`factor`](Self::factor) have no effect on listed delays. With an empty list, the task has one attempt.
    pub fn delays(delays: impl IntoIterator<Item = Duration>) -> Self {
        let delays: Arc<[Duration]> = delays.into_iter().collect();
        let attempts = u32::try_from(delays.len()).unwrap_or(u32::MAX).saturating_add(1);
        Self { delays: Some(delays), attempts, jitter: false, max_delay: Duration::MAX, ..Self::exponential() }
    }

    /// The delay before the second attempt, before jitter.
    pub fn first_delay(self, delay: Duration) -> Self {
        Self { first_delay: delay, is_default: false, ..self }
    }

    /// The ratio of each delay to the one before. A factor below 1 or NaN counts as 1.
    pub fn factor(self, factor: f64) -> Self {
        Self { factor: if factor > 1.0 { factor } else { 1.0 }, is_default: false, ..self }
    }

    /// The longest delay, before jitter.
    pub fn max_delay(self, delay: Duration) -> Self {
        Self { max_delay: delay, is_default: false, ..self }
    }

    /// Whether each delay is random, uniform between zero and the computed one.
    pub fn full_jitter(self, on: bool) -> Self {
        Self { jitter: on, is_default: false, ..self }
    }

    /// The highest number of attempts, including the first one. Zero counts as 1. With `u32::MAX` the task is retried
    /// without a limit.
    pub fn attempts(self, attempts: u32) -> Self {
        Self { attempts: if attempts == 0 { 1 } else { attempts }, is_default: false, ..self }
    }

    /// Makes no attempt that would be due later than `limit` after the start of the first one. An attempt that is due
    /// before may still wait for a permit beyond the limit, and a running attempt is not stopped: see
    /// [`Task::timeout`](crate::Task::timeout).
    pub fn give_up_after(self, limit: Duration) -> Self {
        Self { give_up_after: limit, is_default: false, ..self }
    }

    /// Retries only after errors for which `condition` returns `true`. Without a condition, every error is retried.
    ///
    /// The error is the one that the task has returned, as a [`BoxError`](crate::BoxError). For a condition on an
    /// `anyhow::Error` or an `eyre::Report`, use [`Task::retrying_if`](crate::Task::retrying_if).
    ///
    /// A timeout has no error, so it is always retried. If the condition panics, the panic is logged and counted, and
    /// the condition is treated as true.
    pub fn retry_if(
        mut self,
        condition: impl Fn(&(dyn Error + Send + Sync + 'static)) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.retry_if = Some(Arc::new(condition));
        self
    }

    /// Retries only if `allows` returns `true`, too. It is asked first, once after each error.
    pub(crate) fn and_if(mut self, allows: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        let retry_if = self.retry_if.take();
        self.retry_if(move |error| allows() && retry_if.as_ref().is_none_or(|condition| condition(error)))
    }

    /// Retries after a panic, too.
    pub fn retry_panics(mut self) -> Self {
        self.retry_panics = true;
        self
    }

    /// The delay before the attempt that follows `failed` attempts, with jitter: for code that makes the attempts
    /// itself, such as a queue that stores when a job is due. `None` if the list of [`delays`](Self::delays) is empty.
    ///
    /// Only the delays of the policy are used: [`attempts`](Self::attempts), [`give_up_after`](Self::give_up_after) and
    /// [`retry_if`](Self::retry_if) are not.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::RetryPolicy;
    ///
    /// let policy = RetryPolicy::exponential().full_jitter(false);
    /// assert_eq!(policy.delay_after(3), Some(Duration::from_secs(4)));
    /// ```
    #[must_use]
    pub fn delay_after(&self, failed: u32) -> Option<Duration> {
        self.jittered_delay(failed, fastrand::f64())
    }

    /// The policy of the task's name, with the conditions of both, if this is the default policy.
    pub(crate) fn or_of_name(self, of_name: Option<&Self>) -> Self {
        let Some(of_name) = of_name.filter(|_| self.is_default) else {
            return self;
        };
        let mut policy = Self { is_default: false, ..of_name.clone() };
        policy.retry_panics |= self.retry_panics;
        if let Some(of_task) = self.retry_if {
            // First, because it is asked once after each error.
            let of_name = policy.retry_if.take();
            let both = move |error: &_| of_task(error) && of_name.as_ref().is_none_or(|of_name| of_name(error));
            policy.retry_if = Some(Arc::new(both));
        }
        policy
    }

    /// Whether another attempt follows this outcome. Evaluates the user's condition, which may panic.
    pub(crate) fn is_worth_another(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Failed(error) => self.retry_if.as_ref().is_none_or(|condition| condition(error)),
            Outcome::Panicked(_) => self.retry_panics,
            outcome => outcome.is_failure(),
        }
    }

    /// The delay before the next attempt; `None` if there is none. `failed` is the number of attempts made,
    /// `since_first` the time since the first one started, and `random` is uniform between 0 and 1.
    pub(crate) fn next_delay(&self, failed: u32, since_first: Duration, random: f64) -> Option<Duration> {
        if failed >= self.attempts && self.attempts != u32::MAX {
            return None;
        }
        let delay = self.jittered_delay(failed, random)?;
        (since_first.saturating_add(delay) <= self.give_up_after).then_some(delay)
    }

    /// The delay before the second attempt, whatever the longest one is.
    #[cfg(feature = "serde")]
    pub(crate) fn delay_of_first_retry(&self) -> Duration {
        self.delays.as_ref().map_or(self.first_delay, |delays| delays.first().copied().unwrap_or_default())
    }

    #[cfg(feature = "serde")]
    pub(crate) const fn longest_delay(&self) -> Duration {
        self.max_delay
    }

    fn jittered_delay(&self, failed: u32, random: f64) -> Option<Duration> {
        let computed = self.computed_delay(failed)?;
        Some(if self.jitter { scaled(computed, random) } else { computed })
    }

    /// The delay before jitter; `None` if the list of delays is empty.
    fn computed_delay(&self, failed: u32) -> Option<Duration> {
        let nth = failed.saturating_sub(1);
        let delay = match &self.delays {
            Some(delays) => {
                let index = usize::try_from(nth).unwrap_or(usize::MAX);
                *delays.get(index).or_else(|| delays.last())?
            }
            None if self.first_delay.is_zero() => Duration::ZERO,
            None => {
                let exponent = i32::try_from(nth).unwrap_or(i32::MAX);
                let seconds = self.first_delay.as_secs_f64() * self.factor.powi(exponent);
                // A value that does not fit in a `Duration` is above `max_delay`, too.
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
            }
        };
        Some(delay.min(self.max_delay))
    }
}

impl Default for RetryPolicy {
    /// The [policy of the task's name](crate::NamePolicy::retry) if there is one, and
    /// [`exponential`](RetryPolicy::exponential) otherwise.
    ///
    /// It stays that if a condition is added to it: a task is retried if its own condition and that of its name allow
    /// it, and after a panic if one of both does. With any other setting, the policy is the task's own.
    fn default() -> Self {
        Self { is_default: true, ..Self::exponential() }
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("first_delay", &self.first_delay)
            .field("factor", &self.factor)
            .field("max_delay", &self.max_delay)
            .field("delays", &self.delays)
            .field("jitter", &self.jitter)
            .field("attempts", &self.attempts)
            .field("give_up_after", &self.give_up_after)
            .field("retry_panics", &self.retry_panics)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NONE: Duration = Duration::ZERO;

    /// Checks the delay after `failed` attempts, with a random number of 0.5.
    #[track_caller]
    fn expect(policy: &RetryPolicy, failed: u32, since_first: Duration, delay: Option<Duration>) {
        assert_eq!(policy.next_delay(failed, since_first, 0.5), delay, "{policy:?}, {failed} failed");
    }

    #[test]
    fn exponential_delays_grow_by_the_factor_up_to_the_longest() {
        let policy = RetryPolicy::exponential().full_jitter(false).attempts(u32::MAX);
        for (failed, seconds) in [(1, 1), (2, 2), (3, 4), (9, 256), (10, 512), (11, 600), (1_000_000, 600)] {
            expect(&policy, failed, NONE, Some(seconds * SECOND));
        }
        expect(&policy, u32::MAX, Duration::MAX, Some(600 * SECOND));
    }

    #[test]
    fn full_jitter_draws_from_zero_to_the_computed_delay() {
        let policy = RetryPolicy::exponential().first_delay(8 * SECOND);
        for (random, seconds) in [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8), (7.0, 8), (-1.0, 0)] {
            assert_eq!(policy.next_delay(1, NONE, random), Some(seconds * SECOND), "{random}");
        }
    }

    #[test]
    fn delay_after_uses_the_delays_alone() {
        let policy = RetryPolicy::constant(SECOND).attempts(1).give_up_after(NONE).retry_if(|_| false);
        assert_eq!(policy.delay_after(7), Some(SECOND));
        assert!(RetryPolicy::exponential().delay_after(4).is_some_and(|delay| delay <= 8 * SECOND));
        assert_eq!(RetryPolicy::delays([]).delay_after(1), None);
    }

    #[test]
    fn the_first_attempt_counts() {
        let policy = RetryPolicy::constant(SECOND).attempts(3);
        expect(&policy, 1, NONE, Some(SECOND));
        expect(&policy, 2, NONE, Some(SECOND));
        expect(&policy, 3, NONE, None);
        expect(&RetryPolicy::constant(SECOND).attempts(1), 1, NONE, None);
        expect(&RetryPolicy::constant(SECOND).factor(3.0), 2, NONE, Some(3 * SECOND));
        expect(&RetryPolicy::constant(SECOND).attempts(0), 1, NONE, None);
        expect(&RetryPolicy::default(), 3, NONE, Some(2 * SECOND));
        expect(&RetryPolicy::default(), 4, NONE, None);
    }

    #[test]
    fn listed_delays_are_kept_and_the_last_is_repeated() {
        let policy = RetryPolicy::delays([SECOND, 5 * SECOND]);
        for (failed, delay) in [(1, Some(SECOND)), (2, Some(5 * SECOND)), (3, None)] {
            expect(&policy, failed, NONE, delay);
        }
        let policy = policy.attempts(9).max_delay(4 * SECOND);
        expect(&policy, 1, NONE, Some(SECOND));
        expect(&policy, 8, NONE, Some(4 * SECOND));
        expect(&policy, 9, NONE, None);
        expect(&RetryPolicy::delays([]), 1, NONE, None);
        expect(&RetryPolicy::delays([]).attempts(3), 1, NONE, None);
    }

    #[test]
    fn no_attempt_is_due_after_the_total_limit() {
        let policy = RetryPolicy::constant(SECOND).attempts(u32::MAX).give_up_after(10 * SECOND);
        expect(&policy, 1, 9 * SECOND, Some(SECOND));
        expect(&policy, 1, 9 * SECOND + Duration::from_nanos(1), None);
        expect(&policy, 1, Duration::MAX, None);
        expect(&RetryPolicy::constant(NONE).give_up_after(NONE), 1, NONE, Some(NONE));
    }

    #[test]
    fn odd_values_neither_panic_nor_shorten_a_delay() {
        for factor in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0, 0.5] {
            expect(&RetryPolicy::exponential().full_jitter(false).factor(factor), 3, NONE, Some(SECOND));
        }
        let endless = RetryPolicy::exponential().factor(f64::INFINITY).max_delay(Duration::MAX).full_jitter(false);
        expect(&endless, 1, NONE, Some(SECOND));
        expect(&endless, 2, NONE, Some(Duration::MAX));
        expect(&endless.clone().full_jitter(true), 2, NONE, Some(scaled(Duration::MAX, 0.5)));
        expect(&endless.clone().first_delay(Duration::MAX), 1, NONE, Some(Duration::MAX));
        expect(&endless.first_delay(NONE), 2, NONE, Some(NONE));
    }

    #[test]
    fn a_timeout_is_retried_and_a_panic_only_on_request() {
        let failed = |text: &str| Outcome::Failed(Arc::from(crate::model::BoxError::from(text)));
        let panicked = Outcome::Panicked(crate::Panic::from_payload(Box::new("oh")));
        let policy = RetryPolicy::default().retry_if(|error| error.to_string() == "busy");
        for (policy, outcome, worth) in [
            (&policy, failed("busy"), true),
            (&policy, failed("gone"), false),
            (&RetryPolicy::default(), failed("gone"), true),
            (&policy, Outcome::TimedOut(SECOND), true),
            (&policy, panicked.clone(), false),
            (&policy.clone().retry_panics(), panicked, true),
            (&policy, Outcome::Completed, false),
            (&policy, Outcome::Aborted, false),
        ] {
            assert_eq!(policy.is_worth_another(&outcome), worth, "{outcome}");
        }
    }
}
