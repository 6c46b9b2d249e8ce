//! What an error of the driver means.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::{ENGINE, connection::ANSWER_LIMIT};
use crate::model::error::QueueError;

/// What the server said, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
struct Advised {
    advice: &'static str,
    source: RedisError,
}

/// What to do about an error, if it is one of those that an operator can do something about.
fn advice(error: &RedisError) -> Option<&'static str> {
    let is = |code| error.code() == Some(code) || error.detail().is_some_and(|detail| detail.contains(code));
    if error.kind() == ErrorKind::AuthenticationFailed || is("WRONGPASS") || is("NOAUTH") {
        Some("the credentials are refused: check the user and the password in the URL")
    } else if is("NOPERM") || is("can't run this command") || is("No permissions") {
        Some(
            "the user may not do this: for jobs, it needs the keys and the channel of the queue (`~postlude:*`, \
             `&postlude:*`) and the commands of scripts, reading and writing; for Celery, the keys of its queues and \
             results, and the commands LPUSH, GET and PING",
        )
    } else if is("OOM") {
        Some(
            "the memory limit is reached: raise `maxmemory`, or let workers work off what is stored, and shorten the \
             retention",
        )
    } else if is("MISCONF") {
        Some("the server can't write to its disk, and takes no writes: see its log")
    } else {
        None
    }
}

fn refused(error: RedisError) -> QueueError {
    let source = match advice(&error) {
        Some(advice) => Advised { advice, source: error }.into(),
        None => error.into(),
    };
    QueueError::Refused { engine: ENGINE, source }
}

/// An error before anything was sent.
pub(super) fn not_sent(error: RedisError) -> QueueError {
    if advice(&error).is_some() || error.kind() == ErrorKind::InvalidClientConfig {
        return refused(error);
    }
    QueueError::Unreachable { engine: ENGINE, source: error.into() }
}

/// An error of an operation that was sent.
pub(super) fn sent(error: RedisError) -> QueueError {
    match error.kind() {
        ErrorKind::Io if error.is_timeout() => QueueError::TimedOut { engine: ENGINE, limit: ANSWER_LIMIT },
        ErrorKind::Io | ErrorKind::Parse => QueueError::Interrupted { engine: ENGINE, source: error.into() },
        _ if is_not_ready(&error) => QueueError::Unreachable { engine: ENGINE, source: error.into() },
        _ => refused(error),
    }
}

/// Whether the server answered that it does not serve yet, or no longer, and did nothing.
pub(super) fn is_not_ready(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    let is_kind = matches!(
        error.kind(),
        ErrorKind::Server(BusyLoading | ClusterDown | MasterDown | Moved | Ask | ReadOnly | TryAgain)
    );
    // A script that runs for too long keeps the server busy.
    is_kind || error.code() == Some("BUSY")
}

/// An answer that is not what the script returns: another version has changed the keys, or a proxy answers.
pub(super) fn unexpected(error: impl Into<RedisError>) -> QueueError {
    refused(error.into())
}
