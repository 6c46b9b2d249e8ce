//! Priorities of tasks that wait.

use std::{fmt, time::Duration};

/// Which tasks start first when tasks have to wait for a permit.
///
/// ```
/// use postlude::{Priority, Task, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
/// let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
/// for (name, priority) in [("report", Priority::Low), ("receipt", Priority::High)] {
///     let sender = sender.clone();
///     registry.spawn(Task::new(async move { sender.send(name) }).priority(priority));
/// }
/// registry.wait_idle().await;
/// # // The first found a free permit.
/// # assert_eq!(order.recv().await, Some("report"));
/// # }
/// ```
///
/// # No task starves
/// A task that waits is promoted by one priority after each
/// [`promote_after`](crate::TaskRegistryBuilder::promote_after), 10 s by default. So a task is overtaken only by tasks
/// of a higher priority that arrive less than that time after it, or less than twice that time for a priority two steps
/// higher. Tasks of one priority start in order of arrival.
///
/// Promotion needs no timer: a waiting task is ranked by its time of arrival, plus a penalty of one or two times
/// `promote_after` for a lower priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// After tasks of the other priorities.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before tasks of the other priorities.
    High,
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        })
    }
}

/// The longest `promote_after` that can be multiplied without overflow.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl Priority {
    /// The rank of a task of this priority that arrived at `arrival`: the arrival time at which a task of the highest
    /// priority would have the same position in the queue.
    pub(crate) fn rank(self, arrival: Duration, promote_after: Duration) -> Duration {
        let penalties = match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        };
        arrival.saturating_add(promote_after.min(CENTURY) * penalties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_task_overtakes_within_the_difference_in_priority() {
        let seconds = Duration::from_secs;
        let overtakes = [
            // (waiting, coming later, seconds later, whether the later one starts first)
            (Priority::Low, Priority::Low, 0, false),
            (Priority::Low, Priority::Low, 1, false),
            (Priority::Low, Priority::Normal, 9, true),
            (Priority::Low, Priority::Normal, 10, false),
            (Priority::Low, Priority::High, 19, true),
            (Priority::Low, Priority::High, 20, false),
            (Priority::Normal, Priority::High, 9, true),
            (Priority::Normal, Priority::High, 10, false),
            (Priority::Normal, Priority::Low, 0, false),
            (Priority::High, Priority::High, 1, false),
            (Priority::High, Priority::Low, 1, false),
        ];
        for (waiting, coming, later, overtakes) in overtakes {
            let first = waiting.rank(seconds(100), seconds(10));
            let second = coming.rank(seconds(100 + later), seconds(10));
            assert_eq!(second < first, overtakes, "{coming:?}, {later} s after {waiting:?}");
        }
    }

    #[test]
    fn without_delay_promotion_keeps_the_order_of_arrival_and_without_promotion_that_of_priorities() {
        let arrivals = [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1_000_000)];
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            for arrival in arrivals {
                assert_eq!(priority.rank(arrival, Duration::ZERO), arrival);
            }
            let ranks = arrivals.map(|arrival| priority.rank(arrival, Duration::MAX));
            assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
        }
        assert!(Priority::High.rank(arrivals[2], Duration::MAX) < Priority::Normal.rank(arrivals[0], Duration::MAX));
        assert!(Priority::Normal.rank(arrivals[2], Duration::MAX) < Priority::Low.rank(arrivals[0], Duration::MAX));
    }
}
