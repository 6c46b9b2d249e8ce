//! A page, status routes, health and Prometheus metrics for the background tasks of [`postlude`].
//!
//! ```
//! use axum::Router;
//! use postlude::TaskRegistry;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let registry = TaskRegistry::new();
//! let app: Router = Router::new()
//!     // your own routes, and then
//!     .nest("/admin", postlude_console::router(registry)); // .layer(your_authentication)
//! # drop(app);
//! # }
//! ```
//!
//! **Put the routes behind your own authentication.** They show the names, source locations and errors of your tasks, and
//! errors tend to quote the data that caused them. [Aborting](StatusRouter::allow_abort),
//! [replaying](StatusRouter::allow_replay) and [pausing](StatusRouter::allow_pause) are off unless you switch them on.
//!
//! | route | answers with |
//! |---|---|
//! | `GET /` | the page for a browser, and the list of routes for other clients; `GET /index.html`: the page |
//! | `GET /snapshot.json`, `GET /samples.json` | what the page shows now; the last hour, of one `name=` or of all |
//! | `GET /names.json`, `GET /names/{name}` | the names with their figures, a page at a time: `text=`, `limit=`, `cursor=`; one of them |
//! | `PUT /names/{name}/paused`, `DELETE /names/{name}/paused` | the limit of the name, which is [paused](postlude::TaskRegistry::pause), or no longer; 405 if not allowed, 403 without permission, 404 if no task has had the name |
//! | `PUT /names/{name}/limit?tasks=3`, `DELETE /names/{name}/limit` | the [limit](postlude::TaskRegistry::set_limit) of the name, which was set, or removed; 400 if it is no number from 1, the others as above |
//! | `GET /events` | server-sent events: a `snapshot` each second and, with `tail=on`, the events of `tasks`; `GET /events.json` has the latter to poll |
//! | `GET /tasks` | live or ended tasks, a page at a time: `state=`, `name=`, `text=` (part of the name or of the place in the source), `set=`, `replay_of=` (the dead letter that became the task), `limit=` (100, at most 1,000), `cursor=`; or `ids=`, up to 100 tasks, live or ended, of which those that are known are told |
//! | `DELETE /tasks` | `{"aborted": 17, "next": null}`: the live tasks that match were aborted, 10,000 at most; `state=`, `name=`, `text=`, `set=`, `replay_of=`, of which there must be one, and `cursor=`; 405 if not allowed, 403 without permission |
//! | `GET /tasks/{id}` | one task, live or ended; 404 if the registry does not know it, or no longer remembers it |
//! | `DELETE /tasks/{id}` | the task, which was aborted; 405 if not allowed, 403 without permission, 404 if unknown, 409 if it has already ended |
//! | `GET /dead-letters` | dead letters, a page at a time: `name=`, `text=` (part of the name), `limit=`, `cursor=` |
//! | `GET /dead-letters/{id}` | one dead letter with its attempts; 404 if there is none |
//! | `POST /dead-letters/{id}/replay` | 202 and the [location](Accepted) of the new task; 405 if not allowed, 403 without permission, 404 if there is no such letter, 409 if the task can't be made again or is not accepted |
//! | `DELETE /dead-letters/{id}` | 204: the letter was discarded; 405 if not allowed, 403 without permission, 404 if there is none |
//! | `GET /metrics.json` | the [metrics](postlude::TaskMetrics) of the registry |
//! | `GET /metrics` | the same for Prometheus, with the feature `prometheus` |
//! | `GET /health` | 200; or 503 and the reasons: the registry is shut down or shutting down, is at its capacity, or exceeds a [limit](StatusRouter) |
//!
//! An error is `{"error": "the cause, and what to do"}`. A request that can't be parsed is answered with 400. `OPTIONS`
//! lists the methods of a route that are on. Every response has the header `Cache-Control: no-store`, except the files
//! of the page, which the browser revalidates.
//!
//! # Ids
//! Ids are [external](postlude::TaskId::to_external): `1088.2-0f3k9v5zq8m2n7x4c6b1t0ydwp`, the short id of the log and
//! the random instance of the process. An id of another process, or of an earlier run, is unknown: 404.
//!
//! # Actions
//! A request that acts must have the header `x-requested-with`, with any value, which a form on a page of another site
//! can't send. If it has `Sec-Fetch-Site`, that must be `same-origin` or `none`; if it has only `Origin`, that must
//! name the host to which the request was sent. Otherwise it is answered with 403:
//!
//! ```sh
//! curl -X DELETE -H 'x-requested-with: curl' http://127.0.0.1:3000/admin/tasks/1088.2-0f3k9v5zq8m2n7x4c6b1t0ydwp
//! ```
//!
//! A request that acts may name the process that it is for, in the header `x-postlude-instance`; every response has
//! that header. Another process answers 409, and does nothing.
//!
//! Each action is logged with what it did, at level `INFO` and with the target `postlude`.
//!
//! # Pages
//! `state` is `live` (the default), `pending`, `running`, `retrying` or `paused`: these list live tasks by id. Or it is `ended`,
//! `completed`, `failed`, `panicked`, `timed_out`, `aborted` or `discarded`: these list the outcomes that the registry
//! [remembers](postlude::TaskRegistryBuilder::history), the latest first. The answer is
//! `{"tasks": [..], "next": "1088.2-0f3k…"}`. Send `next` back as `cursor` to get the next page, until `next` is `null`. Tasks that
//! are added or end between two pages make the pages neither repeat nor skip other tasks. A page may be short although
//! there is a next one, because a page looks at a bounded number of tasks.
//!
//! Dead letters are paged alike, as `{"dead_letters": [..], "next": "9-0f3k…"}`, the latest first.
//!
//! # What it costs the tasks
//! A request locks a part of the registry for a few tasks at a time, and once to read the numbers of the live sets and
//! spawned tasks. Nothing is serialised under a lock. Lists and metrics are computed one at a time, regardless of how
//! many clients ask, and on tokio's threads for blocking work. A page looks at some 10,000 tasks at most, however many
//! a set has. Health waits for none of them.
//!
//! The page is made from one snapshot a second, whatever the number of viewers, and taking it uses at most 2 % of a
//! core: if it takes long, it is taken less often. While nobody looks, the metrics are read every five seconds, so that
//! the page opens with the last hour; [`StatusRouter::without_page`] switches that off. The history of the page is
//! bounded: one hour of all names together, and of at most 100 names.
//!
//! # Features
//! - `prometheus` (default): `TaskCollector` for the `Registry` of `prometheus-client`, and the route `GET /metrics`.
//!
//! These public dependencies determine the major version of this crate: `postlude`, `axum` and, with the feature,
//! `prometheus-client`.
#![cfg_attr(docsrs, feature(doc_cfg))]

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod accepted;
mod action;
mod ages_watch;
#[cfg(feature = "prometheus")]
mod buckets;
mod dead_letters;
mod error;
mod findings;
#[cfg(all(any(doc, doctest), feature = "prometheus"))]
pub mod guide;
mod health;
mod limits;
mod names;
mod page;
mod profile;
#[cfg(feature = "prometheus")]
mod prometheus;
mod query;
mod recent;
mod router;
mod routes;
mod sampler;
mod snapshot;
mod stream;
mod tail;
mod tasks;

#[cfg(feature = "prometheus")]
pub use self::prometheus::TaskCollector;
pub use self::{
    accepted::Accepted,
    router::{StatusRouter, router},
};
