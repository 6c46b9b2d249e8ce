//! The job that runs.

use std::{fmt, sync::Arc, time::SystemTime};

use crate::model::{headers::Headers, id::JobId};

tokio::task_local! {
    static CURRENT: Current;
}

/// The job that runs: see [`current`].
#[derive(Clone)]
pub struct Current {
    details: Arc<Details>,
}

struct Details {
    id: JobId,
    attempt: u32,
    pushed_at: SystemTime,
    headers: Headers,
}

impl Current {
    pub(crate) fn new(id: JobId, attempt: u32, pushed_at: SystemTime, headers: Headers) -> Self {
        Self { details: Arc::new(Details { id, attempt, pushed_at, headers }) }
    }

    /// Runs a future as the work of this job.
    pub(crate) async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// The id of the job: the same in every attempt, so it serves as the key of idempotent calls.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.details.id
    }

    /// The number of the attempt, from 1. Failures and crashes count; releases and snoozes do not.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.details.attempt
    }

    /// When the job was pushed.
    #[must_use]
    pub fn pushed_at(&self) -> SystemTime {
        self.details.pushed_at
    }

    /// A header that was stored with the job: see [`PushOptions::header`](crate::PushOptions::header).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.details.headers.get(name).map(String::as_str)
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current")
            .field("id", &self.details.id)
            .field("attempt", &self.details.attempt)
            .finish_non_exhaustive()
    }
}

/// The job that runs; `None` outside a job: in a plain task, and in tokio tasks and threads that a job has started.
///
/// ```
/// use postlude_jobs::job;
///
/// async fn charge(amount: u64) -> Result<(), std::io::Error> {
///     let key = job::current().map(|job| job.id().to_string()).unwrap_or_default();
///     // send `key` as the idempotency key of the payment
///     # let _ = (amount, key);
///     Ok(())
/// }
/// # drop(charge(1));
/// ```
#[must_use]
pub fn current() -> Option<Current> {
    CURRENT.try_with(Clone::clone).ok()
}
