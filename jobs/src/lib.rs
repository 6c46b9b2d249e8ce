//! Durable jobs for [`postlude`].
#![cfg_attr(docsrs, feature(doc_cfg))]

mod jobs;
mod model;
mod queue;
#[cfg(feature = "axum")]
mod routes;
mod worker;

#[cfg(feature = "postgres")]
pub use self::queue::postgres;
#[cfg(feature = "sqlite")]
pub use self::queue::sqlite;
#[cfg(feature = "axum")]
pub use self::routes::{Accepted, JobsRouter, router};
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
    pub use crate::worker::current::{Current, current};
}
