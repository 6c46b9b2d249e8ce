//! The service that the tests watch. What its tasks do is told over HTTP, so that a test waits for nothing but events.
//!
//! `PORT` is its port, or a free one. With `ACT=1` the page may act. With `JOBS=1` there are durable jobs. With
//! `PROFILED=1` its tasks are profiled. With `STREAMLESS=1` it has no stream. The first line of its output is its address.
#![expect(clippy::print_stdout, reason = "the tests read the address")]

mod jobs;

use std::{
    cell::Cell,
    env,
    error::Error,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::post,
};
use postlude::{Profile, RetryPolicy, Task, TaskRegistry, progress};
use postlude_console::StatusRouter;
use serde::Deserialize;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;

/// What a task that blocks says that it has allocated.
const ALLOCATED: u64 = 3 << 20;

thread_local! {
    static ALLOCATED_SO_FAR: Cell<u64> = const { Cell::new(0) };
}

#[derive(Clone)]
struct Service {
    registry: TaskRegistry,
    /// Ends the tasks that hang.
    release: Arc<Notify>,
    /// Ends the polls that block.
    unblock: Arc<(Mutex<bool>, Condvar)>,
}

#[derive(Deserialize)]
struct Order {
    name: String,
    kind: Kind,
    count: usize,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Completes at once.
    Ok,
    /// Fails, with its own name as the error.
    Fail,
    /// Fails twice, and leaves a dead letter.
    Die,
    /// Fails, and leaves a dead letter. Its replay runs until it is released, and completes.
    Mend,
    /// Runs until it is released.
    Hang,
    /// The first runs until it is released, and the others wait behind it in its set.
    Behind,
    /// Reports progress, then hangs.
    Work,
    /// Does not start within an hour.
    Late,
    /// Blocks its worker until it is released.
    Block,
}

/// Starts tasks, and answers when those that end by themselves have ended.
async fn start(State(service): State<Service>, Query(order): Query<Order>) -> Json<Vec<String>> {
    // A name lives as long as the process: a test has few.
    let name: &'static str = Box::leak(order.name.into_boxed_str());
    let mut ids = Vec::new();
    let set = service.registry.set();
    for number in 0..order.count {
        let release = Arc::clone(&service.release);
        let released = Arc::clone(&release);
        let hang = async move {
            released.notified().await;
        };
        let task = match order.kind {
            Kind::Ok => Task::new(async {}),
            Kind::Fail => Task::new(async move { Err::<(), _>(name) }),
            Kind::Die => {
                let twice = RetryPolicy::constant(Duration::ZERO).attempts(2);
                Task::retrying(twice, move || async move { Err::<(), _>(name) })
            }
            Kind::Mend => mend(name, release),
            Kind::Behind if number > 0 => Task::new(async {}),
            Kind::Hang | Kind::Behind => Task::new(hang),
            Kind::Work => Task::new(async move {
                progress().set(40, 90).message(name);
                hang.await;
            }),
            Kind::Late => Task::new(async {}).delay(Duration::from_secs(3600)),
            Kind::Block => {
                let unblock = Arc::clone(&service.unblock);
                Task::new(async move {
                    ALLOCATED_SO_FAR.set(ALLOCATED_SO_FAR.get() + ALLOCATED);
                    let (is_released, changed) = &*unblock;
                    let is_released = is_released.lock().unwrap_or_else(PoisonError::into_inner);
                    drop(changed.wait_while(is_released, |is_released| !*is_released));
                })
            }
        };
        if matches!(order.kind, Kind::Behind) {
            ids.push(set.add(task.named(name)).to_external());
            continue;
        }
        let handle = service.registry.spawn(task.named(name));
        if number < 10 {
            ids.push(handle.id().to_external());
        }
        if matches!(order.kind, Kind::Ok | Kind::Fail | Kind::Die | Kind::Mend) {
            handle.await;
        }
    }
    Json(ids)
}

fn mend(name: &'static str, release: Arc<Notify>) -> Task {
    let has_failed = AtomicBool::new(false);
    Task::retrying(RetryPolicy::constant(Duration::ZERO).attempts(1), move || {
        let (has_failed, release) = (has_failed.swap(true, Ordering::Relaxed), Arc::clone(&release));
        async move {
            if !has_failed {
                return Err(name);
            }
            release.notified().await;
            Ok(())
        }
    })
}

async fn release(State(service): State<Service>) {
    service.release.notify_waiters();
    let (is_released, changed) = &*service.unblock;
    *is_released.lock().unwrap_or_else(PoisonError::into_inner) = true;
    changed.notify_all();
}

async fn without_stream(request: Request, next: Next) -> Response {
    if request.uri().path().ends_with("/events") {
        return StatusCode::NOT_FOUND.into_response();
    }
    next.run(request).await
}

/// Wakes the other workers again and again: a task may block the one that waits for the sockets, and then none of those
/// that sleep would take its place.
#[expect(clippy::disallowed_methods, reason = "it is no task of the service, and has a clock of its own")]
fn keep_awake() {
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        loop {
            runtime.spawn(async {});
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

/// One worker may be blocked.
#[tokio::main(worker_threads = 4)]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(0);
    let mut builder = TaskRegistry::builder().limit_by_name("limited", 1).dead_letters(1_000);
    if env::var_os("PROFILED").is_some() {
        builder = builder.profile(Profile::default().allocations(|| ALLOCATED_SO_FAR.get()));
        keep_awake();
    }
    let registry = builder.build()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}", listener.local_addr()?);
    let is_acting = env::var_os("ACT").is_some();
    let folder = tempfile::tempdir()?;
    let jobs = if env::var_os("JOBS").is_some() { Some(jobs::start(&registry, folder.path()).await?) } else { None };
    let server = |stop: CancellationToken| {
        let mut status = StatusRouter::new(registry.clone()).stop(stop.clone());
        if is_acting {
            status = status.allow_abort().allow_replay().allow_pause();
        }
        if jobs.is_some() {
            status = status.jobs_at("../jobs");
        }
        let mut admin = status.build();
        if env::var_os("STREAMLESS").is_some() {
            admin = admin.layer(from_fn(without_stream));
        }
        let service = Service { registry: registry.clone(), release: Arc::default(), unblock: Arc::default() };
        let app = Router::new()
            .route("/start", post(start))
            .route("/release", post(release))
            .nest("/some/admin", admin)
            .with_state(service)
            .merge(jobs.map(|jobs| jobs::routes(jobs, is_acting)).unwrap_or_default());
        axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned())
    };
    registry.serve(Duration::ZERO, server).await?;
    Ok(())
}
