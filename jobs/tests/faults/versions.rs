//! Two versions of a program at once, as during a deploy.

use std::{collections::BTreeMap, path::PathBuf, process, time::Duration};

use postlude::{RetryPolicy, TaskRegistry};
use postlude_jobs::{Job, JobPolicy, JobState, JobsBuilder, Page, PushOptions, job};
use serde::{Deserialize, Serialize};

use crate::{
    child::{Config, NEVER_LOST, Process, Role, builder},
    common::until_state,
    engine::Engine,
    work::{Entry, Log, note},
};

fn order_policy() -> JobPolicy {
    JobPolicy::default().backoff(RetryPolicy::constant(Duration::from_millis(100)))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OldOrder {
    number: u64,
}

impl Job for OldOrder {
    const NAME: &'static str = "order";

    fn policy() -> JobPolicy {
        order_policy()
    }
}

/// The old version can't decode it.
#[derive(Serialize, Deserialize)]
struct NewOrder {
    number: u64,
    #[serde(default)]
    is_express: bool,
}

impl Job for NewOrder {
    const NAME: &'static str = "order";

    fn policy() -> JobPolicy {
        order_policy()
    }
}

/// No version can decode it.
#[derive(Serialize, Deserialize)]
struct NoOrder {
    number: String,
}

impl Job for NoOrder {
    const NAME: &'static str = "order";

    fn policy() -> JobPolicy {
        order_policy()
    }
}

/// The old version does not know it.
#[derive(Serialize, Deserialize)]
struct Refund {
    number: u64,
}

impl Job for Refund {
    const NAME: &'static str = "refund";
}

async fn done(number: u64, log: PathBuf) {
    let (attempt, pid) = (job::current().unwrap().attempt(), process::id());
    note(&log, &Entry::End { number, attempt, pid });
}

pub(crate) fn handle_old(builder: JobsBuilder, log: PathBuf) -> JobsBuilder {
    builder.handle(move |order: OldOrder| done(order.number, log.clone()))
}

pub(crate) fn handle_new(builder: JobsBuilder, log: PathBuf) -> JobsBuilder {
    let refunds = log.clone();
    builder
        .handle(move |order: NewOrder| done(order.number, log.clone()))
        .handle(move |refund: Refund| done(refund.number, refunds.clone()))
}

/// Both versions push and work. Old payloads run in both, new ones and new names in the new one alone, and what nobody
/// can decode is dead with its bytes.
pub(crate) async fn two_versions_at_once<E: Engine>() {
    let (engine, folder) = (E::create().await, tempfile::tempdir().unwrap());
    let log = Log::new(folder.path().join("log"));
    let jobs = builder(&engine.address(), TaskRegistry::new()).await.producer().await.unwrap();
    let start = |role| Config::new(role, &engine.address(), log.path()).lease(NEVER_LOST).start();
    let old = start(Role::OldWorker);

    // The old worker alone: it leaves what it does not know, and keeps trying what it can't decode.
    let refund = jobs.push(Refund { number: 1_000 }).await.unwrap();
    let patient = || PushOptions::default().max_attempts(1_000);
    let express = NewOrder { number: 2_000, is_express: true };
    let express = jobs.push_with(express, patient()).await.unwrap();
    let undecodable = NoOrder { number: "seven".to_owned() };
    let undecodable = jobs.push_with(undecodable, PushOptions::default().max_attempts(3)).await.unwrap();
    let info = until_state(&jobs, undecodable, JobState::Dead).await;
    assert_eq!((info.failures, info.crashes), (3, 0));
    assert!(info.last_error.unwrap().contains("can't be decoded"));
    let dead = jobs.dead(Page::default()).await.unwrap();
    assert_eq!(dead[0].payload(), br#"{"number":"seven"}"#);
    let left = jobs.find(refund).await.unwrap().unwrap();
    assert_eq!((left.state, left.failures), (JobState::Waiting, 0), "it is left for those who know it");

    let new = start(Role::NewWorker);
    let mut ids = vec![refund, express];
    for number in 0..100 {
        ids.push(jobs.push(OldOrder { number }).await.unwrap());
        let order = NewOrder { number: 2_001 + number, is_express: false };
        ids.push(jobs.push_with(order, patient()).await.unwrap());
    }
    for id in ids {
        assert_eq!(until_state(&jobs, id, JobState::Completed).await.crashes, 0);
    }
    let new_pid = new.pid();
    [old, new].into_iter().for_each(Process::shut_down);
    let mut done = BTreeMap::new();
    for entry in log.entries() {
        if let Entry::End { number, pid, .. } = entry {
            assert!(done.insert(number, pid).is_none(), "{number} was done twice");
        }
    }
    assert_eq!(done.len(), 202);
    assert!(done.iter().all(|(number, pid)| *number < 1_000 || *pid == new_pid), "{done:?}");
}
