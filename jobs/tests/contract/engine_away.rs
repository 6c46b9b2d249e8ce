//! 7. The engine may go. What takes a server down and up again is in the fault suite.

use postlude_jobs::{JobState, Jobs};

use crate::{
    engine::TestEngine,
    support::{Journal, LEASE, Mail, SECOND, mail_worker, until_state},
};

pub(crate) async fn a_push_fails_within_its_time_limit<E: TestEngine>() {
    let engine = E::create().await;
    let registry = postlude::TaskRegistry::new();
    let builder = Jobs::builder(engine.queue().await, registry).lease(LEASE).push_timeout(SECOND / 5);
    let jobs = builder.producer().await.unwrap();
    let lock = engine.lock().await;
    let error = jobs.push(Mail { number: 1 }).await.unwrap_err();
    assert!(error.may_be_stored(), "{error:?}");
    let id = error.id();
    E::unlock(lock).await;
    // Pushed again with its id, it is stored once, whatever became of the first push.
    let options = postlude_jobs::PushOptions::default().id(id);
    assert_eq!(jobs.push_with(Mail { number: 1 }, options).await.unwrap(), id);
    assert_eq!(jobs.stats().await.unwrap().get("mail").waiting, 1);
}

pub(crate) async fn workers_go_on<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let first = jobs.push(Mail { number: 1 }).await.unwrap();
    until_state(&jobs, first, JobState::Completed).await;
    let lock = engine.lock().await;
    // Longer than SQLite waits for a lock, so that operations fail.
    tokio::time::sleep(6 * SECOND).await;
    E::unlock(lock).await;
    let second = jobs.push(Mail { number: 2 }).await.unwrap();
    until_state(&jobs, second, JobState::Completed).await;
    assert_eq!(journal.entries(), [(1, 1), (2, 1)]);
}
