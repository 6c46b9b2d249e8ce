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

/// Why a registry is unhealthy.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) cause: Cause,
    /// In words, a clause that begins with its subject.
    pub(crate) text: String,
    /// What the limit is, in words; `None` if it is not one that was set.
    pub(crate) limit: Option<String>,
    /// The route that shows it.
    path: Option<&'static str>,
}

/// What makes a registry unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Closing,
    Full,
    PendingAge,
    RunningAge,
    OpenAge,
    Stuck,
    FailureRate,
}

impl Problem {
    /// What a probe is told: the clause, and the route to look at.
    pub(crate) fn sentence(&self) -> String {
        self.path.map_or_else(|| self.text.clone(), |path| format!("{}: see {path}", self.text))
    }
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

    /// The reasons why a registry in this condition is unhealthy.
    pub(crate) fn problems(&self, condition: &Condition) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut push = |cause, text, limit, path| problems.push(Problem { cause, text, limit, path });
        if condition.is_closing {
            let text = "the registry is shut down, or about to be, or its runtime has ended";
            push(Cause::Closing, text.to_owned(), None, None);
        }
        if condition.is_full {
            let text = "the registry is at its capacity: tasks that are added now are discarded";
            push(Cause::Full, text.to_owned(), None, None);
        }
        let TaskAges { pending, running, open, .. } = condition.ages;
        if let Some(age) = self.pending_age.filter(|age| pending > *age) {
            let text = format!("a task has been waiting for {pending:.1?}, longer than {age:?}");
            let limit = format!("no task may wait for longer than {age:?}");
            push(Cause::PendingAge, text, Some(limit), Some("`/tasks?state=pending`"));
        }
        if let Some(age) = self.running_age.filter(|age| running > *age) {
            let text = format!("a task has been running for {running:.1?}, longer than {age:?}");
            let limit = format!("no attempt may run for longer than {age:?}");
            push(Cause::RunningAge, text, Some(limit), Some("`/tasks?state=running`"));
        }
        if let Some(age) = self.open_age.filter(|age| open > *age) {
            let text = format!(
                "a task has been waiting for {open:.1?}, longer than {age:?}, for the end of its request or for a client \
                 that takes its response"
            );
            let limit = format!("no set may be open for longer than {age:?}");
            push(Cause::OpenAge, text, Some(limit), Some("`/tasks?state=pending`"));
        }
        if let Some(most) = self.stuck.filter(|most| condition.stuck > *most) {
            let text = format!("the work of {} tasks still runs after their end, more than {most}", condition.stuck);
            let limit = format!("no more than {most} tasks may be stuck");
            push(Cause::Stuck, text, Some(limit), Some("`stuck` in `/metrics.json`, and the log"));
        }
        if let (Some(limit), Some(rate)) = (self.failure_rate, condition.failure_rate) {
            if rate > limit {
                let (rate, limit) = (rate * 100.0, limit * 100.0);
                let text = format!("of the tasks of the last five minutes {rate:.0} % failed, more than {limit:.0} %");
                let limit = format!("of all tasks {rate:.0} % failed, and no more than {limit:.0} % may");
                push(Cause::FailureRate, text, Some(limit), Some("`/tasks?state=failed`"));
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
