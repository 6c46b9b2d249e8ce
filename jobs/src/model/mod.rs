//! The words: jobs, policies, options, reports, errors. Plain data, no engine.

pub(crate) mod codec;
pub(crate) mod dead;
pub(crate) mod error;
pub(crate) mod headers;
pub(crate) mod id;
pub(crate) mod info;
pub(crate) mod job;
pub(crate) mod new_job;
pub(crate) mod notes;
pub(crate) mod options;
pub(crate) mod output;
pub(crate) mod page;
pub(crate) mod policy;
pub(crate) mod stats;
pub(crate) mod time;
