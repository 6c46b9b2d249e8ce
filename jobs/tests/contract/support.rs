//! Shared by the tests.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use postlude::{RetryPolicy, TaskRegistry};
use postlude_jobs::{Job, JobPolicy, Jobs, JobsBuilder, job};
use serde::{Deserialize, Serialize};

pub(crate) use crate::common::{until, until_state};
use crate::engine::TestEngine;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The lease of most tests.
/// The lease of tests that are about something else: no worker loses a job, on however busy a machine.
pub(crate) const LEASE: Duration = Duration::from_secs(120);

/// A job that is retried at once.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) number: u64,
}

impl Job for Mail {
    const NAME: &'static str = "mail";

    fn policy() -> JobPolicy {
        JobPolicy::default().max_attempts(3).max_crashes(2).backoff(RetryPolicy::constant(Duration::ZERO))
    }
}

/// A second kind of job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) number: u64,
}

impl Job for Report {
    const NAME: &'static str = "report";
}

/// What handlers did, as they noted it themselves.
#[derive(Clone, Debug)]
pub(crate) struct Journal<T = (u64, u32)>(Arc<Mutex<Vec<T>>>);

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Journal<T> {
    pub(crate) fn note(&self, entry: T) {
        self.0.lock().push(entry);
    }

    pub(crate) fn entries(&self) -> Vec<T> {
        self.0.lock().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Journal {
    /// Notes the number of a mail, and the attempt.
    pub(crate) fn mail(&self, mail: &Mail) {
        self.note((mail.number, attempt()));
    }
}

pub(crate) fn attempt() -> u32 {
    job::current().expect("a job runs").attempt()
}

pub(crate) async fn until_len<T: Clone>(journal: &Journal<T>, len: usize) {
    until(&format!("{len} entries are noted"), async || journal.len() >= len).await;
}

/// A worker with a registry of its own.
pub(crate) async fn builder<E: TestEngine>(engine: &E) -> (JobsBuilder, TaskRegistry) {
    let registry = TaskRegistry::new();
    let builder = Jobs::builder(engine.queue().await, registry.clone());
    (if E::HAS_LEASES { builder.lease(LEASE) } else { builder }, registry)
}

/// A worker that notes each mail.
pub(crate) async fn mail_worker<E: TestEngine>(engine: &E, journal: &Journal) -> (Jobs, TaskRegistry) {
    let (builder, registry) = builder(engine).await;
    let journal = journal.clone();
    let jobs = builder
        .handle(move |mail: Mail| {
            let journal = journal.clone();
            async move { journal.mail(&mail) }
        })
        .start()
        .await
        .unwrap();
    (jobs, registry)
}
