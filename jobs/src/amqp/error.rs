//! What an error of the driver means.

use lapin::{
    Error, ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};

use super::ENGINE;
use crate::model::error::QueueError;

/// What the server said, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
struct Advised {
    advice: &'static str,
    source: Error,
}

/// What the server said, if it said something.
fn said(error: &Error) -> Option<(&AMQPErrorKind, &str)> {
    match error.kind() {
        ErrorKind::ProtocolError(said) => Some((said.kind(), said.get_message().as_str())),
        _ => None,
    }
}

/// What to do about an error, if it is one of those that an operator can do something about.
fn advice(error: &Error) -> Option<&'static str> {
    let (kind, text) = said(error)?;
    match kind {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) if text.contains("ogin was refused") => {
            Some("the credentials are refused: check the user and the password in the URL")
        }
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
            if text.contains("access to") || text.contains("user") =>
        {
            Some(
                "the user may not do this: it needs to configure and read `^postlude\\.`, and to write \
                 `^(postlude\\.|amq\\.default)`",
            )
        }
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) if text.contains("inequivalent") => Some(
            "a queue exists in another form, and the server says what differs: if it is empty, delete it, and it is \
             declared anew; otherwise use a queue with another name until it is",
        ),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) if text.contains("feature flag") => {
            Some("the server has not enabled what this needs: run `rabbitmqctl enable_feature_flag all`")
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if text.contains("vhost") => {
            Some("check the virtual host, which is the path of the URL: it does not exist, or takes no more")
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Some("the server does not allow this: see what it says"),
        _ => None,
    }
}

fn refused(error: Error) -> QueueError {
    let source = match advice(&error) {
        Some(advice) => Advised { advice, source: error }.into(),
        None => error.into(),
    };
    QueueError::Refused { engine: ENGINE, source }
}

/// An error of a connection that was not made.
pub(crate) fn not_sent(error: Error) -> QueueError {
    if advice(&error).is_some() {
        return refused(error);
    }
    QueueError::Unreachable { engine: ENGINE, source: error.into() }
}

/// An error of what was sent.
pub(crate) fn sent(error: Error) -> QueueError {
    match said(&error) {
        // What the server has forgotten can be declared anew.
        Some((AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND), _)) => {
            QueueError::Interrupted { engine: ENGINE, source: error.into() }
        }
        Some((AMQPErrorKind::Soft(_), _)) => refused(error),
        _ if advice(&error).is_some() => refused(error),
        _ => QueueError::Interrupted { engine: ENGINE, source: error.into() },
    }
}

/// Whether a channel or a queue is gone, and the rest of the connection is well.
pub(crate) fn is_of_channel(error: &Error) -> bool {
    matches!(said(error), Some((AMQPErrorKind::Soft(_), _)))
}
