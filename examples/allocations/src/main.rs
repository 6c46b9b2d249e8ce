//! Which tasks are slow, what they wait for, which of them block the runtime, and what they allocate. The allocator is
//! jemalloc, which counts the bytes of each thread.
//!
//! Run `cargo run -p postlude-example-allocations`. It ends by itself, and prints a line for each name
//! of tasks, with the bytes that they have allocated, not those that they hold.
//!
//! This is a package of its own, because jemalloc takes long to compile: the tests and the other examples do without
//! it.
#![expect(clippy::print_stdout, reason = "an example may print")]

use std::{error::Error, time::Duration};

use postlude::{Profile, Task, TaskRegistry};
use tikv_jemalloc_ctl::thread::{ThreadLocal, allocatedp};
use tikv_jemallocator::Jemalloc;
use tokio::time::sleep;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

thread_local! {
    /// Where jemalloc keeps what this thread has allocated. It is looked up once for each thread.
    static ALLOCATED: Option<ThreadLocal<u64>> = allocatedp::read().ok();
}

/// The bytes that this thread has allocated so far.
fn allocated() -> u64 {
    ALLOCATED.with(|allocated| allocated.map_or(0, ThreadLocal::get))
}

/// Waits most of the time.
async fn send_mail() {
    for _ in 0..3 {
        sleep(Duration::from_millis(20)).await;
    }
}

/// Allocates a mebibyte, and frees it.
async fn render_report() {
    let mut pages = Vec::new();
    for page in 0..16_u8 {
        pages.push(vec![page; 65_536]);
        tokio::task::yield_now().await;
    }
}

/// Does not yield: a closure of `Task::cpu` would not keep other tasks from the worker.
async fn resize_image() {
    std::thread::sleep(Duration::from_millis(150));
}

fn add_up() {
    let sum: u64 = (1..5_000_000).sum();
    std::hint::black_box(sum);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The warning of the slow poll.
    tracing_subscriber::fmt().init();
    let registry = TaskRegistry::builder().profile(Profile::default().allocations(allocated)).build()?;
    for _ in 0..4 {
        registry.spawn(Task::new(send_mail()).named("mail"));
        registry.spawn(Task::new(render_report()).named("report"));
    }
    registry.spawn(Task::new(resize_image()).named("image"));
    registry.spawn(Task::cpu(add_up).named("sum"));
    registry.wait_idle().await;

    for (name, metrics) in registry.metrics().by_name() {
        let Some(profile) = &metrics.profile else { continue };
        println!(
            "{name}: {} polls ({} slow, p99 {:.1?}), busy {:.1?}, idle {:.1?}, scheduled {:.1?}, cpu {:.1?}, {} bytes",
            profile.polls,
            profile.slow_polls,
            profile.poll_times().quantile(0.99),
            profile.busy,
            profile.idle,
            profile.scheduled,
            profile.cpu,
            profile.allocated.unwrap_or(0),
        );
    }
    let metrics = registry.metrics();
    let allocated = |name| metrics.by_name().get(name).and_then(|metrics| metrics.profile.as_ref()?.allocated);
    assert!(allocated("report") >= Some(4 << 20), "4 reports of a mebibyte each");
    assert!(allocated("mail") < Some(1 << 20));
    Ok(())
}
