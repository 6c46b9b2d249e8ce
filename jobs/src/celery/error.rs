//! What can go wrong, and what to do then.

use std::{error::Error, fmt, time::Duration};

use postlude::BoxError;

use crate::model::{error::QueueError, id::JobId};

/// A producer was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// An address can't be used. It is not part of the error, because it may have a password.
    #[error("the URL of the {what} can't be used: {advice}")]
    Url {
        /// The broker, or the result backend.
        what: &'static str,
        /// What is wrong, and what to do.
        advice: &'static str,
    },
    /// A setting can't be used.
    #[error("{0}")]
    Setting(&'static str),
    /// The broker can't be used.
    #[error(transparent)]
    Broker(#[from] QueueError),
}

/// A task was not sent, or may not have been.
///
/// [`may_be_stored`](Self::may_be_stored) tells which. Celery does not know a message again: if you send the task a
/// second time, with the same id or another, it may run twice.
#[derive(Debug)]
pub struct SendError {
    id: JobId,
    name: String,
    kind: SendErrorKind,
}

impl SendError {
    pub(super) const fn new(id: JobId, name: String, kind: SendErrorKind) -> Self {
        Self { id, name, kind }
    }

    /// The id of the task; of the first one, if a chain was sent.
    #[must_use]
    pub const fn id(&self) -> JobId {
        self.id
    }

    /// The name of the task.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why the task was not sent.
    #[must_use]
    pub const fn kind(&self) -> &SendErrorKind {
        &self.kind
    }

    /// Whether the broker may have stored the task all the same: the connection ended, or the time was over, before it
    /// had answered.
    #[must_use]
    pub const fn may_be_stored(&self) -> bool {
        match &self.kind {
            SendErrorKind::Broker(error) => error.may_be_done(),
            SendErrorKind::NotConfirmed => true,
            _ => false,
        }
    }

    /// Whether sending again later may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match &self.kind {
            SendErrorKind::Broker(error) => error.is_transient(),
            SendErrorKind::NotConfirmed => true,
            _ => false,
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Celery task {} `{}` was not sent: {}", self.id, self.name, self.kind)
    }
}

impl Error for SendError {
    /// That of the kind, which is part of the message already.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}

/// Why a task was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// The task has no name.
    #[error("its name is empty: give the name under which the workers know it, such as `shop.tasks.send_mail`")]
    NoName,
    /// An argument did not serialise to JSON, or not to what Celery needs.
    #[error("{what} can't be sent: {source}")]
    Argument {
        /// Which argument.
        what: String,
        /// What is wrong.
        source: BoxError,
    },
    /// The payload is too large.
    #[error(
        "its payload has {bytes} bytes, and the limit is {limit}: store the data elsewhere and send where it is, or raise \
         `CeleryProducerBuilder::max_payload_bytes`"
    )]
    TooLarge {
        /// The size of the payload.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An option can't be used.
    #[error("{0}")]
    Option(String),
    /// The task is due later than a worker can hold it.
    #[error("it is due in {delay:?}, and {reason}")]
    TooLate {
        /// In how long it is due.
        delay: Duration,
        /// How long a worker can hold a task that is not due.
        limit: Duration,
        /// Why, and what to do.
        reason: String,
    },
    /// RabbitMQ has no such queue, so nothing was stored.
    #[error(
        "RabbitMQ has no queue `{queue}`, so nothing was stored: check its name and the virtual host, or start a worker \
         that reads it (`celery worker -Q {queue}`), which makes the queue"
    )]
    NoQueue {
        /// The queue.
        queue: String,
    },
    /// RabbitMQ refused to confirm the message.
    #[error(
        "RabbitMQ did not confirm it, and may have stored it or not: the queue may be full, or one of its nodes in \
         trouble; see the log of the server, and send the task again if it may run twice"
    )]
    NotConfirmed,
    /// The chain has no task.
    #[error("the chain has no task")]
    EmptyChain,
    /// The broker refused it, or can't be reached.
    #[error(transparent)]
    Broker(QueueError),
}

/// The state or the result of a task could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The producer knows no result backend.
    #[error(
        "the producer has no result backend: call `CeleryProducerBuilder::result_backend` with the `result_backend` of \
         the workers, which must be Redis"
    )]
    NoResultBackend,
    /// The result backend can't be read.
    #[error(transparent)]
    Backend(QueueError),
    /// What is stored is not what Celery stores as JSON.
    #[error(
        "what is stored for task {id} is not JSON as Celery writes it: set `result_serializer` to `json` in the workers"
    )]
    NotJson {
        /// The id of the task.
        id: JobId,
        /// What is wrong.
        #[source]
        source: BoxError,
    },
    /// The result has another type.
    #[error("the result of task {id} can't be read as the type that was asked for")]
    Type {
        /// The id of the task.
        id: JobId,
        /// What is wrong.
        #[source]
        source: BoxError,
    },
}

/// What a server said, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
pub(super) struct Advised {
    pub(super) advice: &'static str,
    #[source]
    pub(super) source: BoxError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_error_says_whether_the_task_may_be_stored() {
        let source = || BoxError::from("connection reset");
        let error = |kind| SendError::new(JobId::from_u128(1), "shop.mail".to_owned(), kind);
        let unreachable = error(SendErrorKind::Broker(QueueError::Unreachable { engine: "Redis", source: source() }));
        assert!(!unreachable.may_be_stored());
        assert!(unreachable.is_transient());
        assert!(unreachable.to_string().contains("`shop.mail` was not sent: Redis can't be reached"), "{unreachable}");
        assert_eq!(unreachable.source().map(ToString::to_string).as_deref(), Some("connection reset"));

        let interrupted = error(SendErrorKind::Broker(QueueError::Interrupted { engine: "Redis", source: source() }));
        assert!(interrupted.may_be_stored());
        assert!(error(SendErrorKind::NotConfirmed).may_be_stored());
        let no_queue = error(SendErrorKind::NoQueue { queue: "mails".to_owned() });
        assert!(!no_queue.may_be_stored());
        assert!(no_queue.to_string().contains("celery worker -Q mails"), "{no_queue}");
    }
}
