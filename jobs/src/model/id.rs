//! The ids of jobs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

/// The id of a job: 128 bits, written as a UUID.
///
/// [`generate`](Self::generate) draws an id of version 7: it begins with the time, which keeps the indexes of an engine
/// small, and has 74 random bits, so that nobody guesses it.
///
/// ```
/// use postlude_jobs::JobId;
///
/// let id = JobId::generate();
/// assert_eq!(id.to_string().parse(), Ok(id));
/// assert_eq!(JobId::from_u128(id.as_u128()), id);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Uuid);

impl JobId {
    /// A new id.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id with these bits: to derive the id of a job from something else, so that a push can be repeated.
    #[must_use]
    pub const fn from_u128(bits: u128) -> Self {
        Self(Uuid::from_u128(bits))
    }

    /// The bits of the id.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0.as_u128()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

impl FromStr for JobId {
    type Err = ParseJobIdError;

    /// Reads the text of an id, with or without hyphens.
    ///
    /// # Errors
    /// If the text is not a UUID.
    fn from_str(text: &str) -> Result<Self, ParseJobIdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| ParseJobIdError(()))
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A text is not the id of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a job: write a UUID, such as 0192f1c6-7c1e-7b3a-9f6e-3f1d2c4b5a69")]
pub struct ParseJobIdError(());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_writes_and_reads_the_text() {
        let id = JobId::from_u128(0x0192_f1c6_7c1e_7b3a_9f6e_3f1d_2c4b_5a69);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, "\"0192f1c6-7c1e-7b3a-9f6e-3f1d2c4b5a69\"");
        assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<JobId>("\"17\"").is_err());
    }

    #[test]
    fn generated_ids_differ() {
        assert_ne!(JobId::generate(), JobId::generate());
    }
}
