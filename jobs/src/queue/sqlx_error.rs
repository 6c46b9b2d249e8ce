//! What an error of the driver means.

use crate::model::error::QueueError;

/// An error before anything was sent.
pub(crate) fn not_sent(engine: &'static str, error: sqlx::Error) -> QueueError {
    QueueError::Unreachable { engine, source: Box::new(error) }
}

/// An error of an operation that was sent.
pub(crate) fn sent(engine: &'static str, error: sqlx::Error) -> QueueError {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            QueueError::Interrupted { engine, source: Box::new(error) }
        }
        // The server is shutting down, or starting up.
        sqlx::Error::Database(ref database) if database.code().is_some_and(|code| code.starts_with("57P")) => {
            QueueError::Interrupted { engine, source: Box::new(error) }
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::BeginFailed => not_sent(engine, error),
        other => QueueError::Refused { engine, source: Box::new(other) },
    }
}
