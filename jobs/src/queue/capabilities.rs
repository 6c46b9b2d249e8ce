//! What engines can do.

/// What an engine can do: see [`Queue::capabilities`](crate::Queue::capabilities).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "a table of yes and no")]
pub struct Capabilities {
    /// Jobs of a higher priority are reserved first.
    pub priority: bool,
    /// A job can be delayed.
    pub delay: bool,
    /// A job can be due at any time, and not only after one of some delays.
    pub arbitrary_time: bool,
    /// A job can hold a key.
    pub unique: bool,
    /// A job that is not reserved can be cancelled.
    pub cancel: bool,
    /// A job can be found by its id.
    pub find: bool,
    /// A name can be paused for all processes.
    pub pause: bool,
    /// Dead jobs are listed, replayed and discarded by id.
    pub dead_by_id: bool,
    /// A job can be stored in a transaction of the user.
    pub transactional_push: bool,
    /// An id that is pushed twice is stored once.
    pub push_once: bool,
    /// Schedules are kept.
    pub cron: bool,
}

impl Capabilities {
    /// Nothing.
    #[cfg(feature = "rabbitmq")]
    pub(crate) const NONE: Self = Self {
        priority: false,
        delay: false,
        arbitrary_time: false,
        unique: false,
        cancel: false,
        find: false,
        pause: false,
        dead_by_id: false,
        transactional_push: false,
        push_once: false,
        cron: false,
    };

    /// Everything.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
    pub(crate) const ALL: Self = Self {
        priority: true,
        delay: true,
        arbitrary_time: true,
        unique: true,
        cancel: true,
        find: true,
        pause: true,
        dead_by_id: true,
        transactional_push: true,
        push_once: true,
        cron: true,
    };
}
