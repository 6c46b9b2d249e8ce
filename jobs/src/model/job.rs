//! What a job is.

use serde::{Serialize, de::DeserializeOwned};

use super::policy::JobPolicy;

/// A value with a name: stored in a queue, then handled at least once, until it completes or is dead.
///
/// ```
/// use std::time::Duration;
/// use postlude_jobs::{Job, JobPolicy};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Invoice {
///     order: u64,
/// }
///
/// impl Job for Invoice {
///     const NAME: &'static str = "invoice";
///
///     fn policy() -> JobPolicy {
///         JobPolicy::default().max_attempts(10).timeout(Duration::from_secs(30))
///     }
/// }
/// ```
///
/// Because a job may run more than once, its handler must be idempotent: a second run must not do harm. Because a job
/// may be stored by one version of the program and read by another, new fields need a default (`#[serde(default)]`).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job",
    note = "implement `postlude_jobs::Job`, with a stable `NAME`, for a type that is `Serialize + DeserializeOwned + Send + 'static`"
)]
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The name. It is stored in queues, so it must not change while jobs of this kind are stored. It is also the name
    /// of the task that runs the job: a label of metrics, and the name for which the registry's limits are set.
    const NAME: &'static str;

    /// How often and how long a job of this kind is tried. `max_attempts` and `max_crashes` are stored with the job
    /// when it is pushed; the others are those of the worker.
    fn policy() -> JobPolicy {
        JobPolicy::default()
    }
}
