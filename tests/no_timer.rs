//! A wait of a registry where there is no timer costs no thread. One test, because it counts the threads of its process.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::time::Duration;

use postlude::{Task, TaskRegistry};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_shutdown_without_a_timer_costs_the_registry_no_thread_for_its_waits() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    let before = threads();
    for executor in ["of futures", "of tokio, without a timer"] {
        registry.spawn(std::future::pending::<()>());
        let own = registry.clone();
        // It waits, and is dropped.
        let wait = async move {
            tokio::select! {
                biased;
                _ = own.shutdown(Duration::from_secs(3600)) => {}
                () = own.wait_idle() => {}
                () = std::future::ready(()) => {}
            }
        };
        match executor {
            "of futures" => futures::executor::block_on(wait),
            _ => tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(wait),
        }
    }
    assert_eq!(threads(), before);
    for _ in 0..1000 {
        registry.spawn(Task::new(std::future::pending::<()>()).timeout(Duration::from_secs(60)));
        registry.spawn(Task::new(async {}).delay(Duration::from_secs(60)));
    }
    while registry.metrics().running < 1000 {
        std::thread::yield_now();
    }
    assert_eq!(threads(), before);
    runtime.block_on(registry.shutdown(Duration::ZERO));
}
