//! For the tests of code that adds tasks: a registry that runs them when it is told to, and builders for what hooks are
//! called with.
//!
//! ```
//! use postlude::{Task, TaskRegistry, testing::TestRegistry};
//!
//! fn sign_up(tasks: &TaskRegistry) {
//!     tasks.spawn(Task::new(async { /* mail */ }).named("welcome_mail"));
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let tasks = TestRegistry::new();
//! sign_up(&tasks);
//! assert_eq!(tasks.metrics().pending, 1); // nothing runs yet
//!
//! tasks.run().await;
//! tasks.assert_ran("welcome_mail");
//! tasks.assert_none_failed();
//! # }
//! ```

mod dead_letter;
mod info;
mod registry;
mod report;

pub use self::{
    dead_letter::DeadLetterBuilder, info::TaskInfoBuilder, registry::TestRegistry, report::TaskReportBuilder,
};

use std::panic::Location;

use crate::{
    ledger::live::LiveTask,
    model::{Identity, Outcome, TaskId, TaskName, next_number},
    util::{clock::Timestamp, panic::Panic},
};

/// An outcome as of a task that has panicked with this message. The other outcomes can be written directly.
///
/// ```
/// use postlude::{Outcome, testing::panicked};
///
/// assert_eq!(panicked("index out of bounds").to_string(), "panicked: index out of bounds");
/// ```
#[must_use]
pub fn panicked(message: &str) -> Outcome {
    Outcome::Panicked(Panic::from_payload(Box::new(message.to_owned())))
}

/// A task that was never added, with an id that no other task has.
fn unreal_task(name: TaskName, location: &'static Location<'static>) -> LiveTask {
    let id = TaskId { number: next_number(), index: 0 };
    LiveTask::new(Identity { id, name, location, added: Timestamp::now() })
}

/// The same task as the first of a set.
fn in_set(id: TaskId) -> TaskId {
    TaskId { number: id.number, index: 1 }
}
