//! The states and results that workers store.

use std::{error::Error, fmt};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// The state of a task, as its workers have stored it. Its text is Celery's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CeleryState {
    /// Nothing is stored: the task waits, runs, or is not known; or its result is ignored, or has expired
    /// (`result_expires`, a day).
    Pending,
    /// It runs. Workers store this with `task_track_started` only.
    Started,
    /// It has failed, and will be tried again.
    Retry,
    /// It has succeeded.
    Success,
    /// It has failed.
    Failure,
    /// It was revoked, or had expired when a worker received it.
    Revoked,
    /// A state of its own, which the task has set with `update_state`.
    Other(String),
}

impl fmt::Display for CeleryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "PENDING",
            Self::Started => "STARTED",
            Self::Retry => "RETRY",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Revoked => "REVOKED",
            Self::Other(name) => name,
        })
    }
}

/// The result of a task, as its workers have stored it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CeleryResult<T> {
    /// Nothing is stored: see [`CeleryState::Pending`].
    Pending,
    /// It runs.
    Started,
    /// It has failed so, and will be tried again.
    Retry(CeleryFailure),
    /// What it returned.
    Success(T),
    /// It has failed so.
    Failure(CeleryFailure),
    /// It was revoked, or had expired when a worker received it.
    Revoked,
    /// A state of its own, which the task has set with `update_state`.
    Other(String),
}

/// How a task failed: a Python exception.
#[derive(Clone, PartialEq, Eq)]
pub struct CeleryFailure {
    exception: String,
    message: String,
    traceback: Option<String>,
}

impl CeleryFailure {
    /// The type of the exception, with its module if Celery has stored one, such as `builtins.ValueError`.
    #[must_use]
    pub fn exception(&self) -> &str {
        &self.exception
    }

    /// The arguments of the exception, which is its message as a rule.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The traceback. It may show data.
    #[must_use]
    pub fn traceback(&self) -> Option<&str> {
        self.traceback.as_deref()
    }
}

impl fmt::Display for CeleryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.exception, self.message)
    }
}

/// Shows no traceback, which may have data.
impl fmt::Debug for CeleryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CeleryFailure({self})")
    }
}

impl Error for CeleryFailure {}

/// What Celery stores for a task.
#[derive(Deserialize)]
pub(super) struct Meta {
    status: String,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    traceback: Value,
}

impl Meta {
    pub(super) fn state(self) -> CeleryState {
        match self.status.as_str() {
            "PENDING" => CeleryState::Pending,
            "STARTED" => CeleryState::Started,
            "RETRY" => CeleryState::Retry,
            "SUCCESS" => CeleryState::Success,
            "FAILURE" => CeleryState::Failure,
            "REVOKED" => CeleryState::Revoked,
            _ => CeleryState::Other(self.status),
        }
    }

    pub(super) fn result<T: DeserializeOwned>(mut self) -> Result<CeleryResult<T>, serde_json::Error> {
        let (result, traceback) = (self.result.take(), self.traceback.take());
        Ok(match self.state() {
            CeleryState::Pending => CeleryResult::Pending,
            CeleryState::Started => CeleryResult::Started,
            CeleryState::Retry => CeleryResult::Retry(failure(&result, &traceback)),
            CeleryState::Success => CeleryResult::Success(serde_json::from_value(result)?),
            CeleryState::Failure => CeleryResult::Failure(failure(&result, &traceback)),
            CeleryState::Revoked => CeleryResult::Revoked,
            CeleryState::Other(name) => CeleryResult::Other(name),
        })
    }
}

fn failure(result: &Value, traceback: &Value) -> CeleryFailure {
    let text = |name: &str| result.get(name).and_then(Value::as_str);
    let kind = text("exc_type").unwrap_or("unknown exception");
    let exception = text("exc_module").map_or_else(|| kind.to_owned(), |module| format!("{module}.{kind}"));
    let message = match result.get("exc_message") {
        Some(Value::Array(parts)) => parts.iter().map(shown).collect::<Vec<_>>().join(", "),
        Some(part) => shown(part),
        None => String::new(),
    };
    CeleryFailure { exception, message, traceback: traceback.as_str().map(str::to_owned) }
}

fn shown(part: &Value) -> String {
    part.as_str().map_or_else(|| part.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T: DeserializeOwned>(stored: Value) -> Result<CeleryResult<T>, serde_json::Error> {
        serde_json::from_value::<Meta>(stored).unwrap().result()
    }

    #[test]
    fn success_has_the_value() {
        let stored = json!({ "status": "SUCCESS", "result": [1, 2], "traceback": null, "task_id": "x" });
        assert_eq!(read::<Vec<u8>>(stored.clone()).unwrap(), CeleryResult::Success(vec![1, 2]));
        assert!(read::<String>(stored).is_err());
        assert_eq!(read::<()>(json!({ "status": "SUCCESS", "result": null })).unwrap(), CeleryResult::Success(()));
    }

    #[test]
    fn failure_has_the_exception_and_hides_the_traceback() {
        let exception = json!({ "exc_type": "ValueError", "exc_message": ["no", 1], "exc_module": "builtins" });
        let stored = json!({ "status": "FAILURE", "result": exception, "traceback": "Traceback: secret" });
        let Ok(CeleryResult::<()>::Failure(failure)) = read(stored) else { unreachable!("it has failed") };
        assert_eq!(failure.to_string(), "builtins.ValueError: no, 1");
        assert_eq!(failure.traceback(), Some("Traceback: secret"));
        assert!(!format!("{failure:?}").contains("secret"));
    }

    #[test]
    fn other_states_keep_their_name() {
        let stored = json!({ "status": "PROGRESS", "result": { "page": 3 } });
        assert_eq!(read::<()>(stored).unwrap(), CeleryResult::Other("PROGRESS".to_owned()));
        let state = |name: &str| serde_json::from_value::<Meta>(json!({ "status": name })).unwrap().state();
        for name in ["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "PROGRESS"] {
            assert_eq!(state(name).to_string(), name);
        }
        assert_eq!(state("REVOKED"), CeleryState::Revoked);
    }
}
