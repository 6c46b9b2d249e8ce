//! The job that runs.

use std::{fmt, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use crate::model::{
    headers::Headers,
    id::JobId,
    notes::{MAX_RESULT_BYTES, ResultError},
};

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
    result: Mutex<Option<String>>,
}

impl Current {
    pub(crate) fn new(id: JobId, attempt: u32, pushed_at: SystemTime, headers: Headers) -> Self {
        Self { details: Arc::new(Details { id, attempt, pushed_at, headers, result: Mutex::default() }) }
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

    /// Leaves a result for those who ask for the job: it is in [`JobInfo::result`](crate::JobInfo::result) when the
    /// job has completed, for the retention. It replaces one that was set before. The result of an attempt that fails
    /// is lost.
    ///
    /// It is meant for a few fields, such as the place of an export: as JSON, it has at most 16 KiB. It is stored
    /// without the [codec](crate::Codec), and routes show it: keep secrets out of it.
    ///
    /// ```
    /// use postlude_jobs::{BoxError, job};
    /// use serde_json::json;
    ///
    /// async fn export(account: u64) -> Result<(), BoxError> {
    ///     let path = format!("exports/{account}.csv");
    ///     // write the file
    ///     if let Some(job) = job::current() {
    ///         job.set_result(&json!({ "path": path }))?;
    ///     }
    ///     Ok(())
    /// }
    /// # drop(export(1));
    /// ```
    ///
    /// # Errors
    /// If the result does not serialise, or is too large. Then the one before stays.
    pub fn set_result(&self, result: &impl Serialize) -> Result<(), ResultError> {
        let json = serde_json::to_string(result).map_err(ResultError::Serialize)?;
        let (bytes, limit) = (json.len(), MAX_RESULT_BYTES);
        if bytes > limit {
            return Err(ResultError::TooLarge { bytes, limit });
        }
        *self.details.result.lock() = Some(json);
        Ok(())
    }

    pub(crate) fn take_result(&self) -> Option<String> {
        self.details.result.lock().take()
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
