//! Background tasks for axum, hyper and tower that run after the response: fire and forget, with limits, retries,
//! metrics and a graceful shutdown, and without losing a task silently.
//!
#![cfg_attr(all(feature = "axum", feature = "signal"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "axum", feature = "signal")), doc = "```ignore")]
//! use std::time::Duration;
//! use axum::{Json, Router, http::StatusCode, routing::post};
//! use postlude::{BoxError, Task, TaskLayer, TaskRegistry, TaskSet};
//!
//! #[derive(serde::Deserialize)]
//! struct Signup {
//!     email: String,
//! }
//!
//! async fn signup(tasks: TaskSet, Json(signup): Json<Signup>) -> StatusCode {
//!     // A task outlives its request, so it owns its data: `move` it, or clone it.
//!     let line = format!("signed up: {}\n", signup.email);
//!     tasks.add(Task::new(send_mail(signup.email)).named("welcome_mail"));
//!     tasks.add(Task::blocking(move || std::fs::write("audit.log", line)).named("audit_log"));
//!     StatusCode::ACCEPTED // sent first; the mail follows, then the log
//! }
//!
//! async fn send_mail(to: String) -> Result<(), BoxError> {
//!     println!("to {to}: welcome!");
//!     Ok(()) // an error is logged and counted
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     tracing_subscriber::fmt().init(); // shows the log, with each task that failed
//!     let registry = TaskRegistry::builder()
//!         .default_timeout(Duration::from_secs(60)) // no task runs for ever
//!         .capacity(10_000) // tasks in memory at a time; when it is full, the layer answers 503
//!         .build()?;
//!     let app = Router::new()
//!         .route("/signup", post(signup))
//!         .layer(TaskLayer::new(registry.clone()).shed_at_capacity());
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     // Until SIGTERM or Ctrl-C. Then requests and tasks have 20 s to finish, and aborted ones 1 s to settle.
//!     let report = registry
//!         .serve(Duration::from_secs(20), |stop| {
//!             axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned())
//!         })
//!         .await?;
//!     println!("{report}");
//!     Ok(())
//! }
//! ```
//!
//! ```toml
//! [dependencies]
//! axum = "0.8"
//! postlude = { version = "0.1", features = ["signal"] }
//! serde = { version = "1", features = ["derive"] }
//! tokio = { version = "1.43", features = ["full"] }
//! tracing-subscriber = "0.3"
//! ```
//!
//! | when | what happens | chapter |
//! |---|---|---|
//! | the client leaves; the handler fails or panics | the tasks run; a condition narrows that | [when tasks run][lifecycle] |
//! | a task fails, panics or times out | it is logged with its place and its error, counted, and told to your hook; the next one runs | [when tasks run][lifecycle] |
//! | its receiver is down | it is tried again, or paused; then it is a dead letter that can be replayed | [retries], [limits] |
//! | a deploy stops the process | tasks have the grace; what is left is aborted, and named in the report | [shutting down] |
//! | the process crashes | live tasks are gone; a job of `postlude-jobs` is not | [which tool when][choosing] |
//! | too much comes | tasks wait by priority; a full registry turns requests away with 503 | [limits] |
//!
//! # Guarantees
//! A task that is added to a set runs after the response has left, no matter how the request ended. It starts at most
//! once, unless it has a retry policy, and ends in exactly one counted [`Outcome`]. A task is only discarded for a
//! reason that you have set or caused (a limit, a condition, a shutdown), and every discarded task is counted and
//! logged.
//!
//! # Overview
//! | purpose | items |
//! |---|---|
//! | a unit of work with a name and a time limit | [`Task`], [`TaskName`] |
//! | the tasks of one request | [`TaskSet`]: an extractor, or [`after`] anywhere in a handler |
//! | a set for each request | [`TaskLayer`], or [`TaskSet::attach`] for plain hyper |
//! | tasks without a request | [`TaskRegistry::spawn`] and its [`TaskHandle`] |
//! | retries, delays and repetition | [`Task::retrying`], [`Task::delay`], [`TaskRegistry::spawn_every`] |
//! | tasks at times of the day | [`TaskRegistry::spawn_cron`] and its [`Schedule`] |
//! | failed tasks, and their replay | [`TaskRegistry::dead_letters`] |
//! | how a request and a task ended | [`Ending`], [`Outcome`], [`OutcomeKind`] |
//! | limits, an admission filter, a failure hook | [`TaskRegistryBuilder`] |
//! | the order of tasks that wait | [`Priority`] |
//! | tasks that must start in time, and unique tasks | [`Task::expires_after`], [`Task::unique`] |
//! | code around each step of a task | [`TaskRegistryBuilder::wrap`] |
//! | how far a task has come | [`progress()`] |
//! | many items in one task | [`TaskRegistry::batcher`] |
//! | live tasks and counters | [`TaskRegistry::tasks`], [`TaskRegistry::metrics`], [`DurationHistogram`] |
//! | one task, and the last outcomes | [`TaskRegistry::get`], [`TaskRegistry::history`] |
//! | the same lists as a [`Page`] | [`TaskRegistry::live_page`], [`TaskRegistry::history_page`], [`DeadLetters::page`] |
//! | which task is slow, and which one blocks the runtime | [`TaskRegistryBuilder::profile`], [`TaskProfile`], [`NameProfile`] |
//! | events as they happen | [`TaskObserver`], [`TaskRegistry::subscribe`] |
//! | aborting tasks | [`TaskRegistry::abort`], [`TaskRegistry::abort_set`], [`TaskRegistry::abort_named`] |
//! | stopping work from within | [`cancellation`] |
//! | graceful shutdown | [`TaskRegistry::shutdown`] and its [`ShutdownReport`], [`TaskRegistry::serve`] |
//! | pausing and limiting names at run time | [`TaskRegistry::pause`], [`TaskRegistry::set_limit`], [`TaskRegistry::name_limits`] |
//! | code that a shutdown waits for, room for tasks | [`TaskRegistry::shutdown_guard`], [`TaskRegistry::may_start`] |
//!
//! The [guide] describes [which tool to use when][choosing], what is different for those who [come from][coming from]
//! FastAPI, Celery, Sidekiq, `tokio::spawn` and `TaskTracker`, [when tasks run][lifecycle], the order of [layers],
//! [retries], [limits], the [kinds of work][work], [shutdown][shutting down], [tests][testing] of handlers that add
//! tasks, and [measurements on the wire][wire].
//!
//! Durable jobs, which survive their process, are in the crate `postlude-jobs`.
//!
//! A page for operators, status routes, health checks and Prometheus metrics are in the crate `postlude-console`, whose
//! guide describes how to observe tasks, and has a runbook.
//!
//! # Features
//! - `axum` (default): [`TaskSet`] as an axum extractor. Implies `http`.
//! - `cron`: [`TaskRegistry::spawn_cron`] runs tasks at the times of a cron expression, in any time zone.
//! - `http`: [`TaskLayer`], [`TaskBody`] and [`TaskSet::attach`], for hyper and other servers based on `http`.
//! - `rate-limit`: [`TaskRegistryBuilder::rate_limit`] limits how often the tasks of a name start.
//! - `serde`: serialises infos, reports, events, dead letters and metrics, and deserialises [`TaskId`].
//! - `signal`: [`TaskRegistry::serve`] runs a server until a signal, and then shuts down the server and the registry.
//! - `testing`: the module `testing`, for the tests of code that adds tasks. Enable it in `[dev-dependencies]`.
//!
//! The core needs none of these features. These public dependencies determine the major version of this crate: `tokio`,
//! `tokio-util`, `futures-core` and, with the features, `http`, `http-body`, `bytes`, `tower-layer`, `tower-service`,
//! `axum-core` and `serde`.
//!
#![cfg_attr(feature = "axum", doc = "[choosing]: guide::choosing")]
#![cfg_attr(feature = "axum", doc = "[coming from]: guide::coming_from")]
#![cfg_attr(feature = "axum", doc = "[layers]: guide::layers")]
#![cfg_attr(feature = "axum", doc = "[lifecycle]: guide::lifecycle")]
#![cfg_attr(feature = "axum", doc = "[retries]: guide::retries")]
#![cfg_attr(feature = "axum", doc = "[limits]: guide::limits")]
#![cfg_attr(feature = "axum", doc = "[work]: guide::work")]
#![cfg_attr(feature = "axum", doc = "[shutting down]: guide::shutdown")]
#![cfg_attr(feature = "axum", doc = "[testing]: guide::testing")]
#![cfg_attr(feature = "axum", doc = "[wire]: guide::wire")]
// Without its feature, the link of an item leads to the list of features.
#![cfg_attr(not(feature = "axum"), doc = "[guide]: #features")]
#![cfg_attr(not(feature = "axum"), doc = "[choosing]: #features")]
#![cfg_attr(not(feature = "axum"), doc = "[coming from]: #features")]
#![cfg_attr(not(feature = "axum"), doc = "[layers]: #features")]
#![cfg_attr(not(feature = "axum"), doc = "[lifecycle]: #features")]
#![cfg_attr(not(feature = "axum"), doc = "[retries]: #features")]
#![cfg_attr(not(feature = "axum"), doc = "[limits]: #features")]
#![cfg_attr(not(feature = "axum"), doc = "[work]: #features")]
#![cfg_attr(not(feature = "axum"), doc = "[shutting down]: #features")]
#![cfg_attr(not(feature = "axum"), doc = "[testing]: #features")]
#![cfg_attr(not(feature = "axum"), doc = "[wire]: #features")]
#![cfg_attr(not(feature = "http"), doc = "[`TaskLayer`]: #features")]
#![cfg_attr(not(feature = "http"), doc = "[`TaskBody`]: #features")]
#![cfg_attr(not(feature = "http"), doc = "[`TaskSet::attach`]: #features")]
#![cfg_attr(not(feature = "http"), doc = "[`Ending`]: #features")]
#![cfg_attr(not(feature = "cron"), doc = "[`Schedule`]: #features")]
#![cfg_attr(not(feature = "cron"), doc = "[`TaskRegistry::spawn_cron`]: #features")]
#![cfg_attr(not(feature = "rate-limit"), doc = "[`TaskRegistryBuilder::rate_limit`]: #features")]
#![cfg_attr(not(feature = "signal"), doc = "[`TaskRegistry::serve`]: #features")]
#![cfg_attr(docsrs, feature(doc_cfg))]

