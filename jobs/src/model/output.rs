//! What the handler of a job returns.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use postlude::BoxError;

use super::notes::Notes;

/// What becomes of a job whose handler returned `Ok`.
///
/// ```
/// use std::time::Duration;
/// use postlude_jobs::JobVerdict;
///
/// async fn poll_export(order: u64) -> Result<JobVerdict, std::io::Error> {
///     if order == 0 {
///         return Ok(JobVerdict::Dead("an order has no number 0".into()));
///     }
///     // not ready: look again in a minute
///     Ok(JobVerdict::Snooze(Duration::from_secs(60)))
/// }
/// # drop(poll_export(1));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobVerdict {
    /// The job has completed.
    Done,
    /// The job runs again after this time. It counts neither as a failure nor as a crash.
    Snooze(Duration),
    /// The job is dead, for this reason: another attempt would not help.
    Dead(String),
}

/// The output of a handler: `()`, `Result<(), E>`, [`JobVerdict`] or `Result<JobVerdict, E>`, with an `E` that converts
/// into [`BoxError`].
#[diagnostic::on_unimplemented(
    message = "the handler of a job can't return `{Self}`",
    note = "return `()`, `Result<(), E>` or `Result<JobVerdict, E>`, where `E` becomes a `Box<dyn std::error::Error + Send + Sync>`"
)]
pub trait JobOutput: IntoVerdict + Send + 'static {}

mod sealed {
    use postlude::BoxError;

    #[expect(unnameable_types, reason = "seals `JobOutput`")]
    pub trait IntoVerdict {
        fn into_verdict(self) -> Result<super::JobVerdict, BoxError>;
    }
}

pub(crate) use self::sealed::IntoVerdict;

impl JobOutput for () {}

impl IntoVerdict for () {
    fn into_verdict(self) -> Result<JobVerdict, BoxError> {
        Ok(JobVerdict::Done)
    }
}

impl JobOutput for JobVerdict {}

impl IntoVerdict for JobVerdict {
    fn into_verdict(self) -> Result<JobVerdict, BoxError> {
        Ok(self)
    }
}

impl<T, E> JobOutput for Result<T, E>
where
    T: JobOutput,
    E: Into<BoxError> + Send + 'static,
{
}

impl<T, E> IntoVerdict for Result<T, E>
where
    T: JobOutput,
    E: Into<BoxError>,
{
    fn into_verdict(self) -> Result<JobVerdict, BoxError> {
        self.map_err(Into::into)?.into_verdict()
    }
}

/// Where the task of a job leaves its end for the worker.
pub(crate) type EndSlot = Arc<Mutex<RunEnd>>;

/// The end of a run, beside its outcome.
#[derive(Debug, Default)]
pub(crate) struct RunEnd {
    pub(crate) verdict: Option<JobVerdict>,
    pub(crate) notes: Notes,
}
