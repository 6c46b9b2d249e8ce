//! A web server with its worker in the same process: an order and its job in one transaction, and a job that aborts the
//! process of the server.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
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
use tokio::time::sleep;

use crate::{
    child::{LEASE, Worker, act, end_of_input},
    engine::Engine,
    work::{Action, Work, ends},
    workers::until,
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
            let pool = sqlx::SqlitePool::connect(&format!("sqlite://{address}")).await.unwrap();
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

async fn order(State((shop, jobs)): State<(Shop, Jobs)>, Path((number, abort_after)): Path<(u64, u64)>) -> Response {
    let action = if abort_after > 0 { Action::AbortAfter(abort_after) } else { Action::Take(0) };
    match shop.order(&jobs, Work { number, action }).await {
        Ok(accepted) => accepted.into_response(),
        Err(error) => (StatusCode::CONFLICT, error.to_string()).into_response(),
    }
}

/// The process: serves until its standard input ends.
pub(crate) fn run(arguments: &[String]) {
    let [address, log, lease] = arguments else { unreachable!("the address, the log and the lease") };
    let (log, lease) = (PathBuf::from(log), Duration::from_millis(lease.parse().unwrap()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let registry = TaskRegistry::new();
        let shop = Shop::open(address).await;
        let builder = shop.builder(registry.clone()).lease(lease);
        let jobs = builder.handle(move |work: Work| act(work, log.clone())).start().await.unwrap();
        let app = Router::new()
            .route("/orders/{number}/{abort_after}", post(order))
            .route("/up", get(async || "up"))
            .nest("/admin", JobsRouter::new(jobs.clone()).build())
            .with_state((shop, jobs));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        std::io::stdout().write_all(format!("{port}\n").as_bytes()).unwrap();
        axum::serve(listener, app).with_graceful_shutdown(end_of_input()).await.unwrap();
        registry.shutdown(Duration::from_secs(5)).await;
    });
}

/// Sends a request. `None` if the server does not answer.
fn send(port: u16, method: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    (!response.is_empty()).then_some(response)
}

/// Sends an order, and returns the location of its job.
fn send_order(port: u16, number: u64, abort_after: u64) -> String {
    let response = send(port, "POST", &format!("/orders/{number}/{abort_after}")).expect("the server answers");
    assert!(response.starts_with("HTTP/1.1 202"), "{response}");
    let location = response.lines().find_map(|line| line.strip_prefix("location: "));
    location.expect("the job has a location").to_owned()
}

/// Waits until the job at a location is in a state.
async fn until_state(port: u16, location: &str, state: &str) {
    let state = format!("\"state\":\"{state}\"");
    until(&state, || send(port, "GET", location).is_some_and(|response| response.contains(&state))).await;
}

/// An order and its job exist both or not at all, and every replica answers for the job.
pub(crate) async fn an_order_and_its_job<E: Engine>() {
    let (engine, folder) = (E::create().await, tempfile::tempdir().unwrap());
    let log = folder.path().join("log");
    let (first, port) = Worker::start_web(&engine.address(), &log, LEASE);
    let location = send_order(port, 1, 0);
    let (second, port_of_second) = Worker::start_web(&engine.address(), &log, LEASE);
    until_state(port_of_second, &location, "completed").await;

    // The order is refused after its job was pushed: the transaction rolls back.
    let refused = send(port, "POST", "/orders/1/0").unwrap();
    assert!(refused.starts_with("HTTP/1.1 409"), "{refused}");
    let last = send_order(port, 2, 0);
    until_state(port, &last, "completed").await;
    first.shut_down();
    second.shut_down();
    assert_eq!(ends(&log), [(1, 1), (2, 1)].into(), "the job of the refused order does not exist");
}

/// A job aborts the process of the web server. It comes up again: alone with the job, and then without it.
pub(crate) async fn comes_up_again<E: Engine>() {
    let (engine, folder) = (E::create().await, tempfile::tempdir().unwrap());
    let log = folder.path().join("log");
    let start = || Worker::start_web(&engine.address(), &log, LEASE);
    let (mut server, mut port) = start();
    let poison = send_order(port, 0, 300);
    for death in 1..=2 {
        until("the process has aborted", || server.has_ended()).await;
        assert_eq!(send(port, "GET", "/up"), None, "death {death}");
        (server, port) = start();
        assert!(send(port, "GET", "/up").is_some_and(|response| response.ends_with("up")), "it serves again");
    }
    until_state(port, &poison, "dead").await;
    let order = send_order(port, 1, 0);
    until_state(port, &order, "completed").await;
    sleep(LEASE).await;
    assert!(!server.has_ended(), "it stays up");
    server.shut_down();
    assert_eq!(ends(&log), [(1, 1)].into());
}
