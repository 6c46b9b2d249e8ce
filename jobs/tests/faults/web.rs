//! A web server with its worker in the same process: an order and its job in one transaction, and a job that aborts the
//! process of the server.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path as FilePath,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use postlude::TaskRegistry;
use postlude_jobs::{Accepted, Jobs, JobsRouter};

use crate::{
    child::{Config, KEPT, NEVER_LOST, Process, Role, act, end_of_input, ready},
    common::until,
    engine::Engine,
    work::{Action, Entry, Log, Work},
};

/// The database of the shop, in which the queue is, too.
#[derive(Clone)]
enum Shop {
    #[cfg(feature = "sqlite")]
    Sqlite(postlude_jobs::sqlite::SqliteQueue, sqlx::SqlitePool),
    #[cfg(feature = "postgres")]
    Postgres(postlude_jobs::postgres::PostgresQueue, sqlx::PgPool),
}

const ORDERS: &str = "CREATE TABLE IF NOT EXISTS orders (number BIGINT PRIMARY KEY)";

impl Shop {
    async fn open(address: &str) -> Self {
        #[cfg(feature = "postgres")]
        if address.starts_with("postgres://") {
            let pool = sqlx::PgPool::connect(address).await.unwrap();
            sqlx::query(ORDERS).execute(&pool).await.unwrap();
            return Self::Postgres(postlude_jobs::postgres::PostgresQueue::with_pool(pool.clone()), pool);
        }
        #[cfg(feature = "sqlite")]
        {
            let queue = postlude_jobs::sqlite::SqliteQueue::open(address).await.unwrap();
            // A busy machine may take its time to write what is before it.
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(address).busy_timeout(NEVER_LOST);
            let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
            sqlx::query(ORDERS).execute(&pool).await.unwrap();
            Self::Sqlite(queue, pool)
        }
        #[cfg(not(feature = "sqlite"))]
        unreachable!("no engine for {address}")
    }

    fn builder(&self, registry: TaskRegistry) -> postlude_jobs::JobsBuilder {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(queue, _) => Jobs::builder(queue.clone(), registry),
            #[cfg(feature = "postgres")]
            Self::Postgres(queue, _) => Jobs::builder(queue.clone(), registry),
        }
    }

    /// Stores an order and its job, or neither.
    async fn order(&self, jobs: &Jobs, work: Work) -> Result<Accepted, Box<dyn std::error::Error + Send + Sync>> {
        let number = i64::try_from(work.number)?;
        let job = jobs.prepare(work)?;
        let insert = "INSERT INTO orders (number) VALUES ($1)";
        let id = match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(queue, pool) => {
                let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
                let id = queue.push_in(&mut transaction, job).await?;
                sqlx::query(insert).bind(number).execute(&mut *transaction).await?;
                transaction.commit().await?;
                id
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(queue, pool) => {
                let mut transaction = pool.begin().await?;
                let id = queue.push_in(&mut transaction, job).await?;
                sqlx::query(insert).bind(number).execute(&mut *transaction).await?;
                transaction.commit().await?;
                id
            }
        };
        jobs.wake();
        Ok(Accepted::new(id).under("/admin"))
    }
}

async fn order(State((shop, jobs)): State<(Shop, Jobs)>, Path((number, millis)): Path<(u64, u64)>) -> Response {
    store(&shop, &jobs, Work::new(number, Action::Take(millis))).await
}

/// An order whose job aborts the process.
async fn poison(State((shop, jobs)): State<(Shop, Jobs)>, Path((number, millis)): Path<(u64, u64)>) -> Response {
    store(&shop, &jobs, Work::new(number, Action::AbortAfter(millis))).await
}

async fn store(shop: &Shop, jobs: &Jobs, work: Work) -> Response {
    match shop.order(jobs, work).await {
        Ok(accepted) => accepted.into_response(),
        Err(error) => (StatusCode::CONFLICT, error.to_string()).into_response(),
    }
}

/// The process: serves until its standard input ends.
pub(crate) async fn run(address: &str, log: &FilePath, lease: Duration) {
    let registry = TaskRegistry::new();
    let shop = Shop::open(address).await;
    let (builder, log) = (shop.builder(registry.clone()).lease(lease), log.to_owned());
    let jobs = builder.handle(move |work: Work| act(work, log.clone())).start().await.unwrap();
    let app = Router::new()
        .route("/orders/{number}/{millis}", post(order))
        .route("/poison/{number}/{millis}", post(poison))
        .route("/up", get(async || "up"))
        .nest("/admin", JobsRouter::new(jobs.clone()).build())
        .with_state((shop, jobs));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    ready(&listener.local_addr().unwrap().port().to_string());
    axum::serve(listener, app).with_graceful_shutdown(end_of_input()).await.unwrap();
    registry.shutdown(Duration::from_secs(5)).await;
}

