//! The error does not implement `Error`.
use postlude::{Task, TaskRegistry};

struct Refused;

async fn send_mail() -> Result<(), Refused> {
    Err(Refused)
}

fn main() {
    let registry = TaskRegistry::new();
    registry.spawn(send_mail());
    drop(Task::new(send_mail()));
}
