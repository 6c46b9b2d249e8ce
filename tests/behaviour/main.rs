//! The promises of postlude: a module for each word of its API.
#![expect(clippy::disallowed_methods, reason = "tests play the server, the client and the stranger")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may stop where it stands")]
#![expect(clippy::clone_on_ref_ptr, reason = "a test's setup reads better without the types")]

#[path = "../support/mod.rs"]
mod support;

// The core, with or without HTTP.
mod abort;
mod admit;
mod bare;
mod batcher;
mod chaos;
#[cfg(feature = "serde")]
mod config;
mod context;
mod cpu;
mod dead_letters;
mod expires_after;
mod figures;
mod foreign;
mod ids;
mod isolation;
mod large_sets;
mod limit_by_key;
mod limits;
mod observe;
mod on_failure;
mod pages;
mod pause;
mod permits;
mod policy;
mod priority;
mod profile;
mod progress;
mod random;
#[cfg(feature = "rate-limit")]
mod rate_limit;
mod registry;
mod replay_refused;
mod retrying;
mod retrying_if;
mod runtime;
mod runtime_ended;
#[cfg(feature = "cron")]
mod schedule;
#[cfg(feature = "serde")]
mod serialize;
mod set;
mod set_limit;
mod shutdown;
mod shutdown_bounds;
mod spawn;
#[cfg(feature = "cron")]
mod spawn_cron;
mod spawn_every;
mod spawn_with_output;
#[cfg(feature = "testing")]
mod testing;
mod time;
mod unique;
mod wrap;

// HTTP, over real sockets.
#[cfg(feature = "axum")]
mod attach;
#[cfg(feature = "axum")]
mod clocks;
#[cfg(feature = "axum")]
mod conditions;
#[cfg(feature = "axum")]
mod drain_within;
#[cfg(feature = "axum")]
mod ending;
#[cfg(feature = "axum")]
mod extractor;
#[cfg(feature = "axum")]
mod faults;
#[cfg(feature = "axum")]
mod grpc;
#[cfg(feature = "axum")]
mod in_flight;
#[cfg(feature = "axum")]
mod late_add;
#[cfg(feature = "axum")]
mod layer;
#[cfg(feature = "axum")]
mod layers;
#[cfg(feature = "axum")]
mod positions;
#[cfg(feature = "axum")]
mod response;
#[cfg(feature = "axum")]
mod shed_at_capacity;
#[cfg(feature = "axum")]
mod short_body;
#[cfg(feature = "axum")]
mod stalled;
#[cfg(feature = "axum")]
mod task_body;
