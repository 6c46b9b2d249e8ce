//! The page in a real browser: what a person does, and what they see. `console/tests/browser` runs it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "the clock of the tests is the real one")]

mod actions;
mod documentation;
mod driver;
mod images;
mod looks;
mod observe;
mod queues;
mod service;
mod text;
mod views;
