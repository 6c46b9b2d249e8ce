//! A program of an older version and tables of a newer one, as during a deploy.

use std::sync::Arc;

use postlude_jobs::{JobState, Jobs, QueueError, StartError};
use tokio::sync::Notify;

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, builder, mail_worker, until, until_len, until_state},
};

/// Creates the tables, and changes them as a newer version may: it only adds.
async fn with_newer_tables<E: TestEngine>() -> E {
    let engine = E::create().await;
    drop(Jobs::producer(engine.queue().await).await.unwrap());
    engine.execute("UPDATE postlude_settings SET value = 99 WHERE name = 'schema'").await;
    engine.execute("ALTER TABLE postlude_jobs ADD COLUMN later text").await;
    engine
}

pub(crate) async fn newer_tables_that_older_programs_can_use<E: TestEngine>() {
    let engine = with_newer_tables::<E>().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let id = Jobs::producer(engine.queue().await).await.unwrap().push(Mail { number: 1 }).await.unwrap();
    until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(journal.entries(), [(1, 1)]);
}

pub(crate) async fn newer_tables_that_older_programs_can_not_use<E: TestEngine>() {
    let engine = with_newer_tables::<E>().await;
    engine.execute("UPDATE postlude_settings SET value = 98 WHERE name = 'usable_from'").await;
    let (worker, _registry) = builder(&engine).await;
    let worker = worker.handle(async |_: Mail| ()).start().await.map(drop);
    let producer = Jobs::producer(engine.queue().await).await.map(drop);
    for result in [worker, producer] {
        let error = result.unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(error, StartError::Queue(QueueError::Schema { found: 99, needed, .. }) if needed < 98),
            "{error:?}"
        );
        assert!(message.ends_with("update this program"), "{message}");
    }
}

/// It settles what it has, and goes on if the tables can be used again: the newer version was rolled back.
pub(crate) async fn a_worker_that_runs_reserves_no_more<E: TestEngine>() {
    let engine = E::create().await;
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let (worker, _registry) = builder(&engine).await;
    let (noted, may_end) = (journal.clone(), Arc::clone(&go));
    let handler = move |mail: Mail| {
        let (journal, go) = (noted.clone(), Arc::clone(&may_end));
        async move {
            journal.mail(&mail);
            go.notified().await;
        }
    };
    let jobs = worker.handle(handler).start().await.unwrap();
    let first = jobs.push(Mail { number: 1 }).await.unwrap();
    until_len(&journal, 1).await;

    engine.execute("UPDATE postlude_settings SET value = 99 WHERE name IN ('schema', 'usable_from')").await;
    let errors = async |count| until("the worker has noticed", async || jobs.metrics().engine_errors >= count).await;
    errors(1).await;
    let second = jobs.push(Mail { number: 2 }).await.unwrap();
    go.notify_one();
    until_state(&jobs, first, JobState::Completed).await;
    // It looks again and again.
    errors(jobs.metrics().engine_errors + 2).await;
    assert_eq!(jobs.find(second).await.unwrap().unwrap().state, JobState::Waiting);

    engine.execute("UPDATE postlude_settings SET value = 1 WHERE name IN ('schema', 'usable_from')").await;
    go.notify_one();
    until_state(&jobs, second, JobState::Completed).await;
    assert_eq!(journal.entries(), [(1, 1), (2, 1)]);
}
