//! What operators ask and do, and what the builder refuses.

use std::time::{Duration, SystemTime};

use postlude::{Priority, TaskRegistry};
use postlude_jobs::{JobId, JobState, JobVerdict, Jobs, Page, PushOptions, StartError};

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, Report, SECOND, builder, mail_worker, until, until_len, until_state},
};

pub(crate) async fn find<E: TestEngine>() {
    let engine = E::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    let before = SystemTime::now() - Duration::from_millis(1);
    let options = PushOptions::default().priority(Priority::Low).delay(60 * SECOND);
    let id = jobs.push_with(Mail { number: 1 }, options).await.unwrap();
    let info = jobs.find(id).await.unwrap().unwrap();
    assert_eq!((info.id, info.state, info.priority), (id, JobState::Scheduled, Priority::Low));
    assert!((before..SystemTime::now() + SECOND).contains(&info.pushed_at));
    assert_eq!(info.due_at, info.pushed_at + 60 * SECOND);
    assert_eq!((info.started_at, info.finished_at, info.replays), (None, None, 0));
    assert_eq!(jobs.find(JobId::generate()).await.unwrap(), None);
}

pub(crate) async fn stats<E: TestEngine>() {
    let engine = E::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    assert_eq!(jobs.stats().await.unwrap().names.len(), 0);
    jobs.push(Mail { number: 1 }).await.unwrap();
    jobs.push(Mail { number: 2 }).await.unwrap();
    jobs.push(Report { number: 3 }).await.unwrap();
    jobs.push_with(Mail { number: 4 }, PushOptions::default().delay(60 * SECOND)).await.unwrap();
    engine.execute("UPDATE postlude_jobs SET due = due - 5000 WHERE state = 0").await;
    engine.execute("UPDATE postlude_jobs SET state = 2, lease_until = 9999999999999 WHERE name = 'report'").await;
    // What was counted before may still be cached for a moment.
    until("the figures are up to date", async || jobs.stats().await.unwrap().get("report").running == 1).await;
    let stats = jobs.stats().await.unwrap();
    let mail = stats.get("mail");
    assert_eq!((mail.waiting, mail.scheduled, mail.running, mail.dead, mail.paused), (2, 1, 0, 0, false));
    assert!((5 * SECOND..60 * SECOND).contains(&mail.oldest_waiting.unwrap()), "{mail:?}");
    assert_eq!(stats.get("report").oldest_waiting, None);
    assert_eq!((stats.total().waiting, stats.total().running), (2, 1));
    assert_eq!(stats.get("none"), Default::default());
}

pub(crate) async fn cancel<E: TestEngine>() {
    let engine = E::create().await;
    let producer = Jobs::producer(engine.queue().await).await.unwrap();
    let waiting = producer.push_with(Mail { number: 1 }, PushOptions::default().unique("key")).await.unwrap();
    let scheduled = PushOptions::default().delay(60 * SECOND);
    let scheduled = producer.push_with(Mail { number: 2 }, scheduled).await.unwrap();
    for id in [waiting, scheduled] {
        assert!(producer.cancel(id).await.unwrap());
        assert!(!producer.cancel(id).await.unwrap());
        assert_eq!(producer.find(id).await.unwrap().unwrap().state, JobState::Cancelled);
    }
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let last = jobs.push_with(Mail { number: 3 }, PushOptions::default().unique("key")).await.unwrap();
    until_state(&jobs, last, JobState::Completed).await;
    assert!(!jobs.cancel(last).await.unwrap());
    assert_eq!(journal.entries(), [(3, 1)]);
}

/// A worker whose mails die at their first attempt.
async fn deadly<E: TestEngine>(engine: &E, journal: &Journal) -> (Jobs, TaskRegistry) {
    let (builder, registry) = builder(engine).await;
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        noted.mail(&mail);
        async { JobVerdict::Dead("no".to_owned()) }
    };
    (builder.handle(handler).start().await.unwrap(), registry)
}

pub(crate) async fn dead_in_pages<E: TestEngine>() {
    let engine = E::create().await;
    let (jobs, _registry) = deadly(&engine, &Journal::default()).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let id = jobs.push(Mail { number }).await.unwrap();
        until_state(&jobs, id, JobState::Dead).await;
        ids.push(id);
    }
    ids.reverse();
    let mut listed = Vec::new();
    loop {
        let page = match listed.last() {
            Some(last) => Page::first(2).after(*last),
            None => Page::first(2),
        };
        let page = jobs.dead(page.name("mail")).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        listed.extend(page.into_iter().map(|dead| dead.id));
    }
    assert_eq!(listed, ids, "the latest first");
    assert_eq!(jobs.dead(Page::default().name("report")).await.unwrap(), []);
}

