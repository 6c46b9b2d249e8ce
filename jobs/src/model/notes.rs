//! What a run leaves behind beside its outcome: its progress, and its result.

use postlude::TaskProgress;
use serde::{Deserialize, Serialize, Serializer};

/// The largest result, as JSON.
pub(crate) const MAX_RESULT_BYTES: usize = 16 * 1024;

/// A result was not taken: see [`Current::set_result`](crate::Current::set_result).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// It did not serialise to JSON.
    #[error("the result does not serialise to JSON")]
    Serialize(#[source] serde_json::Error),
    /// It is too large.
    #[error("the result has {bytes} bytes, and the limit is {limit}: store the data elsewhere, and set where it is")]
    TooLarge {
        /// The size of the result.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// What is stored with a run, in its stored form. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(unnameable_types, reason = "the sealed half of `Queue` names it")]
pub struct Notes {
    pub(crate) progress: Option<String>,
    pub(crate) result: Option<String>,
}

impl Notes {
    pub(crate) const fn is_empty(&self) -> bool {
        self.progress.is_none() && self.result.is_none()
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    done: u64,
    total: u64,
    #[serde(default)]
    message: Option<Box<str>>,
}

impl From<&TaskProgress> for Stored {
    fn from(progress: &TaskProgress) -> Self {
        Self { done: progress.done, total: progress.total, message: progress.message.clone() }
    }
}

pub(crate) fn progress_to_stored(progress: &TaskProgress) -> String {
    serde_json::to_string(&Stored::from(progress)).unwrap_or_default()
}

pub(crate) fn progress_from_stored(stored: &str) -> Option<TaskProgress> {
    let Stored { done, total, message } = serde_json::from_str(stored).ok()?;
    let mut progress = TaskProgress::default();
    (progress.done, progress.total, progress.message) = (done, total, message);
    Some(progress)
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
pub(crate) fn optional_progress<S: Serializer>(
    progress: &Option<TaskProgress>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    progress.as_ref().map(Stored::from).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_survives_being_stored() {
        let mut progress = TaskProgress::default();
        (progress.done, progress.total) = (u64::MAX, 2);
        assert_eq!(progress_from_stored(&progress_to_stored(&progress)), Some(progress.clone()));
        progress.message = Some("page \0 of \"2\"".into());
        assert_eq!(progress_from_stored(&progress_to_stored(&progress)), Some(progress));
        assert_eq!(progress_from_stored("{}"), None);
    }
}
