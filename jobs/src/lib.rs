//! Durable jobs: work that survives its process, run as tasks of [`postlude`].
//!
#![cfg_attr(feature = "sqlite", doc = "```no_run")]
#![cfg_attr(not(feature = "sqlite"), doc = "```ignore")]
//! use postlude::TaskRegistry;
//! use postlude_jobs::{Job, Jobs, sqlite::SqliteQueue};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Invoice {
//!     order: u64,
//! }
//!
//! impl Job for Invoice {
//!     const NAME: &'static str = "invoice";
//! }
//!
//! async fn send(invoice: Invoice) -> Result<(), std::io::Error> {
//!     println!("invoice of order {}", invoice.order);
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let registry = TaskRegistry::new();
//!     let queue = SqliteQueue::open("jobs.db").await?;
//!     let jobs = Jobs::builder(queue, registry.clone()).handle(send).start().await?;
//!
//!     jobs.push(Invoice { order: 17 }).await?; // stored now, whatever happens next
//!
//!     registry.shutdown(std::time::Duration::from_secs(20)).await;
//!     Ok(())
//! }
//! ```
//!
//! # Guarantees
//! When [`Jobs::push`] has returned, the job is stored, and survives what its engine survives. It runs at least once,
//! until it completes or is dead: failures and crashes are capped apart, and a dead job is kept with its errors. What
//! has completed never runs again. A job may run twice if its worker dies between the work and the settlement, so
//! **handlers must be idempotent**.
//!
//! # Overview
//! | purpose | items |
//! |---|---|
//! | a kind of job, and how often it is tried | [`Job`], [`JobPolicy`] |
//! | pushing | [`Jobs::push`], [`Jobs::push_with`] and its [`PushOptions`], [`Jobs::push_all`] |
//! | pushing in a transaction | [`Jobs::prepare`], and the `push_in` of a queue |
//! | working | [`Jobs::builder`], [`JobsBuilder::handle`], [`JobVerdict`] |
//! | the job that runs, its progress and its result | [`job::current`], [`postlude::progress()`], [`Current::set_result`] |
//! | schedules | [`JobsBuilder::cron`] and its [`Schedule`] |
//! | one job, figures, dead jobs | [`Jobs::find`], [`Jobs::stats`], [`Jobs::metrics`], [`Jobs::dead`] |
//! | acting | [`Jobs::cancel`], [`Jobs::replay`], [`Jobs::discard`], [`Jobs::pause`] |
//! | encryption | [`Codec`] |
//! | engines | [`Queue`], [`Capabilities`], and the modules `sqlite`, `postgres`, `redis` and `rabbitmq` |
//! | routes for operators | `JobsRouter`, `Accepted` |
//! | work for existing Celery workers | the module `celery` |
//!
//! The [guide] says when to use a task and when a job, and describes leases, deploys, versions of payloads, secrets,
//! and what each engine survives.
//!
//! # Features
//! - `sqlite` (default): `SqliteQueue`, jobs in a file, for the processes of one machine.
//! - `postgres`: `PostgresQueue`, jobs in a database, for any number of machines.
//! - `redis`: `RedisQueue`, jobs in a Redis or Valkey server, for any number of machines.
//! - `celery`: `CeleryProducer`, which hands work to Celery workers, by Redis or RabbitMQ. Implies `redis`.
//! - `rabbitmq`: `RabbitQueue`, jobs in quorum queues of a `RabbitMQ` server or cluster.
//! - `axum`: `JobsRouter` and `Accepted`.
//! - `prometheus`: the figures for Prometheus, at `GET /metrics`. Implies `axum`.
//!
//! These public dependencies determine the major version of this crate: `postlude`, `serde`, `serde_json` and, with the
//! features, `sqlx`, `redis` and `axum`. The minimum Rust version is that of `sqlx`: 1.94.
//!
#![cfg_attr(
    all(feature = "sqlite", feature = "postgres", feature = "celery", feature = "rabbitmq", feature = "axum"),
    doc = "[guide]: guide::jobs"
)]
#![cfg_attr(
    not(all(feature = "sqlite", feature = "postgres", feature = "celery", feature = "rabbitmq", feature = "axum")),
    doc = "[guide]: #features"
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(any(feature = "sqlite", feature = "postgres")),
    expect(dead_code, reason = "some of it is for the tables of these engines")
)]

/// Compiles the example of the README.
#[cfg(all(doctest, feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(
    any(doc, doctest),
    feature = "sqlite",
    feature = "postgres",
    feature = "celery",
    feature = "rabbitmq",
    feature = "axum"
))]
pub mod guide;

#[cfg(any(feature = "celery", feature = "rabbitmq"))]
#[cfg_attr(not(feature = "rabbitmq"), expect(dead_code, reason = "some of it is for a queue"))]
mod amqp;
#[cfg(feature = "celery")]
pub mod celery;
mod jobs;
mod model;
mod queue;
#[cfg(feature = "axum")]
mod routes;
mod worker;

#[cfg(feature = "postgres")]
pub use self::queue::postgres;
#[cfg(feature = "rabbitmq")]
pub use self::queue::rabbitmq;
#[cfg(feature = "redis")]
pub use self::queue::redis;
#[cfg(feature = "sqlite")]
pub use self::queue::sqlite;
#[cfg(feature = "axum")]
pub use self::routes::{Accepted, JobsRouter, router};
pub use postlude::{BoxError, Schedule, ScheduleError};

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
        notes::ResultError,
        options::PushOptions,
        output::{JobOutput, JobVerdict},
        page::Page,
        policy::JobPolicy,
        stats::{Figure, JobStats, NameStats},
    },
    queue::{Queue, capabilities::Capabilities},
    worker::{current::Current, metrics::WorkerMetrics},
};

/// The job that runs.
pub mod job {
    pub use crate::worker::current::{Current, current};
}
