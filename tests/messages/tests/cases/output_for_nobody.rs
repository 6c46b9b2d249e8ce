//! A task has no receiver for its output.
use postlude::{Task, TaskRegistry};

fn main() {
    let registry = TaskRegistry::new();
    registry.spawn(async { 17 });
    drop(Task::blocking(|| Ok::<String, std::io::Error>(String::new())));
    registry.spawn(std::future::ready(Ok::<Result<(), std::io::Error>, std::io::Error>(Ok(()))));
}
