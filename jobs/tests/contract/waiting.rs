//! 5. Waiting costs nothing in process: the engine keeps what is not due, and what may not start.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use postlude::TaskRegistry;
use postlude_jobs::{JobState, Jobs, PushOptions};
use tokio::sync::Notify;

use crate::{
    engine::TestEngine,
    support::{Journal, LEASE, Mail, Report, SECOND, mail_worker, until, until_len, until_state},
};

pub(crate) async fn delayed_by_the_engine<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, registry) = mail_worker(&engine, &journal).await;
    let delay = SECOND / 2;
    let pushed = SystemTime::now();
    let id = jobs.push_with(Mail { number: 1 }, PushOptions::default().delay(delay)).await.unwrap();
    assert_eq!(jobs.find(id).await.unwrap().unwrap().state, JobState::Scheduled);
    assert_eq!(registry.tasks().len(), 0);
    let info = until_state(&jobs, id, JobState::Completed).await;
    assert!(info.started_at.unwrap() >= pushed + delay - Duration::from_millis(1), "{info:?}");
    // Nobody waits for it in vain.
    let far = PushOptions::default().delay(Duration::MAX);
    let far = jobs.push_with(Mail { number: 2 }, far).await.unwrap();
    assert_eq!(jobs.find(far).await.unwrap().unwrap().state, JobState::Scheduled);
}

pub(crate) async fn due_at_a_time<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let at = SystemTime::now() + SECOND / 2;
    let later = jobs.push_with(Mail { number: 1 }, PushOptions::default().at(at)).await.unwrap();
    let past = PushOptions::default().at(SystemTime::UNIX_EPOCH);
    let past = jobs.push_with(Mail { number: 2 }, past).await.unwrap();
    until_state(&jobs, past, JobState::Completed).await;
    let info = until_state(&jobs, later, JobState::Completed).await;
    assert!(info.started_at.unwrap() >= at - Duration::from_millis(1), "{info:?}");
    assert_eq!(journal.entries(), [(2, 1), (1, 1)]);
}

pub(crate) async fn no_more_is_reserved_than_may_start<E: TestEngine>() {
    let engine = E::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let registry = TaskRegistry::builder().limit_by_name("mail", 2).build().unwrap();
    let handler = {
        let (journal, go) = (journal.clone(), Arc::clone(&go));
        move |mail: Mail| {
            let (journal, go) = (journal.clone(), Arc::clone(&go));
            async move {
                journal.mail(&mail);
                go.notified().await;
            }
        }
    };
    let reports: Journal<u64> = Journal::default();
    let noted = reports.clone();
    let builder = Jobs::builder(engine.queue().await, registry.clone()).lease(LEASE).handle(handler);
    let builder = builder.handle(move |report: Report| {
        noted.note(report.number);
        async {}
    });
    let jobs = builder.start().await.unwrap();
    jobs.push_all((0..10).map(|number| Mail { number }).collect()).await.unwrap();
    until_len(&journal, 2).await;
    // The others are not held up by the limit of this name.
    jobs.push_all((0..10).map(|number| Report { number }).collect()).await.unwrap();
    until_len(&reports, 10).await;
    until("the reports are settled", async || jobs.metrics().completed == 10).await;
    let stats = jobs.stats().await.unwrap();
    assert_eq!((stats.get("mail").running, stats.get("mail").waiting), (2, 8));
    assert_eq!(registry.tasks().len(), 2, "none waits in the process");
    for ran in 3..=10 {
        go.notify_one();
        until_len(&journal, ran).await;
    }
}

pub(crate) async fn none_of_a_paused_name_is_reserved<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, registry) = mail_worker(&engine, &journal).await;
    registry.pause("mail");
    jobs.push_all((0..3).map(|number| Mail { number }).collect()).await.unwrap();
    // It has looked for work at least twice, because it looks every second at least.
    tokio::time::sleep(5 * SECOND / 2).await;
    assert_eq!((jobs.metrics().reserved, journal.entries().len()), (0, 0));
    registry.resume("mail");
    until_len(&journal, 3).await;
}

pub(crate) async fn no_more_is_in_hand_than_the_concurrency<E: TestEngine>() {
    let engine = E::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let registry = TaskRegistry::new();
    let handler = {
        let (journal, go) = (journal.clone(), Arc::clone(&go));
        move |mail: Mail| {
            let (journal, go) = (journal.clone(), Arc::clone(&go));
            async move {
                journal.mail(&mail);
                go.notified().await;
            }
        }
    };
    let builder = Jobs::builder(engine.queue().await, registry).lease(LEASE).concurrency(3).handle(handler);
    let jobs = builder.start().await.unwrap();
    jobs.push_all((0..9).map(|number| Mail { number }).collect()).await.unwrap();
    until_len(&journal, 3).await;
    assert_eq!(jobs.stats().await.unwrap().get("mail").running, 3);
    for ran in 4..=9 {
        go.notify_one();
        until_len(&journal, ran).await;
        let reserved = usize::try_from(jobs.metrics().reserved).unwrap();
        assert!(reserved <= ran, "a slot is free when a job is settled");
    }
}
