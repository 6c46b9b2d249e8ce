//! 3. Failures are capped, and so are crashes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use postlude_jobs::{JobState, Page, PushOptions};
use tokio::sync::Notify;

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, SECOND, attempt, builder, until, until_len, until_state},
};

/// As after a crash: the lease has run out.
const CRASH: &str = "UPDATE postlude_jobs SET lease_until = 1 WHERE state = 2";

pub(crate) async fn failures_are_capped<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (builder, _registry) = builder(&engine).await;
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        noted.mail(&mail);
        async move { Err::<(), _>(format!("attempt {} failed", attempt())) }
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    let info = until_state(&jobs, id, JobState::Dead).await;
    assert_eq!((info.failures, info.crashes, info.last_error.as_deref()), (3, 0, Some("failed: attempt 3 failed")));
    assert_eq!(journal.entries(), [(1, 1), (1, 2), (1, 3)]);

    let dead = jobs.dead(Page::default()).await.unwrap();
    let errors: Vec<_> = dead[0].errors.iter().map(|error| (error.attempt, error.message.as_str())).collect();
    assert_eq!(
        errors,
        [1, 2, 3].map(|n| (
            n,
            ["failed: attempt 1 failed", "failed: attempt 2 failed", "failed: attempt 3 failed"][n as usize - 1]
        ))
    );
    assert_eq!(dead[0].payload(), br#"{"number":1}"#);
}

pub(crate) async fn push_options_replace_max_attempts<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let jobs = builder.handle(async |_: Mail| Err::<(), _>("no")).start().await.unwrap();
    let id = jobs.push_with(Mail { number: 1 }, PushOptions::default().max_attempts(1)).await.unwrap();
    assert_eq!(until_state(&jobs, id, JobState::Dead).await.failures, 1);
}

pub(crate) async fn crashes_are_capped_apart<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (builder, _registry) = builder(&engine).await;
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        noted.mail(&mail);
        async move {
            if attempt() == 1 {
                return Err("the first attempt fails");
            }
            std::future::pending::<()>().await;
            Ok(())
        }
    };
    // Long, so that no renewal comes between.
    let jobs = builder.lease(60 * SECOND).handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    for attempts in 2..4 {
        until_len(&journal, attempts).await;
        engine.execute(CRASH).await;
    }
    let info = until_state(&jobs, id, JobState::Dead).await;
    assert_eq!((info.failures, info.crashes), (1, 2), "two crashes are the cap of this kind");
    assert!(info.last_error.unwrap().contains("2 times"));
    assert_eq!(journal.entries(), [(1, 1), (1, 2), (1, 3)]);
}

pub(crate) async fn a_release_counts_as_neither<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    for ran in 1..=4 {
        let (builder, registry) = builder(&engine).await;
        let noted = journal.clone();
        let handler = move |mail: Mail| {
            noted.mail(&mail);
            std::future::pending::<()>()
        };
        let jobs = builder.handle(handler).start().await.unwrap();
        if ran == 1 {
            jobs.push(Mail { number: 1 }).await.unwrap();
        }
        until_len(&journal, ran).await;
        registry.shutdown(SECOND / 100).await;
    }
    let (jobs, _registry) = crate::support::mail_worker(&engine, &journal).await;
    until_len(&journal, 5).await;
    assert_eq!(journal.entries(), [(1, 1); 5], "each run was the first attempt");
    until("it has completed", async || jobs.metrics().completed == 1).await;
}

/// Counts a job as running until it is dropped.
struct Running<'a>(&'a AtomicUsize);

impl<'a> Running<'a> {
    fn enter(count: &'a AtomicUsize, most: &AtomicUsize) -> Self {
        most.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The others come while the crashed job runs its second attempt, and they are quick: they would be seen beside it.
pub(crate) async fn a_crashed_job_runs_alone<E: TestEngine>() {
    let engine = E::create().await;
    let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let (builder, _registry) = builder(&engine).await;
    let handler = {
        let (counts, journal, go) = (Arc::clone(&counts), journal.clone(), Arc::clone(&go));
        move |mail: Mail| {
            let (counts, journal, go) = (Arc::clone(&counts), journal.clone(), Arc::clone(&go));
            async move {
                let _running = (mail.number == 0).then(|| Running::enter(&counts.0, &counts.1));
                if mail.number > 0 && counts.0.load(Ordering::SeqCst) > 0 {
                    counts.1.store(2, Ordering::SeqCst);
                }
                journal.mail(&mail);
                if mail.number == 0 {
                    go.notified().await;
                }
            }
        }
    };
    let jobs = builder.concurrency(8).lease(60 * SECOND).handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 0 }).await.unwrap();
    until_len(&journal, 1).await;
    engine.execute(CRASH).await;
    until_len(&journal, 2).await;
    jobs.push_all((1..50).map(|number| Mail { number }).collect()).await.unwrap();
    // The worker looks once a second at least, and has the room for seven more.
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!((journal.len(), counts.1.load(Ordering::SeqCst)), (2, 1), "nothing runs beside it");
    go.notify_one();
    let info = until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(info.crashes, 1);
    until_len(&journal, 51).await;
}
