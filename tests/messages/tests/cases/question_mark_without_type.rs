//! `?` converts errors, and nothing says into which type.
use postlude::{Task, TaskRegistry};

fn main() {
    let registry = TaskRegistry::new();
    registry.spawn(async {
        std::fs::read("orders.csv")?;
        Ok(())
    });
    drop(Task::blocking(|| {
        std::fs::read("orders.csv")?;
        Ok(())
    }));
}
