//! What users hold: the handle, its builder, and the current job.

pub(crate) mod builder;
pub(crate) mod current;
pub(crate) mod encoder;
pub(crate) mod handle;
pub(crate) mod stats_cache;
