//! Log lines, spans, and traces of OpenTelemetry, as subscribers of `tracing` see them.
//!
//! A process of its own: if threads without a subscriber work beside the tests, `tracing` may decide for all threads
//! that there is no subscriber. For the same reason each test calls [`capture::listen_everywhere`] first.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]
#![cfg_attr(feature = "axum", expect(clippy::disallowed_methods, reason = "waiting is bounded in real time"))]

mod capture;
mod log;
mod profile;
mod spans;
#[cfg(feature = "axum")]
mod traces;
#[cfg(feature = "axum")]
#[path = "../support/wait.rs"]
mod wait;
