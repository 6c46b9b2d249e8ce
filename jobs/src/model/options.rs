//! How one job is pushed.

use std::time::{Duration, SystemTime};

use postlude::Priority;

use super::{headers::Headers, id::JobId};

/// When a job is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Due {
    #[default]
    Now,
    After(Duration),
    At(SystemTime),
}

/// A key that one job at a time holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unique {
    pub(crate) key: String,
    /// Whether a running job that holds the key is marked to run again.
    pub(crate) runs_again: bool,
}

/// How one job is pushed: see [`Jobs::push_with`](crate::Jobs::push_with).
///
/// ```
/// use std::time::Duration;
/// use postlude_jobs::PushOptions;
///
/// let options = PushOptions::default().delay(Duration::from_secs(60)).unique("account 17");
/// # drop(options);
/// ```
///
/// # Default
/// A new id, due now, the policy's priority and attempts, no key, no headers.
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until they are given to `push_with`"]
pub struct PushOptions {
    pub(crate) id: Option<JobId>,
    pub(crate) due: Due,
    pub(crate) unique: Option<Unique>,
    pub(crate) priority: Option<Priority>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) headers: Headers,
}

impl PushOptions {
    /// The id of the job. A queue that knows the id stores nothing, so a push whose answer was lost can be repeated.
    pub fn id(mut self, id: JobId) -> Self {
        self.id = Some(id);
        self
    }

    /// The job is not reserved before this time has passed, by the clock of the engine.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.due = Due::After(delay);
        self
    }

    /// The job is not reserved before this time, by the clock of the engine.
    pub fn at(mut self, time: SystemTime) -> Self {
        self.due = Due::At(time);
        self
    }

    /// The job holds this key, among the jobs of its name, until it has completed or is dead. If another job holds the
    /// key, the push stores none and returns the id of that job. If that job is running, it also runs again once when
    /// it has completed, with the payload of the latest push, so that no change is missed:
    /// [`skip_if_running`](Self::skip_if_running) switches that off. An empty key is none.
    pub fn unique(mut self, key: impl Into<String>) -> Self {
        let runs_again = self.unique.as_ref().is_none_or(|unique| unique.runs_again);
        self.unique = Some(Unique { key: key.into(), runs_again });
        self
    }

    /// A running job that holds the [`unique`](Self::unique) key does not run again because of this push.
    pub fn skip_if_running(mut self) -> Self {
        let key = self.unique.map(|unique| unique.key).unwrap_or_default();
        self.unique = Some(Unique { key, runs_again: false });
        self
    }

    /// The priority, in place of the policy's.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// After how many failures the job is dead, in place of the policy's. Zero counts as 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts.max(1));
        self
    }

    /// Stores a header with the job, such as `traceparent`: [`Current::header`](crate::job::Current::header) reads it.
    /// Names that begin with `postlude-` are reserved, and ignored.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        if !name.starts_with("postlude-") {
            self.headers.insert(name, value.into());
        }
        self
    }
}
