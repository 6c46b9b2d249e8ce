use std::time::Duration;

use postlude::{OutcomeCounts, TaskAges};

/// How long ago a failure may be that counts.
pub(crate) const RECENTLY: Duration = Duration::from_secs(300);
/// The least number of outcomes that make a rate.
const ENOUGH: u64 = 10;

/// The limits beyond which a registry is unhealthy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) failure_rate: Option<f64>,
    pub(crate) pending_age: Option<Duration>,
    pub(crate) running_age: Option<Duration>,
    pub(crate) open_age: Option<Duration>,
    pub(crate) stuck: Option<u64>,
}

/// The condition of a registry at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Condition {
    pub(crate) is_closing: bool,
    pub(crate) is_full: bool,
    pub(crate) ages: TaskAges,
    pub(crate) stuck: u64,
    pub(crate) failure_rate: Option<f64>,
}

/// Which ages a condition has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NeededAges {
    None,
    Pending,
    All,
}

impl Limits {
    pub(crate) const NONE: Self =
        Self { failure_rate: None, pending_age: None, running_age: None, open_age: None, stuck: None };

    pub(crate) const fn needed_ages(&self) -> NeededAges {
        match (self.running_age, self.open_age, self.pending_age) {
            (None, None, None) => NeededAges::None,
            (None, None, Some(_)) => NeededAges::Pending,
            _ => NeededAges::All,
        }
    }

    /// The reasons why a registry in this condition is unhealthy, in sentences.
    pub(crate) fn problems(&self, condition: &Condition) -> Vec<String> {
        let mut problems = Vec::new();
        if condition.is_closing {
            problems.push("the registry is shut down, or about to be, or its runtime has ended".to_owned());
        }
        if condition.is_full {
            problems.push("the registry is at its capacity: tasks that are added now are discarded".to_owned());
        }
        let TaskAges { pending, running, open, .. } = condition.ages;
        if let Some(age) = self.pending_age.filter(|age| pending > *age) {
            problems.push(format!(
                "a task has been waiting for {pending:.1?}, longer than {age:?}: see `/tasks?state=pending`"
            ));
        }
        if let Some(age) = self.running_age.filter(|age| running > *age) {
            problems.push(format!(
                "a task has been running for {running:.1?}, longer than {age:?}: see `/tasks?state=running`"
            ));
        }
        if let Some(age) = self.open_age.filter(|age| open > *age) {
            problems.push(format!(
                "a task has been waiting for {open:.1?}, longer than {age:?}, for the end of its request or for a client \
                 that takes its response: see `/tasks?state=pending`"
            ));
        }
        if let Some(most) = self.stuck.filter(|most| condition.stuck > *most) {
            problems.push(format!(
                "the work of {} tasks still runs after their end, more than {most}: see `stuck` in `/metrics.json`, and the log",
                condition.stuck
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
        let minute = Duration::from_secs(60);
        let limits = Limits {
            failure_rate: Some(0.5),
            pending_age: Some(minute),
            running_age: Some(2 * minute),
            open_age: Some(3 * minute),
            stuck: Some(4),
        };
        let none = Limits::NONE;
        let ages = |pending, running, open| {
            let mut ages = TaskAges::default();
            [ages.pending, ages.running, ages.open] = [pending, running, open].map(Duration::from_secs);
            ages
        };
        let fine = Condition { ages: ages(60, 120, 180), stuck: 4, failure_rate: Some(0.5), ..Condition::default() };
        let cases = [
            (fine, 0, 0),
            (Condition { failure_rate: None, ..fine }, 0, 0),
            (Condition { is_closing: true, ..fine }, 1, 1),
            (Condition { is_full: true, ..fine }, 1, 1),
            (Condition { ages: ages(61, 120, 180), ..fine }, 1, 0),
            (Condition { ages: ages(60, 121, 180), ..fine }, 1, 0),
            (Condition { ages: ages(60, 120, 181), ..fine }, 1, 0),
            (Condition { ages: ages(61, 121, 181), ..fine }, 3, 0),
            (Condition { stuck: 5, ..fine }, 1, 0),
            (Condition { failure_rate: Some(0.6), ..fine }, 1, 0),
            (Condition { failure_rate: Some(1.0), is_full: true, is_closing: true, ..fine }, 3, 2),
        ];
        for (condition, with_limits, without) in cases {
            assert_eq!(limits.problems(&condition).len(), with_limits, "{condition:?}");
            assert_eq!(none.problems(&condition).len(), without, "{condition:?}");
        }
    }
}