/// Sends a request. `None` if the server does not answer.
fn send(port: u16, method: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(2 * NEVER_LOST)).ok()?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    (!response.is_empty()).then_some(response)
}

/// Sends an order, and returns the location of its job.
fn send_order(port: u16, path: &str) -> String {
    let response = send(port, "POST", path).expect("the server answers");
    assert!(response.starts_with("HTTP/1.1 202"), "{response}");
    let location = response.lines().find_map(|line| line.strip_prefix("location: "));
    location.expect("the job has a location").to_owned()
}

/// Waits until the job at a location is in a state.
async fn until_state(port: u16, location: &str, state: &str) {
    let state = format!("\"state\":\"{state}\"");
    until(&state, async || send(port, "GET", location).is_some_and(|response| response.contains(&state))).await;
}

/// An order and its job exist both or not at all, and every replica answers for the job.
pub(crate) async fn an_order_and_its_job<E: Engine>() {
    let (engine, folder) = (E::create().await, tempfile::tempdir().unwrap());
    let log = Log::new(folder.path().join("log"));
    let start = || Config::new(Role::Web, &engine.address(), log.path()).lease(NEVER_LOST).start();
    let first = start();
    let location = send_order(first.port(), "/orders/1/0");
    let second = start();
    until_state(second.port(), &location, "completed").await;

    // The order is refused after its job was pushed: the transaction rolls back.
    let refused = send(first.port(), "POST", "/orders/1/0").unwrap();
    assert!(refused.starts_with("HTTP/1.1 409"), "{refused}");
    let last = send_order(first.port(), "/orders/2/0");
    until_state(first.port(), &last, "completed").await;
    [first, second].into_iter().for_each(Process::shut_down);
    assert_eq!(log.ends(), [(1, 1), (2, 1)].into(), "the job of the refused order does not exist");
}

/// A job aborts the process of the web server, and takes its neighbours with it. The server comes up again: alone with
/// the job, and then without it.
pub(crate) async fn comes_up_again<E: Engine>() {
    let (engine, folder) = (E::create().await, tempfile::tempdir().unwrap());
    let log = Log::new(folder.path().join("log"));
    let start = || Config::new(Role::Web, &engine.address(), log.path()).lease(KEPT).start();
    let mut server = start();
    let mut orders: Vec<String> =
        (1..=3).map(|number| send_order(server.port(), &format!("/orders/{number}/900"))).collect();
    let poison = send_order(server.port(), "/poison/0/300");
    for death in 1..=2 {
        let port = server.port();
        until("the process has aborted", async || server.has_ended()).await;
        assert_eq!(send(port, "GET", "/up"), None, "death {death}");
        server = start();
        let up = send(server.port(), "GET", "/up");
        assert!(up.is_some_and(|response| response.ends_with("up")), "it serves again");
        // It takes orders, whatever else it has to run.
        orders.push(send_order(server.port(), &format!("/orders/{}/0", 10 + death)));
    }
    until_state(server.port(), &poison, "dead").await;
    for order in &orders {
        until_state(server.port(), order, "completed").await;
    }
    assert!(!server.has_ended(), "it stays up");
    let last = server.pid();
    server.shut_down();
    assert_eq!(log.ends().into_keys().collect::<Vec<_>>(), [1, 2, 3, 11, 12]);

    let entries = log.entries();
    let runs_of_poison: Vec<(usize, u32)> = entries
        .iter()
        .enumerate()
        .filter_map(|(index, entry)| match entry {
            Entry::Start { number: 0, pid, .. } => Some((index, *pid)),
            _ => None,
        })
        .collect();
    let [(_, first), (second_run, second)] = runs_of_poison[..] else {
        panic!("it ran twice: {entries:?}")
    };
    assert!(
        first != second && second != last,
        "each run was in a process of its own, and the last process is without it"
    );
    // In the process of its second run, nothing ran beside it: what had started before had ended, and nothing came
    // after.
    let of_second = |entry: &&Entry, is_start: bool| match entry {
        Entry::Start { pid, .. } => is_start && *pid == second,
        Entry::End { pid, .. } => !is_start && *pid == second,
        _ => false,
    };
    let before = &entries[..second_run];
    let starts = before.iter().filter(|entry| of_second(entry, true)).count();
    assert_eq!(starts, before.iter().filter(|entry| of_second(entry, false)).count(), "it was alone");
    assert_eq!(entries[second_run + 1..].iter().filter(|entry| of_second(entry, true)).count(), 0, "it was alone");
}
