//! The registry and the types that its users hold.

// First, because rustdoc shows the methods of `TaskRegistry` in the order of the modules.
mod task_registry;

mod measure;

pub(crate) mod batcher;
pub(crate) mod builder;
#[cfg(feature = "serde")]
pub(crate) mod config;
#[cfg(feature = "cron")]
mod cron;
pub(crate) mod current;
pub(crate) mod dead_letters;
pub(crate) mod handle;
mod intern;
mod limits;
pub(crate) mod output_handle;
pub(crate) mod progress;
pub(crate) mod repeat;
#[cfg(feature = "signal")]
mod serve;
#[cfg(not(feature = "signal"))]
mod serve_off;
pub(crate) mod set;
pub(crate) mod shutdown;
#[cfg(feature = "signal")]
mod signals;
pub(crate) mod waiting;
pub(crate) mod watch;

pub use crate::engine::shared::TaskRegistry;
