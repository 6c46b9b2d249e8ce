//! Shared by the tests.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use postlude::{RetryPolicy, TaskRegistry};
use postlude_jobs::{Job, JobId, JobInfo, JobPolicy, JobState, Jobs, JobsBuilder, job};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::engine::TestEngine;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The lease of most tests.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

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

/// Waits until a condition holds. It fails after a time that is long enough for any machine.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn until_len<T: Clone>(journal: &Journal<T>, len: usize) {
    until(&format!("{len} entries are noted"), async || journal.len() >= len).await;
}

/// Waits until a job is in a state, and returns what is known of it.
pub(crate) async fn until_state(jobs: &Jobs, id: JobId, state: JobState) -> JobInfo {
    let start = Instant::now();
    loop {
        let info = jobs.find(id).await.unwrap().expect("the job is stored");
        if info.state == state {
            return info;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {state}: {info:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A worker with a registry of its own.
pub(crate) async fn builder<E: TestEngine>(engine: &E) -> (JobsBuilder, TaskRegistry) {
    let registry = TaskRegistry::new();
    (Jobs::builder(engine.queue().await, registry.clone()).lease(LEASE), registry)
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
