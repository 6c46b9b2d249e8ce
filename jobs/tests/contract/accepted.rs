//! 1. Accepted before acknowledged.

use postlude_jobs::{JobState, Jobs, PushOptions};

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, mail_worker, until_len, until_state},
};

pub(crate) async fn is_stored_when_push_returns<E: TestEngine>() {
    let engine = E::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();

    let other = Jobs::producer(engine.queue().await).await.unwrap();
    let info = other.find(id).await.unwrap().unwrap();
    assert_eq!((info.state, info.name.as_str()), (JobState::Waiting, "mail"));
    assert_eq!((info.max_attempts, info.max_crashes), (3, 2), "the policy is stored");
}

pub(crate) async fn one_id_is_stored_once<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    let again = || PushOptions::default().id(id);
    assert_eq!(jobs.push_with(Mail { number: 2 }, again()).await.unwrap(), id);
    until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(jobs.push_with(Mail { number: 3 }, again()).await.unwrap(), id, "known within the retention");

    let last = jobs.push(Mail { number: 4 }).await.unwrap();
    until_state(&jobs, last, JobState::Completed).await;
    assert_eq!(journal.entries(), [(1, 1), (4, 1)]);
}

pub(crate) async fn push_all_is_one_transaction<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let ids = jobs.push_all((0..100).map(|number| Mail { number }).collect()).await.unwrap();
    assert_eq!(ids.len(), 100);
    until_len(&journal, 100).await;
    for id in ids {
        until_state(&jobs, id, JobState::Completed).await;
    }
    assert_eq!(jobs.push_all::<Mail>(Vec::new()).await.unwrap(), []);
    // None is stored if one can't be.
    engine.execute("DROP TABLE postlude_jobs").await;
    let error = jobs.push_all(vec![Mail { number: 1 }, Mail { number: 2 }]).await.unwrap_err();
    assert!(!error.may_be_stored(), "{error:?}");
}

pub(crate) async fn push_in_commits_with_its_transaction<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let new = jobs.prepare(Mail { number: 1 }).unwrap();
    let id = new.id();
    assert_eq!(E::push_in(&engine.queue().await, &engine, new, true).await, id);
    until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(journal.entries(), [(1, 1)]);
}

pub(crate) async fn push_in_rolls_back_with_its_transaction<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let new = jobs.prepare(Mail { number: 1 }).unwrap();
    let id = E::push_in(&engine.queue().await, &engine, new, false).await;
    assert_eq!(jobs.find(id).await.unwrap(), None);
    let last = jobs.push(Mail { number: 2 }).await.unwrap();
    until_state(&jobs, last, JobState::Completed).await;
    assert_eq!(journal.entries(), [(2, 1)]);
}
