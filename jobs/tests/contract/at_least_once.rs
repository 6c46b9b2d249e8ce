//! 2. At least once: what was settled never runs again, and a lease is kept while the work runs.

use std::{sync::Arc, time::Duration};

use postlude::TaskRegistry;
use postlude_jobs::{JobState, Jobs};
use tokio::{sync::Notify, time::sleep};

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, SECOND, builder, mail_worker, until, until_len, until_state},
};

/// Makes every lease look as if it had run out.
const EXPIRE: &str = "UPDATE postlude_jobs SET lease_until = 1 WHERE state = 2";

pub(crate) async fn what_completed_never_runs_again<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    until_state(&jobs, id, JobState::Completed).await;

    let (others, registry) = mail_worker(&engine, &journal).await;
    let last = others.push(Mail { number: 2 }).await.unwrap();
    until_state(&jobs, last, JobState::Completed).await;
    registry.shutdown(SECOND).await;
    assert_eq!(journal.entries(), [(1, 1), (2, 1)]);
}

pub(crate) async fn a_job_longer_than_its_lease_runs_once<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let lease = Duration::from_millis(500);
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (builder, registry) = builder(&engine).await;
        let journal = journal.clone();
        let handler = move |mail: Mail| {
            let journal = journal.clone();
            async move {
                journal.mail(&mail);
                sleep(4 * lease).await;
            }
        };
        workers.push((builder.lease(lease).handle(handler).start().await.unwrap(), registry));
    }
    let id = workers[0].0.push(Mail { number: 1 }).await.unwrap();
    let info = until_state(&workers[0].0, id, JobState::Completed).await;
    assert_eq!((journal.entries(), info.crashes), (vec![(1, 1)], 0));
}

/// A worker whose job waits for `go`.
async fn waiting_worker<E: TestEngine>(engine: &E, journal: &Journal, go: &Arc<Notify>) -> (Jobs, TaskRegistry) {
    let (builder, registry) = builder(engine).await;
    let (journal, go) = (journal.clone(), Arc::clone(go));
    let handler = move |mail: Mail| {
        let (journal, go) = (journal.clone(), Arc::clone(&go));
        async move {
            journal.mail(&mail);
            go.notified().await;
        }
    };
    (builder.lease(60 * SECOND).handle(handler).start().await.unwrap(), registry)
}

pub(crate) async fn a_late_settlement_is_refused<E: TestEngine>() {
    let engine = E::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let (jobs, _registry) = waiting_worker(&engine, &journal, &go).await;
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 1).await;
    // As if another worker had taken it meanwhile. The lease is long, so the worker does not learn of it.
    engine.execute("UPDATE postlude_jobs SET owner = '00000000-0000-0000-0000-000000000001', run = run + 1").await;
    go.notify_one();
    until("the settlement is refused", async || jobs.metrics().refused == 1).await;
    assert_eq!(jobs.find(id).await.unwrap().unwrap().state, JobState::Running, "it is the other worker's");
    assert_eq!(jobs.metrics().completed, 0);
}

pub(crate) async fn a_lost_lease_cancels_the_attempt<E: TestEngine>() {
    let engine = E::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let (jobs, registry) = waiting_worker(&engine, &journal, &go).await;
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 1).await;
    engine.execute(EXPIRE).await;
    until("the attempt is cancelled", async || registry.metrics().aborted == 1).await;
    // It runs again, as its second attempt.
    until_len(&journal, 2).await;
    go.notify_one();
    let info = until_state(&jobs, id, JobState::Completed).await;
    assert_eq!((journal.entries(), info.crashes), (vec![(1, 1), (1, 2)], 1));
    until("it is counted", async || jobs.metrics().completed == 1).await;
    assert_eq!((jobs.metrics().lost, jobs.metrics().taken_back), (1, 1));
}

pub(crate) async fn the_lease_is_one_value_for_all_workers<E: TestEngine>() {
    let engine = E::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let (jobs, _registry) = waiting_worker(&engine, &journal, &go).await;
    // A start that sets none takes the one that is stored, of a minute: this one does not change it.
    let other = Jobs::producer(engine.queue().await).await.unwrap();
    let id = other.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 1).await;
    engine.execute("UPDATE postlude_settings SET value = 900 WHERE name = 'lease'").await;
    // The worker learns of the shorter lease: it renews in time, and keeps the job.
    sleep(4 * SECOND).await;
    go.notify_one();
    until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(jobs.metrics().lost, 0);
}

pub(crate) async fn work_that_goes_on_after_its_time_limit_keeps_its_lease<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let registry = TaskRegistry::builder().default_timeout(Duration::from_millis(50)).build().unwrap();
    let builder = Jobs::builder(engine.queue().await, registry.clone()).lease(SECOND);
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        let noted = noted.clone();
        async move {
            noted.mail(&mail);
            if attempt_is_first() {
                // A future that does not yield can't be stopped.
                tokio::task::block_in_place(|| std::thread::sleep(3 * SECOND));
                noted.note((0, 0));
            }
        }
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    until("the first attempt has timed out", async || registry.metrics().timed_out == 1).await;
    let info = until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(info.failures, 1);
    assert_eq!(journal.entries(), [(1, 1), (0, 0), (1, 2)], "the second attempt starts when the first has returned");
}

fn attempt_is_first() -> bool {
    crate::support::attempt() == 1
}
