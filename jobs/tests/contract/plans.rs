//! How PostgreSQL carries out the statements of pushes, workers and operators: from indexes, however many jobs are
//! stored. The server logs the plan of each statement that it really runs, with its extension `auto_explain`.

use std::sync::Arc;

use postlude_jobs::{
    BoxError, JobState, JobVerdict, Jobs, JobsBuilder, Page, PushOptions, job, postgres::PostgresQueue,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Notify;

use crate::{
    common::{
        postgres::{self, Server},
        until, until_state,
    },
    support::{Mail, SECOND},
};

/// A part of each statement that runs often, and of each that an operator waits for.
const STATEMENTS: [&str; 21] = [
    "WITH ORDINALITY",                                            // push
    "unique_key, headers, payload) SELECT $1::uuid",              // push with a key
    "SET again_payload = $3",                                     // push while the holder of the key runs
    "AND state <= 2 FOR SHARE",                                   // push while it waits
    "SET state = 2, owner",                                       // reserve
    "), renewed AS (",                                            // renew
    "AS crashed",                                                 // look for what is due
    "SET state = 0 WHERE seq = ANY",                              // make what is due wait
    "crashes = crashes + 1",                                      // take back what lost its lease
    "DELETE FROM postlude_jobs WHERE seq = ANY",                  // prune
    "SET progress = coalesce",                                    // progress and results
    "SET state = 3",                                              // complete
    "SET state = 0, due = (SELECT postlude_now()), owner = NULL", // complete, and run again
    "jsonb_array_length(errors) >= $6",                           // retry
    "SET state = 4, finished_at",                                 // dead
    "lease_until = NULL WHERE id = $2::uuid AND run = $3",        // release
    "progress, result, payload FROM postlude_jobs WHERE id =",    // find
    "SET state = 5",                                              // cancel
    "ORDER BY finished_at DESC",                                  // the dead, by page
    "replays = replays + 1",                                      // replay
    "DELETE FROM postlude_jobs WHERE id",                         // discard
];

const SCAN: &str = "Seq Scan on postlude_jobs";

const CONTROL: &str = "SELECT count(*) FROM postlude_jobs WHERE headers = '{}'";

pub(crate) async fn no_statement_scans_the_jobs() {
    for mode in ["auto", "force_generic_plan"] {
        let server = Server::create();
        let url = server.create_database().await;
        let queue = fill(&url).await;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        for setting in [
            "session_preload_libraries = 'auto_explain'",
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_nested_statements = on",
            &format!("plan_cache_mode = {mode}"),
        ] {
            let alter = format!("ALTER ROLE postgres SET {setting}");
            sqlx::query(AssertSqlSafe(alter)).execute(&mut connection).await.unwrap();
        }
        drop(queue);
        use_all(&url).await;

        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::query(CONTROL).execute(&mut connection).await.unwrap();
        until("all is logged", async || server.log().contains(CONTROL)).await;
        check(&server.log(), mode);
    }
}

/// Each statement is in the log, with a plan that does not go through the table.
fn check(log: &str, mode: &str) {
    let log = log.split_whitespace().collect::<Vec<_>>().join(" ");
    let (control, plans): (Vec<_>, Vec<_>) =
        log.split("Query Text: ").skip(1).partition(|plan| plan.starts_with(CONTROL));
    assert!(control[0].contains(SCAN), "a scan is found: {control:?}");
    for statement in STATEMENTS {
        assert!(plans.iter().any(|plan| plan.contains(statement)), "{mode}: `{statement}` was run");
    }
    for plan in plans {
        assert!(!plan.contains(SCAN), "{mode}: {plan}");
    }
}

/// Creates the tables, and 100,000 jobs that wait, are scheduled, have completed, or are dead.
async fn fill(url: &str) -> PostgresQueue {
    let queue = PostgresQueue::connect(url).await.unwrap();
    drop(Jobs::producer(queue.clone()).await.unwrap());
    let mut connection = PgConnection::connect(url).await.unwrap();
    let fill = "INSERT INTO postlude_jobs
            (id, name, state, priority, due, pushed_at, finished_at, max_attempts, max_crashes, unique_key, headers, payload)
        SELECT gen_random_uuid(), CASE WHEN n % 3 = 0 THEN 'mail' ELSE 'report' END, state, 2,
            CASE WHEN state = 1 THEN postlude_now() + 3600000 + n ELSE 1 END, 1,
            CASE WHEN state IN (3, 4) THEN postlude_now() - CASE WHEN n % 50 = 0 THEN 172800000 ELSE 0 END END,
            25, 3, CASE WHEN n % 4 = 0 THEN 'key ' || n END, '{}', '{\"number\":0}'
        FROM generate_series(1, 100000) AS n, LATERAL (SELECT (ARRAY[0, 0, 0, 0, 1, 3, 3, 4])[1 + n % 8] AS state) AS of;
        ANALYZE postlude_jobs";
    sqlx::raw_sql(fill).execute(&mut connection).await.unwrap();
    queue
}

/// Runs a job to each kind of end, and asks all that an operator may.
async fn use_all(url: &str) {
    let registry = postlude::TaskRegistry::new();
    let go = Arc::new(Notify::new());
    let builder = Jobs::builder(PostgresQueue::connect(url).await.unwrap(), registry.clone());
    let jobs = handlers(builder, &go).lease(SECOND).start().await.unwrap();
    let mut connection = PgConnection::connect(url).await.unwrap();

    let ids = jobs.push_all((1..=5).map(|number| Mail { number }).collect()).await.unwrap();
    let key = || PushOptions::default().unique("account 17");
    let keyed = jobs.push_with(Mail { number: 6 }, key()).await.unwrap();
    until_state(&jobs, keyed, JobState::Running).await;
    assert_eq!(jobs.push_with(Mail { number: 1 }, key()).await.unwrap(), keyed, "it runs again");
    let later = PushOptions::default().delay(60 * SECOND).unique("account 18");
    let cancelled = jobs.push_with(Mail { number: 1 }, later.clone()).await.unwrap();
    assert_eq!(jobs.push_with(Mail { number: 1 }, later).await.unwrap(), cancelled);
    assert!(jobs.cancel(cancelled).await.unwrap());
    let soon = PushOptions::default().delay(SECOND / 10);
    let soon = jobs.push_with(Mail { number: 1 }, soon).await.unwrap();

    // The progress is stored, and the lease renewed.
    let held = ids[4];
    until("progress is stored", async || jobs.find(held).await.unwrap().unwrap().progress.is_some()).await;
    // Without an owner, so that no renewal comes between.
    let lose = "UPDATE postlude_jobs SET lease_until = 0, owner = NULL WHERE id = $1::uuid";
    sqlx::query(lose).bind(held.to_string()).execute(&mut connection).await.unwrap();
    until("it was taken back", async || jobs.find(held).await.unwrap().unwrap().crashes > 0).await;
    go.notify_waiters();
    for id in [ids[0], soon, keyed] {
        until("it has completed", async || {
            go.notify_waiters();
            jobs.find(id).await.unwrap().unwrap().state == JobState::Completed
        })
        .await;
    }
    let dead = until_state(&jobs, ids[2], JobState::Dead).await.id;
    for page in [Page::default(), Page::default().name("mail").after(dead)] {
        assert!(!jobs.dead(page).await.unwrap().is_empty());
    }
    jobs.pause("mail").await.unwrap();
    assert!(jobs.replay(dead).await.unwrap());
    let other = jobs.dead(Page::default()).await.unwrap()[0].id;
    assert!(jobs.discard(other).await.unwrap());
    registry.shutdown(SECOND / 10).await;
}

fn handlers(builder: JobsBuilder, go: &Arc<Notify>) -> JobsBuilder {
    let go = Arc::clone(go);
    builder.concurrency(64).handle(move |mail: Mail| {
        let go = Arc::clone(&go);
        async move {
            let attempt = job::current().expect("a job runs").attempt();
            match (mail.number, attempt) {
                (2, 1) => return Err(BoxError::from("the first attempt fails")),
                (3, _) => return Ok(JobVerdict::Dead("no".to_owned())),
                (4, 1) => return Ok(JobVerdict::Snooze(SECOND / 100)),
                (5 | 6, _) => {
                    postlude::progress().set(1, 2);
                    go.notified().await;
                }
                _ => {}
            }
            Ok(JobVerdict::Done)
        }
    })
}

pub(crate) fn can_run() -> bool {
    postgres::is_installed()
}