pub(crate) async fn replay_starts_again_from_the_first_attempt<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (jobs, registry) = deadly(&engine, &journal).await;
    let id = jobs.push_with(Mail { number: 1 }, PushOptions::default().unique("key")).await.unwrap();
    until_state(&jobs, id, JobState::Dead).await;
    registry.shutdown(SECOND).await;
    // The key is free for another job; the replayed one does without.
    let other = jobs.push_with(Mail { number: 2 }, PushOptions::default().unique("key")).await.unwrap();
    assert_ne!(other, id);
    assert!(jobs.replay(id).await.unwrap());
    assert!(!jobs.replay(id).await.unwrap(), "it is not dead any more");
    assert_eq!(jobs.find(id).await.unwrap().unwrap().state, JobState::Waiting);

    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let info = until_state(&jobs, id, JobState::Completed).await;
    assert_eq!((info.failures, info.replays), (0, 1));
    assert_eq!(info.last_error.as_deref(), Some("failed: no"), "its errors are kept");
    until_state(&jobs, other, JobState::Completed).await;
    assert_eq!(journal.len(), 3);
    assert_eq!(journal.entries().iter().filter(|entry| **entry == (1, 1)).count(), 2);
}

pub(crate) async fn discard<E: TestEngine>() {
    let engine = E::create().await;
    let (jobs, _registry) = deadly(&engine, &Journal::default()).await;
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    until_state(&jobs, id, JobState::Dead).await;
    let scheduled = PushOptions::default().delay(60 * SECOND);
    let scheduled = jobs.push_with(Mail { number: 2 }, scheduled).await.unwrap();
    assert!(!jobs.discard(scheduled).await.unwrap(), "only dead jobs");
    assert!(jobs.discard(id).await.unwrap());
    assert!(!jobs.discard(id).await.unwrap());
    assert_eq!(jobs.find(id).await.unwrap(), None);
}

pub(crate) async fn pause_holds_for_all_workers<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (first, _registry) = mail_worker(&engine, &journal).await;
    let (second, _registry) = mail_worker(&engine, &journal).await;
    assert!(first.pause("mail").await.unwrap());
    assert!(!second.pause("mail").await.unwrap());
    first.push_all((0..10).map(|number| Mail { number }).collect()).await.unwrap();
    second.wake();
    tokio::time::sleep(SECOND).await;
    let stats = second.stats().await.unwrap().get("mail");
    assert_eq!((journal.len(), stats.waiting, stats.paused), (0, 10, true));
    assert!(second.resume("mail").await.unwrap());
    assert!(!second.resume("mail").await.unwrap());
    until_len(&journal, 10).await;
}

pub(crate) async fn retention_keeps_what_completed_for_a_while<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let handler =
        async |mail: Mail| if mail.number == 2 { JobVerdict::Dead("no".to_owned()) } else { JobVerdict::Done };
    let jobs = builder.retention(3600 * SECOND).handle(handler).start().await.unwrap();
    let mut ids = Vec::new();
    for (number, state) in [(0, JobState::Completed), (1, JobState::Completed), (2, JobState::Dead)] {
        let id = jobs.push(Mail { number }).await.unwrap();
        until_state(&jobs, id, state).await;
        ids.push(id);
    }
    // Older than the retention, apart from the second one.
    engine.execute("UPDATE postlude_jobs SET finished_at = finished_at - 3600000").await;
    let kept = jobs.push(Mail { number: 3 }).await.unwrap();
    until_state(&jobs, kept, JobState::Completed).await;
    let registry = TaskRegistry::new();
    let builder = Jobs::builder(engine.queue().await, registry).retention(3600 * SECOND);
    let _pruner = builder.handle(async |_: Mail| ()).start().await.unwrap();
    until("what is old is removed", async || jobs.find(ids[0]).await.unwrap().is_none()).await;
    assert_eq!(jobs.find(ids[1]).await.unwrap(), None);
    assert!(jobs.find(kept).await.unwrap().is_some());
    assert_eq!(jobs.find(ids[2]).await.unwrap().unwrap().state, JobState::Dead, "dead jobs are kept");
}

pub(crate) async fn mistakes_of_the_builder<E: TestEngine>() {
    let engine = E::create().await;
    let registry = TaskRegistry::new();
    let queue = engine.queue().await;
    let builder = || Jobs::builder(queue.clone(), registry.clone());
    let mail = async |_: Mail| ();
    let error = builder().concurrency(0).handle(mail).start().await.unwrap_err();
    assert!(matches!(error, StartError::NoConcurrency));
    let error = builder().start().await.unwrap_err();
    assert!(matches!(error, StartError::NoHandlers));
    let error = builder().handle(mail).handle(mail).start().await.unwrap_err();
    assert!(matches!(error, StartError::TwoHandlers { name: "mail" }));
    let error = builder().lease(Duration::ZERO).handle(mail).start().await.unwrap_err();
    assert!(matches!(error, StartError::ShortLease { .. }));
    registry.shutdown(Duration::ZERO).await;
    let error = builder().handle(mail).start().await.unwrap_err();
    assert!(matches!(error, StartError::Closed));
}
