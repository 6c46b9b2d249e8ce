//! The chapters of the guide about jobs.

#[doc = include_str!("../docs/jobs.md")]
pub mod jobs {}

#[doc = include_str!("../docs/celery.md")]
pub mod celery {}

#[doc = include_str!("../docs/speed.md")]
pub mod speed {}
