//! Durable jobs for [`postlude`].
#![cfg_attr(docsrs, feature(doc_cfg))]

mod jobs;
mod model;
mod queue;
mod worker;

#[cfg(feature = "postgres")]
pub use self::queue::postgres;
#[cfg(feature = "sqlite")]
pub use self::queue::sqlite;
pub use self::{
    jobs::{builder::JobsBuilder, handle::Jobs},
    model::{
        codec::Codec,
        dead::{DeadJob, JobError},
        error::{PushError, PushErrorKind, QueueError, StartError},
        id::{JobId, ParseJobIdError},
        info::{JobInfo, JobState},
        job::Job,
        new_job::NewJob,
        options::PushOptions,
        output::{JobOutput, JobVerdict},
        page::Page,
        policy::JobPolicy,
        stats::{JobStats, NameStats},
    },
    queue::{Queue, capabilities::Capabilities},
    worker::metrics::WorkerMetrics,
};

/// The job that runs.
pub mod job {
    pub use crate::jobs::current::{Current, current};
}
