//! The status routes, over real sockets: one module a subject.
#![expect(clippy::disallowed_methods, reason = "tests play the server and the client")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed step fails the test")]

mod support;

mod accepted;
mod actions;
mod alerts;
mod dead_letters;
mod exposition;
mod health;
mod limits;
mod page;
mod pages;
mod routes;
mod runbook;
