//! A task may move to another thread.
use std::rc::Rc;

use postlude::TaskRegistry;

fn main() {
    let registry = TaskRegistry::new();
    registry.spawn(async {
        let count = Rc::new(1);
        tokio::task::yield_now().await;
        drop(count);
    });
}
