//! `TaskAges`: the ages of the oldest tasks and of the oldest open set.

use std::time::Duration;

/// How old the oldest tasks and the oldest open set are: see [`TaskRegistry::ages`](crate::TaskRegistry::ages).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskAges {
    /// As [`TaskMetrics::oldest_pending`](crate::TaskMetrics::oldest_pending).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub pending: Duration,
    /// As [`TaskMetrics::oldest_running`](crate::TaskMetrics::oldest_running).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub running: Duration,
    /// As [`TaskMetrics::oldest_open`](crate::TaskMetrics::oldest_open).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub open: Duration,
}
