//! A shutdown that is not awaited does not happen.
#![deny(unused_must_use)]
use std::time::Duration;

use postlude::TaskRegistry;

#[tokio::main]
async fn main() {
    let registry = TaskRegistry::new();
    registry.shutdown(Duration::from_secs(20));
    registry.wait_idle();
}
