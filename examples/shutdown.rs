//! Shows how a shutdown treats tasks of different durations, and prints its report.
//!
//! `cargo run --example shutdown` starts tasks, sends itself a SIGTERM, and shuts down with a grace period of two
//! seconds. Tasks that do not end in time are cancelled, then aborted, and named in the report.
#![expect(clippy::print_stdout, reason = "an example may print")]

use std::{error::Error, process::Command, thread, time::Duration};

use postlude::{Task, TaskRegistry, cancellation};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

fn start_tasks(registry: &TaskRegistry) {
    let seconds = Duration::from_secs_f64;
    registry.spawn(Task::new(async move { sleep(seconds(0.5)).await }).named("done before the signal"));
    registry.spawn(Task::new(async move { sleep(seconds(2.0)).await }).named("done within the grace"));
    registry.spawn(
        Task::new(async {
            cancellation().cancelled().await;
            println!("a task was cancelled, and ends");
        })
        .named("ends when cancelled"),
    );
    registry.spawn(Task::new(std::future::pending::<()>()).named("waits forever"));
    registry.spawn(Task::blocking(move || thread::sleep(seconds(60.0))).named("blocks for a minute"));

    let set = registry.set();
    set.add(Task::new(async move { sleep(seconds(60.0)).await }).named("first in its set, too long"));
    set.add(Task::new(async {}).named("behind it, never started"));
    set.drain();
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let registry = TaskRegistry::new();
    start_tasks(&registry);
    sleep(Duration::from_secs(1)).await;

    let own_process = std::process::id().to_string();
    Command::new("kill").args(["-TERM", &own_process]).status()?;
    terminate.recv().await;
    println!("SIGTERM; {} tasks are live", registry.tasks().len());

    let report = registry.shutdown(Duration::from_secs(2)).await;
    println!("{report}");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(run());
    // Dropping the runtime would wait for the closure that is still blocking.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}
