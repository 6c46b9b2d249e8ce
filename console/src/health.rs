use std::time::Duration;

use postlude::OutcomeCounts;

/// How long ago a failure may be that counts.
pub(crate) const RECENTLY: Duration = Duration::from_secs(300);
/// The least number of outcomes that make a rate.
const ENOUGH: u64 = 10;

/// The limits beyond which a registry is unhealthy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) failure_rate: Option<f64>,
    pub(crate) pending_age: Option<Duration>,
}

/// The condition of a registry at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Condition {
    pub(crate) is_closing: bool,
    pub(crate) is_full: bool,
    pub(crate) oldest_pending: Duration,
    pub(crate) failure_rate: Option<f64>,
}

impl Limits {
    /// The reasons why a registry in this condition is unhealthy, in sentences.
    pub(crate) fn problems(&self, condition: &Condition) -> Vec<String> {
        let mut problems = Vec::new();
        if condition.is_closing {
            problems.push("the registry is shut down, or about to be, or its runtime has ended".to_owned());
        }
        if condition.is_full {
            problems.push("the registry is at its capacity: tasks that are added now are discarded".to_owned());
        }
        if let Some(age) = self.pending_age.filter(|age| condition.oldest_pending > *age) {
            problems.push(format!(
                "a task has been waiting for {:.1?}, longer than {age:?}: see `/tasks?state=pending`",
                condition.oldest_pending
            ));
        }
        if let (Some(limit), Some(rate)) = (self.failure_rate, condition.failure_rate) {
            if rate > limit {
                problems.push(format!(
                    "of the tasks of the last five minutes {:.0} % failed, more than {:.0} %: see `/tasks?state=failed`",
                    rate * 100.0,
                    limit * 100.0
                ));
            }
        }
        problems
    }
}

/// The [failure rate](OutcomeCounts::failure_rate); `None` if there are too few outcomes.
pub(crate) fn failure_rate(outcomes: OutcomeCounts) -> Option<f64> {
    (outcomes.completed + outcomes.failures() >= ENOUGH).then(|| outcomes.failure_rate())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_names_each_exceeded_limit() {
        let limits = Limits { failure_rate: Some(0.5), pending_age: Some(Duration::from_secs(60)) };
        let none = Limits { failure_rate: None, pending_age: None };
        let fine =
            Condition { oldest_pending: Duration::from_secs(60), failure_rate: Some(0.5), ..Condition::default() };
        let cases = [
            (fine, 0, 0),
            (Condition { failure_rate: None, ..fine }, 0, 0),
            (Condition { is_closing: true, ..fine }, 1, 1),
            (Condition { is_full: true, ..fine }, 1, 1),
            (Condition { oldest_pending: Duration::from_secs(61), ..fine }, 1, 0),
            (Condition { failure_rate: Some(0.6), ..fine }, 1, 0),
            (Condition { failure_rate: Some(1.0), is_full: true, is_closing: true, ..fine }, 3, 2),
        ];
        for (condition, with_limits, without) in cases {
            assert_eq!(limits.problems(&condition).len(), with_limits, "{condition:?}");
            assert_eq!(none.problems(&condition).len(), without, "{condition:?}");
        }
    }
}
