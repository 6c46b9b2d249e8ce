//! An image service. An upload is answered with 202 and a location as soon as it is on the disk; a CPU task then makes a
//! thumbnail of it, or applies a filter. `GET` of the location has the progress, and at last where the result is.
//!
//! Run `cargo run --release -p postlude-example-images`, then open the link that it prints and drop a picture on the
//! page, or use the `curl` commands. Ctrl-C or SIGTERM ends it in order: accepted pictures are processed first.
//!
//! With `--durable FOLDER` the work is a job in a queue in that folder: after a `kill -9`, the next start goes on with
//! what was accepted.
#![expect(clippy::print_stdout, reason = "an example may print")]

mod picture;
mod store;
mod upload;
mod work;

use std::{env, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, Multipart, Path, Query, State, multipart::MultipartRejection, rejection::QueryRejection,
    },
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_TYPE, LOCATION},
    },
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use postlude::{BoxError, Priority, RepeatPolicy, Task, TaskLayer, TaskRegistry, TaskSet};
use postlude_console::StatusRouter;
use postlude_jobs::{Jobs, JobsRouter, sqlite::SqliteQueue};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    picture::Process,
    store::{PictureId, Store},
    upload::Refusal,
    work::{Order, Work},
};

/// At the signal, requests and tasks have this long to finish.
const GRACE: Duration = Duration::from_secs(20);
/// How long a result can be fetched.
const RESULTS_ARE_KEPT: Duration = Duration::from_secs(3600);

#[derive(Clone)]
struct App {
    store: Store,
    work: Work,
    registry: TaskRegistry,
}

#[derive(Deserialize)]
struct Options {
    #[serde(default)]
    process: Process,
    #[serde(default)]
    priority: Rank,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Rank {
    High,
    #[default]
    Normal,
    Low,
}

impl From<Rank> for Priority {
    fn from(rank: Rank) -> Self {
        match rank {
            Rank::High => Self::High,
            Rank::Normal => Self::Normal,
            Rank::Low => Self::Low,
        }
    }
}

async fn upload(
    State(app): State<App>,
    tasks: TaskSet,
    options: Result<Query<Options>, QueryRejection>,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, Refusal> {
    let Query(options) = options.map_err(|error| Refusal::bad_request(error.body_text()))?;
    let form = form.map_err(|error| Refusal::bad_request(format!("{error}: try `curl -F picture=@cat.png`")))?;
    // Each client has its share of the processors. A service with logins takes the user's id.
    let client = headers.get("x-client").and_then(|client| client.to_str().ok()).unwrap_or("anonymous");
    let received = upload::receive(&app.store, &app.registry, form).await?;
    let order = Order { id: received.id(), process: options.process, client: client.to_owned() };
    app.work.accept(&tasks, order, options.priority.into()).await?;
    let id = received.keep();
    let location = format!("/pictures/{id}");
    let body = Json(json!({ "id": id, "location": location }));
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], body).into_response())
}

async fn status(State(app): State<App>, Path(id): Path<PictureId>) -> Result<Response, Refusal> {
    let status = app.work.status(&app.store, id).await?.ok_or_else(Refusal::unknown)?;
    Ok(Json(status).into_response())
}

async fn result(State(app): State<App>, Path(id): Path<PictureId>) -> Result<Response, Refusal> {
    match tokio::fs::read(app.store.result(id)).await {
        Ok(bytes) => Ok(([(CONTENT_TYPE, "image/png")], bytes).into_response()),
        Err(_) => Err(Refusal::unknown()),
    }
}

/// Removes results that are old. It is a task, so the console shows it, and a shutdown knows of it.
fn sweep(registry: &TaskRegistry, store: &Store) {
    let store = store.clone();
    registry.spawn_every(RepeatPolicy::every(Duration::from_secs(600)), move || {
        let store = store.clone();
        Task::blocking(move || store.sweep(RESULTS_ARE_KEPT)).named("sweep")
    });
}

fn router(app: App, jobs: Option<Jobs>) -> Router {
    let mut status = StatusRouter::new(app.registry.clone()).allow_abort().allow_replay().allow_pause();
    let mut routes = Router::new();
    if let Some(jobs) = jobs {
        status = status.jobs_at("../jobs");
        routes = routes.nest("/jobs", JobsRouter::new(jobs).allow_actions().build());
    }
    Router::new()
        .route("/pictures", post(upload))
        .layer(TaskLayer::new(app.registry.clone()).shed_at_capacity())
        // Below the layer: these leave no tasks, and answer also when the registry is full.
        .route("/", get(Html(include_str!("page.html"))))
        .route("/pictures/{id}", get(self::status))
        .route("/pictures/{id}/result", get(result))
        .route("/live", get(StatusCode::OK))
        .layer(DefaultBodyLimit::max(upload::MAX_BODY_BYTES))
        .with_state(app)
        .merge(routes)
        // For operators. It listens on loopback; elsewhere, put authentication around both.
        .nest("/admin", status.build())
}

/// The folder of a durable service, if there is one.
fn durable_folder() -> Result<Option<String>, String> {
    let mut arguments = env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Ok(None),
        (Some("--durable"), Some(folder)) => Ok(Some(folder)),
        (Some(other), _) => Err(format!("`{other}`: there is `--durable FOLDER`, and nothing else")),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let port: u16 = env::var("PORT").map_or(Ok(3000), |port| port.parse()).map_err(|error| format!("PORT: {error}"))?;
    let durable = durable_folder()?;
    // Removed at the end of the process.
    let temporary = tempfile::tempdir()?;
    let store = Store::open(durable.as_deref().map_or_else(|| temporary.path(), std::path::Path::new))?;

    let mut builder = TaskRegistry::builder().capacity(1_000).default_timeout(Duration::from_secs(120));
    for process in Process::ALL {
        // Of each client, so that one with a thousand pictures does not delay one with three.
        builder = builder.limit_by_key(process.name(), 1);
    }
    let registry = builder.build()?;
    let (work, jobs) = if durable.is_some() {
        let queue = SqliteQueue::open(store.queue()).await?;
        let handler = work::handler(registry.clone(), store.clone());
        let builder = Jobs::builder(queue, registry.clone()).concurrency(64).lease(work::LEASE).handle(handler);
        let jobs = builder.start().await?;
        (Work::Jobs(jobs.clone()), Some(jobs))
    } else {
        (Work::Tasks { registry: registry.clone(), store: store.clone(), ids: Arc::default() }, None)
    };
    sweep(&registry, &store);

    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("port {port}: {error}; try another one: PORT=3001"))?;
    let address = listener.local_addr()?;
    println!("open http://{address}/ and drop a picture, or try:");
    println!("  curl -i -F picture=@cat.png 'http://{address}/pictures?process=thumbnail'");
    println!("  curl http://{address}/pictures/ID            # its progress, and where its result is");
    println!("http://{address}/admin shows the tasks; Ctrl-C ends it in order");

    let app = App { store, work, registry: registry.clone() };
    let report = registry
        .serve(GRACE, |stop| axum::serve(listener, router(app, jobs)).with_graceful_shutdown(stop.cancelled_owned()))
        .await?;
    println!("{report}");
    Ok(())
}
