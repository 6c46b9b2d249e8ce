//! The chapters of the guide about watching tasks, and about what to do when something is wrong.

#[doc = include_str!("../docs/observing.md")]
pub mod observing {}

#[doc = include_str!("../docs/runbook.md")]
pub mod runbook {}
