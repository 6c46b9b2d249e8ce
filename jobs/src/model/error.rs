//! What can go wrong, and what to do then.

use std::{error::Error, fmt, time::Duration};

use postlude::{BoxError, ScheduleError};

use super::id::JobId;

/// A job was not pushed, or may not have been.
///
/// [`may_be_stored`](Self::may_be_stored) tells which. A push that may have been stored can be repeated with its
/// [id](Self::id): the queue stores an id once.
///
/// ```no_run
/// use postlude_jobs::{Job, JobId, Jobs, PushError, PushOptions};
///
/// async fn push_surely<J: Job + Clone>(jobs: &Jobs, job: J) -> Result<JobId, PushError> {
///     match jobs.push(job.clone()).await {
///         Err(error) if error.may_be_stored() => {
///             jobs.push_with(job, PushOptions::default().id(error.id())).await
///         }
///         result => result,
///     }
/// }
/// ```
#[derive(Debug)]
pub struct PushError {
    id: JobId,
    name: &'static str,
    kind: PushErrorKind,
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {} `{}` was not pushed: {}", self.id, self.name, self.kind)
    }
}

impl Error for PushError {
    /// That of the kind, which is part of the message already.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}

/// Why a job was not pushed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushErrorKind {
    /// The payload did not serialise to JSON.
    #[error("its payload does not serialise to JSON")]
    Serialize(#[source] BoxError),
    /// The codec refused the payload.
    #[error("the codec refused its payload")]
    Codec(#[source] BoxError),
    /// The payload is too large.
    #[error(
        "its payload has {bytes} bytes, and the limit is {limit}: store the data elsewhere and push where it is, or raise \
         `JobsBuilder::max_payload_bytes`"
    )]
    TooLarge {
        /// The size of the payload.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The name is empty.
    #[error("its name is empty: set `Job::NAME`")]
    NoName,
    /// The queue refused it, or can't be reached.
    #[error(transparent)]
    Queue(QueueError),
}

impl PushError {
    pub(crate) const fn new(id: JobId, name: &'static str, kind: PushErrorKind) -> Self {
        Self { id, name, kind }
    }

    /// The id of the job; of the first one, if several were pushed. If the job [may be stored](Self::may_be_stored),
    /// push it again with this id.
    #[must_use]
    pub const fn id(&self) -> JobId {
        self.id
    }

    /// Why it was not pushed.
    #[must_use]
    pub const fn kind(&self) -> &PushErrorKind {
        &self.kind
    }

    /// Whether the job may have been stored all the same: the connection ended, or the time was over, before the engine
    /// had answered.
    #[must_use]
    pub const fn may_be_stored(&self) -> bool {
        matches!(&self.kind, PushErrorKind::Queue(error) if error.may_be_done())
    }
}

/// An operation of a queue failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// No connection was made, so nothing was done.
    #[error("{engine} can't be reached: check that it runs and that the address is right")]
    Unreachable {
        /// The engine.
        engine: &'static str,
        /// The driver's error.
        #[source]
        source: BoxError,
    },
    /// The connection ended before the engine answered. The operation may have been carried out.
    #[error("the connection to {engine} ended before it answered: the operation may have been carried out")]
    Interrupted {
        /// The engine.
        engine: &'static str,
        /// The driver's error.
        #[source]
        source: BoxError,
    },
    /// The engine answered with an error, so nothing was done.
    #[error("{engine} refused the operation")]
    Refused {
        /// The engine.
        engine: &'static str,
        /// The driver's error.
        #[source]
        source: BoxError,
    },
    /// The engine did not answer in time. The operation may have been carried out.
    #[error("{engine} did not answer within {limit:?}: the operation may have been carried out")]
    TimedOut {
        /// The engine.
        engine: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// The engine takes nothing now. What was sent already may be carried out later.
    #[error(
        "{engine} takes no jobs now, because it is short of memory or disk: free some, or raise its limits          (`vm_memory_high_watermark`, `disk_free_limit`); what was sent may be stored later"
    )]
    Blocked {
        /// The engine.
        engine: &'static str,
    },
    /// The engine can't do this.
    #[error("{engine} can't do this: {what}")]
    Unsupported {
        /// The engine.
        engine: &'static str,
        /// What was asked for.
        what: &'static str,
    },
    /// The tables are not those that this version needs. A worker that runs reserves no more, and settles what it has.
    #[error("the tables in {engine} have version {found}, and this version needs {needed}: {advice}")]
    Schema {
        /// The engine.
        engine: &'static str,
        /// The version of the tables; 0 if there are none.
        found: i64,
        /// The version that is needed.
        needed: i64,
        /// What to do.
        advice: &'static str,
    },
}

impl QueueError {
    /// Whether the operation may have been carried out.
    #[must_use]
    pub const fn may_be_done(&self) -> bool {
        matches!(self, Self::Interrupted { .. } | Self::TimedOut { .. } | Self::Blocked { .. })
    }

    /// Whether trying again later may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. }) || self.may_be_done()
    }
}

/// The jobs were not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// `concurrency` is zero.
    #[error("`concurrency` is 0, so no job would run: set at least 1, or call `producer` to push only")]
    NoConcurrency,
    /// The lease is too short.
    #[error("the lease of {lease:?} is too short: set at least {shortest:?}")]
    ShortLease {
        /// The lease.
        lease: Duration,
        /// The shortest lease.
        shortest: Duration,
    },
    /// There is no handler.
    #[error("no job has a handler, so no job would run: call `handle`, or `producer` to push only")]
    NoHandlers,
    /// A name has two handlers.
    #[error(
        "the job `{name}` has two handlers: give each kind of job a `NAME` of its own, and call `handle` once for each"
    )]
    TwoHandlers {
        /// The name.
        name: &'static str,
    },
    /// A job may run for longer than the engine lets it.
    #[error(
        "the job `{name}` has a time limit of {limit:?}, and {engine} takes a job back after {longest:?}: set a shorter          limit, or raise the timeout in the server and tell the queue (`RabbitQueue::consumer_timeout`)"
    )]
    LongTimeLimit {
        /// The name.
        name: &'static str,
        /// The time limit of the job.
        limit: Duration,
        /// The engine.
        engine: &'static str,
        /// After how long the engine takes a job back.
        longest: Duration,
    },
    /// A name is empty.
    #[error("a job has an empty name: set `Job::NAME`")]
    NoName,
    /// A schedule can't be parsed.
    #[error(transparent)]
    Cron(#[from] ScheduleError),
    /// A scheduled job does not serialise, or is too large.
    #[error("a scheduled job can't be pushed")]
    Push(#[source] PushError),
    /// The registry is shut down.
    #[error("the registry is shut down: start jobs before, on a registry that is open")]
    Closed,
    /// The queue can't be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_error_says_each_thing_once() {
        let source = || BoxError::from("connection refused");
        let kind = PushErrorKind::Queue(QueueError::Unreachable { engine: "PostgreSQL", source: source() });
        let error = PushError::new(JobId::from_u128(1), "mail", kind);
        assert!(
            error
                .to_string()
                .ends_with("PostgreSQL can't be reached: check that it runs and that the address is right")
        );
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("connection refused"));
        assert!(!error.may_be_stored());

        let kind = PushErrorKind::Queue(QueueError::Interrupted { engine: "PostgreSQL", source: source() });
        assert!(PushError::new(JobId::from_u128(1), "mail", kind).may_be_stored());
        let kind = PushErrorKind::TooLarge { bytes: 2, limit: 1 };
        assert!(!PushError::new(JobId::from_u128(1), "mail", kind).may_be_stored());
    }
}
