//! The chapter of the guide about watching tasks.

#[doc = include_str!("../docs/observing.md")]
pub mod observing {}
