//! The block returns a future, which nobody polls.
use postlude::TaskRegistry;

async fn send_mail() -> Result<(), std::io::Error> {
    Ok(())
}

fn main() {
    let registry = TaskRegistry::new();
    registry.spawn(async { send_mail() });
}
