//! What is known of the limit of a name.

/// The limit of the tasks of one name, and its use: see
/// [`TaskRegistry::name_limits`](crate::TaskRegistry::name_limits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NameLimit {
    /// How many tasks of the name may run at a time; `None` without a limit.
    pub limit: Option<usize>,
    /// How many tasks of the name may run at a time for each key, as set by
    /// [`limit_by_key`](crate::TaskRegistryBuilder::limit_by_key).
    pub limit_by_key: Option<usize>,
    /// How many permits of the name are taken: by tasks that run, and by those that wait for `max_concurrent`,
    /// `max_blocking` or `max_cpu`. More than the limit, if that was set while they were running.
    pub in_use: usize,
    /// Whether the name is [paused](crate::TaskRegistry::pause).
    pub paused: bool,
}
