//! Work that a request leaves behind runs after its response has left.
//!
#![cfg_attr(feature = "axum", doc = "```no_run")]
#![cfg_attr(not(feature = "axum"), doc = "```ignore")]
//! use axum::{Router, http::StatusCode, routing::post};
//! use postlude::{Task, TaskLayer, TaskRegistry, TaskSet};
//!
//! async fn signup(tasks: TaskSet) -> StatusCode {
//!     tasks.add(Task::new(send_mail()).named("welcome_mail"));
//!     tasks.add(Task::blocking(|| std::fs::write("audit.log", "signed up")).named("audit_log"));
//!     StatusCode::ACCEPTED // goes out now; then the mail, then the log
//! }
//!
//! async fn send_mail() -> Result<(), std::io::Error> {
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let registry = TaskRegistry::new();
//!     let app = Router::new().route("/signup", post(signup)).layer(TaskLayer::new(registry.clone()));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app).with_graceful_shutdown(stop_signal()).await?;
//!     println!("{}", registry.shutdown(std::time::Duration::from_secs(30)).await);
//!     Ok(())
//! }
//! # async fn stop_signal() {}
//! ```
//!
//! # What it promises
//! What is added runs after the response has left, whatever happened to the request; it starts at most once (a retry
//! policy aside), and it ends in exactly one counted [`Outcome`]. Nothing is dropped that you did not ask to be dropped:
//! by a limit, a condition, a shutdown; and nothing without being counted and logged.
//!
//! # A map
//! | for | there is |
//! |---|---|
//! | a piece of work, its name, its time limit | [`Task`] |
//! | what a request leaves behind | [`TaskSet`]: an extractor, or [`after`] from anywhere in a handler |
//! | giving each request its set | [`TaskLayer`], or [`TaskSet::attach`] for plain hyper |
//! | work without a request | [`TaskRegistry::spawn`] and its [`TaskHandle`] |
//! | trying again, later, and again and again | [`Task::retrying`], [`Task::delay`], [`TaskRegistry::spawn_every`] |
//! | what did not get done | [`TaskRegistry::dead_letters`] |
//! | how a request ended, how a task ended | [`Ending`], [`Outcome`] |
//! | limits, rules, a failure hook | [`TaskRegistryBuilder`] |
//! | who goes first where tasks wait | [`Priority`] |
//! | many items in one task | [`TaskRegistry::batcher`] |
//! | what is live, what was counted | [`TaskRegistry::tasks`], [`TaskRegistry::metrics`] |
//! | one task, and the last outcomes | [`TaskRegistry::get`], [`TaskRegistry::history`] |
//! | the same lists, a page at a time | [`TaskRegistry::live_page`], [`TaskRegistry::history_page`], [`DeadLetters::page`] |
//! | being told as it happens | [`TaskObserver`], [`TaskRegistry::subscribe`] |
//! | ending by itself when nobody waits any more | [`cancellation`] |
//! | the end | [`TaskRegistry::shutdown`] and its [`ShutdownReport`] |
//!
//! The [guide] tells [when tasks run](crate::guide::lifecycle), what is [tried again](crate::guide::retries), what
//! happens at [limits](crate::guide::limits), which [work](crate::guide::work) runs where, how to
//! [shut down](crate::guide::shutdown), how to [test](crate::guide::testing) handlers that leave tasks, and what was
//! [measured](crate::guide::wire) on the wire. How to watch tasks is a chapter of `postlude-console`.
//!
//! # Features
//! - `axum` (default): `TaskSet` as an axum extractor; implies `http`.
//! - `http`: the tower layer and the body, for hyper and whatever else is built on `http`.
//! - `cpu`: `Task::cpu`, for work that keeps a processor busy, on a thread pool of its own.
//! - `rate-limit`: [`TaskRegistryBuilder`] limits how often tasks of a name start.
//! - `signal`: [`TaskRegistry::serve`], which runs a server until a signal and then ends it in order.
//! - `serde`: infos, reports, events, dead letters and metrics serialise; [`TaskId`] also deserialises.
//!
//! The core needs none of them. Status routes, health and metrics for Prometheus are a crate of their own,
//! `postlude-console`. Public dependencies, whose major versions set the pace of this crate's own:
//! `tokio`, `tokio-util`, `futures` and, with the features, `http`, `http-body`, `bytes`, `tower-layer`,
//! `tower-service`, `axum-core`, `serde`.
#![cfg_attr(docsrs, feature(doc_cfg))]

/// Compiles what the README shows.
#[cfg(all(doctest, feature = "axum"))]
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
pub use self::{
    ledger::metrics::{NameMetrics, RuntimeMetrics, TaskMetrics},
    model::{
        Attempt, BatchPolicy, BoxError, BuildError, DeadLetter, DiscardReason, DrainReport, Outcome, OutcomeCounts,
        OutcomeKind, Page, ParseIdError, Priority, RejectReason, RepeatPolicy, ReplayError, RetryPolicy, SetId,
        ShutdownReport, TaskEvent, TaskId, TaskInfo, TaskName, TaskReport, TaskState, TaskStatus,
    },
    registry::{
        TaskRegistry,
        batcher::Batcher,
        builder::TaskRegistryBuilder,
        current::{after, attempt, cancellation},
        dead_letters::DeadLetters,
        handle::{DrainHandle, TaskHandle},
        repeat::RepeatHandle,
        set::TaskSet,
    },
    task::{IntoTask, Rejected, RejectedItem, Task, TaskOutput},
    telemetry::{observer::TaskObserver, span::SpanRelation, subscription::TaskEvents},
    util::{histogram::DurationHistogram, panic::Panic},
};
