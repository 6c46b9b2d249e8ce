//! 6. The shutdown is the registry's.

use std::{sync::Arc, time::Duration};

use postlude_jobs::JobState;
use tokio::sync::Notify;

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, SECOND, builder, mail_worker, until, until_len, until_state},
};

pub(crate) async fn lets_jobs_run_and_settles_them<E: TestEngine>() {
    let engine = E::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let (builder, registry) = builder(&engine).await;
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
    let jobs = builder.handle(handler).start().await.unwrap();
    let id = jobs.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 1).await;
    let end = async {
        until("the shutdown has begun", async || registry.is_shutting_down()).await;
        go.notify_one();
    };
    let (report, ()) = tokio::join!(registry.shutdown(60 * SECOND), end);
    assert!(report.is_clean());
    // At once: the shutdown has waited for the settlement.
    assert_eq!(jobs.find(id).await.unwrap().unwrap().state, JobState::Completed);
}

pub(crate) async fn releases_what_did_not_finish<E: TestEngine>() {
    let engine = E::create().await;
    let journal = Journal::default();
    let (builder, registry) = builder(&engine).await;
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        noted.mail(&mail);
        std::future::pending::<()>()
    };
    // Nobody waits for this lease.
    let jobs = builder.lease(Duration::from_secs(3600)).handle(handler).start().await.unwrap();
    let ids = jobs.push_all((0..5).map(|number| Mail { number }).collect()).await.unwrap();
    until_len(&journal, 5).await;
    let report = registry.shutdown(SECOND / 100).await;
    assert_eq!(report.aborted.len(), 5);
    for id in &ids {
        let info = jobs.find(*id).await.unwrap().unwrap();
        assert_eq!((info.state, info.failures, info.crashes), (JobState::Waiting, 0, 0));
    }
    let (others, _registry) = mail_worker(&engine, &journal).await;
    for id in ids {
        until_state(&others, id, JobState::Completed).await;
    }
    assert_eq!(journal.len(), 10);
}

pub(crate) async fn reserves_no_more<E: TestEngine>() {
    let engine = E::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let (builder, registry) = builder(&engine).await;
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
    let jobs = builder.handle(handler).start().await.unwrap();
    jobs.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 1).await;
    let pushed = async {
        until("the shutdown has begun", async || registry.is_shutting_down()).await;
        let late = jobs.push(Mail { number: 2 }).await.unwrap();
        go.notify_one();
        late
    };
    let (_report, late) = tokio::join!(registry.shutdown(60 * SECOND), pushed);
    assert_eq!(jobs.find(late).await.unwrap().unwrap().state, JobState::Waiting);
    assert_eq!(journal.entries(), [(1, 1)]);
}

/// A worker that has nothing to do does not hold up the shutdown for the settle time.
pub(crate) async fn an_idle_worker_ends_at_once<E: TestEngine>() {
    let engine = E::create().await;
    let registry = postlude::TaskRegistry::builder().settle(600 * SECOND).build().unwrap();
    let builder = postlude_jobs::Jobs::builder(engine.queue().await, registry.clone());
    let _jobs = builder.handle(async |_: Mail| ()).start().await.unwrap();
    let shutdown = registry.shutdown(60 * SECOND);
    let report = tokio::time::timeout(60 * SECOND, shutdown).await.expect("it does not wait for the settle time");
    assert!(report.is_clean());
}
