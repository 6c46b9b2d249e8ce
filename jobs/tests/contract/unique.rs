//! 8. A key is held from push until settled.

use std::sync::Arc;

use postlude_jobs::{JobState, Jobs, PushOptions};
use tokio::sync::Notify;

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, Report, attempt, builder, mail_worker, until, until_len, until_state},
};

fn key() -> PushOptions {
    PushOptions::default().unique("account 17")
}

pub(crate) async fn is_held_until_settled<E: TestEngine>() {
    let engine = E::create().await;
    let producer = Jobs::producer(engine.queue().await).await.unwrap();
    let first = producer.push_with(Mail { number: 1 }, key()).await.unwrap();
    assert_eq!(producer.push_with(Mail { number: 2 }, key()).await.unwrap(), first);
    let other_key = PushOptions::default().unique("account 18");
    assert_ne!(producer.push_with(Mail { number: 3 }, other_key).await.unwrap(), first);

    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    until_state(&jobs, first, JobState::Completed).await;
    let next = jobs.push_with(Mail { number: 4 }, key()).await.unwrap();
    assert_ne!(next, first, "the key is free");
    until_state(&jobs, next, JobState::Completed).await;
    let mut numbers: Vec<_> = journal.entries().into_iter().map(|(number, _)| number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 3, 4]);
}

pub(crate) async fn is_held_over_retries<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let handler = async |_: Report| Err::<(), _>("not yet");
    let jobs = builder.handle(handler).start().await.unwrap();
    let id = jobs.push_with(Report { number: 1 }, key()).await.unwrap();
    // The default backoff: it is tried again later.
    until_state(&jobs, id, JobState::Scheduled).await;
    assert_eq!(jobs.push_with(Report { number: 2 }, key()).await.unwrap(), id);
}

/// A worker whose jobs wait for `go` at each run.
async fn waiting<E: TestEngine>(engine: &E, fails: bool) -> (Jobs, Journal, Arc<Notify>) {
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let (builder, _registry) = builder(engine).await;
    let (noted, waits) = (journal.clone(), Arc::clone(&go));
    let handler = move |mail: Mail| {
        let (noted, waits) = (noted.clone(), Arc::clone(&waits));
        async move {
            noted.mail(&mail);
            waits.notified().await;
            if fails && mail.number == 1 && attempt() == 1 {
                return Ok(postlude_jobs::JobVerdict::Dead("no".to_owned()));
            }
            Ok::<_, std::io::Error>(postlude_jobs::JobVerdict::Done)
        }
    };
    (builder.handle(handler).start().await.unwrap(), journal, go)
}

pub(crate) async fn a_running_job_runs_again_once<E: TestEngine>() {
    let engine = E::create().await;
    let (jobs, journal, go) = waiting(&engine, false).await;
    let id = jobs.push_with(Mail { number: 1 }, key()).await.unwrap();
    until_len(&journal, 1).await;
    for number in 2..5 {
        assert_eq!(jobs.push_with(Mail { number }, key()).await.unwrap(), id);
    }
    go.notify_one();
    until_len(&journal, 2).await;
    go.notify_one();
    until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(journal.entries(), [(1, 1), (4, 1)], "once, with the payload of the latest push");
}

pub(crate) async fn skip_if_running_marks_nothing<E: TestEngine>() {
    let engine = E::create().await;
    let (jobs, journal, go) = waiting(&engine, false).await;
    let id = jobs.push_with(Mail { number: 1 }, key()).await.unwrap();
    until_len(&journal, 1).await;
    assert_eq!(jobs.push_with(Mail { number: 2 }, key().skip_if_running()).await.unwrap(), id);
    go.notify_one();
    until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(journal.entries(), [(1, 1)]);
}

pub(crate) async fn a_push_after_the_death_of_the_holder_is_not_missed<E: TestEngine>() {
    let engine = E::create().await;
    let (jobs, journal, go) = waiting(&engine, true).await;
    let id = jobs.push_with(Mail { number: 1 }, key()).await.unwrap();
    until_len(&journal, 1).await;
    jobs.push_with(Mail { number: 2 }, key()).await.unwrap();
    go.notify_one();
    until_state(&jobs, id, JobState::Dead).await;
    until_len(&journal, 2).await;
    assert_eq!(journal.entries(), [(1, 1), (2, 1)]);
    go.notify_one();
    until("it is settled", async || jobs.metrics().completed == 1).await;
}

pub(crate) async fn keys_belong_to_names<E: TestEngine>() {
    let engine = E::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    let mail = jobs.push_with(Mail { number: 1 }, key()).await.unwrap();
    let report = jobs.push_with(Report { number: 1 }, key()).await.unwrap();
    assert_ne!(mail, report);
}
