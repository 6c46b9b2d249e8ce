//! What users hold: the handle, and its builder.

pub(crate) mod builder;
pub(crate) mod encoder;
pub(crate) mod handle;
pub(crate) mod stats_cache;
