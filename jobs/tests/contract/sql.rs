//! What PostgreSQL alone has: the function for other clients, migrations by many at once, pools, locked rows.

use std::sync::Arc;

use postlude::progress;
use postlude_jobs::{JobState, Jobs, postgres::PostgresQueue};
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;

use crate::{
    engine::{Postgres, TestEngine},
    support::{Journal, Mail, Report, SECOND, builder, mail_worker, until, until_state},
};

async fn push(connection: &mut PgConnection, sql: &'static str) -> postlude_jobs::JobId {
    let id: String = sqlx::query_scalar(sql).fetch_one(connection).await.unwrap();
    id.parse().unwrap()
}

/// A job that was pushed by SQL alone is a job like any other.
pub(crate) async fn the_function_pushes_in_the_transaction_of_its_caller() {
    let engine = Postgres::create().await;
    let journal = Journal::default();
    let (jobs, _registry) = mail_worker(&engine, &journal).await;
    let mut connection = PgConnection::connect(engine.url()).await.unwrap();

    let mut transaction = connection.begin().await.unwrap();
    let lost = push(&mut transaction, "SELECT postlude_push('mail', '{\"number\": 1}')::text").await;
    transaction.rollback().await.unwrap();
    assert_eq!(jobs.find(lost).await.unwrap(), None);

    let id = push(&mut connection, "SELECT postlude_push('mail', '{\"number\": 2}')::text").await;
    until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(journal.entries(), [(2, 1)]);

    let delayed = "SELECT postlude_push('mail', '{\"number\": 3}', 60000, 'key', job_priority => 0::smallint)::text";
    let delayed_id = push(&mut connection, delayed).await;
    let info = jobs.find(delayed_id).await.unwrap().unwrap();
    assert_eq!((info.state, info.priority), (JobState::Scheduled, postlude::Priority::High));
    assert_eq!(info.due_at, info.pushed_at + 60 * SECOND);
    assert_eq!(push(&mut connection, delayed).await, delayed_id, "the key is held");

    let too_large = "SELECT postlude_push('mail', to_jsonb(repeat('x', 300000)))::text";
    let error = sqlx::query(too_large).execute(&mut connection).await.unwrap_err();
    assert!(error.to_string().contains("the limit is 262144"), "{error}");
}

/// Processes that start at the same time create the tables once.
pub(crate) async fn tables_are_created_once() {
    let engine = Postgres::create().await;
    let registry = postlude::TaskRegistry::new();
    for _ in 0..8 {
        let queue = engine.queue().await;
        registry.spawn(async move { Jobs::producer(queue).await.map(drop) });
    }
    registry.wait_idle().await;
    assert_eq!(registry.metrics().completed, 8, "{:?}", registry.history());
}

/// Handlers that use up the pool cost no lease.
pub(crate) async fn renewals_do_not_wait_for_the_pool() {
    let engine = Postgres::create().await;
    let journal = Journal::default();
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(engine.url()).await.unwrap();
    let registry = postlude::TaskRegistry::new();
    let builder = Jobs::builder(PostgresQueue::with_pool(pool.clone()), registry).lease(SECOND);
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        let (noted, pool) = (noted.clone(), pool.clone());
        async move {
            let _all_of_the_pool = pool.acquire().await.unwrap();
            tokio::time::sleep(3 * SECOND).await;
            noted.mail(&mail);
        }
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    // A worker of another kind of job: it would take the job back if its lease ran out.
    let other = Jobs::builder(engine.queue().await, postlude::TaskRegistry::new());
    let other = other.handle(async |_: Report| ()).start().await.unwrap();
    let id = other.push(Mail { number: 1 }).await.unwrap();
    let info = until_state(&other, id, JobState::Completed).await;
    assert_eq!((info.crashes, jobs.metrics().lost, other.metrics().taken_back), (0, 0, 0));
    assert_eq!(journal.entries(), [(1, 1)]);
}

/// A pool of one connection, which only polls, as behind a PgBouncer.
pub(crate) async fn a_small_pool_without_notifications_is_enough() {
    let engine = Postgres::create().await;
    let journal = Journal::default();
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(engine.url()).await.unwrap();
    let registry = postlude::TaskRegistry::new();
    let builder = Jobs::builder(PostgresQueue::with_pool_polling(pool), registry);
    let noted = journal.clone();
    let handler = move |mail: Mail| {
        noted.mail(&mail);
        async {}
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    let other = Jobs::producer(engine.queue().await).await.unwrap();
    let id = other.push(Mail { number: 1 }).await.unwrap();
    until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(journal.entries(), [(1, 1)]);
}

/// Whoever locks the row of a running job does not hold up the progress of the others. That of the locked job is stored
/// afterwards, although the job reports nothing more.
pub(crate) async fn the_progress_of_a_locked_job_is_stored_later() {
    let engine = Postgres::create().await;
    let (builder, registry) = builder(&engine).await;
    let steps = [Arc::new(Notify::new()), Arc::new(Notify::new())];
    let waits = steps.clone();
    let handler = move |mail: Mail| {
        let step = Arc::clone(if mail.number == 0 { &waits[0] } else { &waits[1] });
        async move {
            progress().set(1, 2);
            step.notified().await;
            progress().set(2, 2);
            std::future::pending::<()>().await;
        }
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    let ids = [jobs.push(Mail { number: 0 }).await.unwrap(), jobs.push(Mail { number: 1 }).await.unwrap()];
    let shows = async |id, text: &str| {
        until(text, async || {
            let info = jobs.find(id).await.unwrap().unwrap();
            info.progress.is_some_and(|progress| progress.to_string() == text)
        })
        .await;
    };
    shows(ids[0], "1 of 2").await;
    shows(ids[1], "1 of 2").await;

    let mut connection = PgConnection::connect(engine.url()).await.unwrap();
    let mut lock = connection.begin().await.unwrap();
    let query = sqlx::query("SELECT 1 FROM postlude_jobs WHERE id = $1::uuid FOR UPDATE").bind(ids[0].to_string());
    query.execute(&mut *lock).await.unwrap();
    steps[0].notify_one();
    until("the locked job has reported", async || {
        registry
            .tasks()
            .iter()
            .filter_map(|task| task.progress.as_ref())
            .any(|progress| progress.to_string() == "2 of 2")
    })
    .await;
    steps[1].notify_one();
    shows(ids[1], "2 of 2").await;
    let info = jobs.find(ids[0]).await.unwrap().unwrap();
    assert_eq!(info.progress.unwrap().to_string(), "1 of 2", "its row is locked");
    lock.rollback().await.unwrap();
    shows(ids[0], "2 of 2").await;
}
