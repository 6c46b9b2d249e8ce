//! The chapter of the guide about jobs.

#[doc = include_str!("../docs/jobs.md")]
pub mod jobs {}
