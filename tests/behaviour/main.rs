//! What postlude promises, one file a behaviour.
#![expect(clippy::disallowed_methods, reason = "tests play the server, the client and the stranger")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may stop where it stands")]
#![expect(clippy::clone_on_ref_ptr, reason = "a test's setup reads better without the types")]

mod support;

// The core, with or without HTTP.
mod admit;
mod bare;
mod batch;
mod conservation;
mod cpu;
mod dead_letters;
mod delay;
mod foreign;
mod limits;
mod misuse;
mod observe;
mod order;
mod pages;
mod permits;
mod priority;
#[cfg(feature = "rate-limit")]
mod rate;
mod repeat;
mod replay_refused;
mod retry;
mod runtime_ended;
#[cfg(feature = "serde")]
mod serialize;
mod shutdown;
mod shutdown_bounds;
mod spawn;

// HTTP, over real sockets.
#[cfg(feature = "axum")]
mod attach;
#[cfg(feature = "axum")]
mod clocks;
#[cfg(feature = "axum")]
mod departures;
#[cfg(feature = "axum")]
mod endings;
#[cfg(feature = "axum")]
mod extract;
#[cfg(feature = "axum")]
mod faults;
#[cfg(feature = "axum")]
mod grpc;
#[cfg(feature = "axum")]
mod in_flight;
#[cfg(feature = "axum")]
mod layers;
#[cfg(feature = "axum")]
mod net;
#[cfg(feature = "axum")]
mod shed;
#[cfg(feature = "axum")]
mod streams;
#[cfg(feature = "axum")]
mod websocket;
#[cfg(feature = "axum")]
mod wire;
