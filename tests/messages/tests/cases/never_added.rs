//! What is made and not used does nothing.
#![deny(unused_must_use)]
use postlude::{Task, TaskRegistry};

fn main() {
    Task::new(async {}).named("mail");
    TaskRegistry::builder().capacity(1_000);
}