/// Compiles the examples of the README.
#[cfg(all(doctest, feature = "axum", feature = "signal"))]
#[doc = include_str!("../README.md")]
struct Readme;

mod engine;
#[cfg(all(any(doc, doctest), feature = "axum"))]
pub mod guide;
#[cfg(feature = "http")]
mod http;
mod ledger;
mod limits;
#[cfg(all(test, postlude_loom))]
mod loom_tests;
mod model;
mod registry;
mod task;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod util;

#[cfg(feature = "axum")]
pub use self::http::MissingTaskLayer;
#[cfg(feature = "http")]
pub use self::http::{ResponseFuture, TaskBody, TaskLayer, TaskService};
#[cfg(feature = "http")]
pub use self::model::Ending;
#[cfg(feature = "rate-limit")]
pub use self::model::RateLimit;
#[cfg(feature = "signal")]
pub use self::model::ServePolicy;
#[cfg(feature = "cron")]
pub use self::model::{Schedule, ScheduleError};
#[cfg(feature = "serde")]
pub use self::registry::config::RegistryConfig;
pub use self::{
    engine::guards::ShutdownGuard,
    ledger::metrics::{NameMetrics, RuntimeMetrics, TaskMetrics},
    model::{
        Attempt, BatchPolicy, BoxError, BuildError, DeadLetter, DiscardCounts, DiscardReason, DrainReport, LimitError,
        NameLimit, NamePolicy, NameProfile, Outcome, OutcomeCounts, OutcomeKind, Page, ParseIdError, Priority, Profile,
        RejectReason, RepeatPolicy, ReplayError, RetryPolicy, SetId, ShutdownReport, TaskAges, TaskEvent, TaskId,
        TaskInfo, TaskKey, TaskName, TaskProfile, TaskProgress, TaskReport, TaskState, TaskStatus, UniquePolicy,
    },
    registry::{
        TaskRegistry,
        batcher::Batcher,
        builder::TaskRegistryBuilder,
        current::{after, attempt, cancellation},
        dead_letters::DeadLetters,
        handle::{DrainHandle, TaskHandle},
        output_handle::OutputHandle,
        progress::{Progress, progress},
        repeat::RepeatHandle,
        set::TaskSet,
    },
    task::{IntoOutputTask, IntoTask, OutputTask, Rejected, RejectedItem, Task, TaskOutput},
    telemetry::{
        observer::TaskObserver,
        span::SpanRelation,
        subscription::TaskEvents,
        wrap::{StepDone, TaskStep},
    },
    util::{histogram::DurationHistogram, panic::Panic},
};
