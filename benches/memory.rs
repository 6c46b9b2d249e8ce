//! Bytes and allocations of a task, counted by the allocator: while it lives, and what is left when it has ended.
//!
//! `cargo bench --bench memory` prints a table with a row for each peer, of many tasks live at a time; then what a
//! registry holds after a million tasks.
#![expect(unsafe_code, reason = "an allocator that counts can't be written without it")]
#![expect(clippy::disallowed_methods, reason = "it plays the peers that spawn by themselves")]
#![expect(clippy::print_stdout, reason = "the figures are there to be read")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]
#![expect(clippy::cast_precision_loss, reason = "counts that are far below 2^53")]

#[path = "core/peers.rs"]
#[expect(dead_code, reason = "most peers are told apart by their times only")]
mod peers;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use postlude::{Task, TaskRegistry};
use tokio::{
    runtime::Builder,
    task::{JoinSet, yield_now},
};
use tokio_util::task::TaskTracker;

/// Live at a time.
const LIVE: usize = 50_000;
const MILLION: usize = 1_000_000;
const NAMES: usize = 1_024;
const POWERS: u32 = 8;

/// The allocator of the system, with a count.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// A task without a byte of its own, live until all may end.
struct Live;

static MAY_END: AtomicBool = AtomicBool::new(false);

impl Future for Live {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if MAY_END.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

fn main() {
    println!("| {LIVE} live tasks | bytes a task | allocations a task | bytes left of each |");
    println!("|---|---|---|---|");
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        // The runtime's own queue grows now, and not in somebody's row.
        peers::tokio_spawn(2 * LIVE).await;
        each_peer().await;
    });
    println!();
    println!("| a registry | bytes more than before |");
    println!("|---|---|");
    for (name, at_a_time) in [("a million tasks, 128 at a time", 128), ("a million tasks at once", MILLION)] {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(million(name, at_a_time));
    }
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(names());
}

async fn each_peer() {
    row("tokio_spawn", |_| drop(tokio::spawn(Live))).await;
    let tracker = TaskTracker::new();
    row("TaskTracker", |_| drop(tracker.spawn(Live))).await;
    let mut join_set = JoinSet::new();
    row("JoinSet", |_| drop(join_set.spawn(Live))).await;
    let by_hand = peers::ByHand::default();
    row("by_hand", |_| by_hand.spawn(Live)).await;
    let monitor = tokio_metrics::TaskMonitor::new();
    row("tokio_metrics", |_| drop(tokio::spawn(monitor.instrument(Live)))).await;
    let floor = postlude_floor::Registry::new();
    row("floor", |_| _ = floor.spawn(Live)).await;
    let registry = TaskRegistry::new();
    row("postlude", |_| drop(registry.spawn(Live))).await;
    row("postlude, with a name", |_| drop(registry.spawn(Task::new(Live).named("live")))).await;
    for size in [1, 4, 16] {
        let mut boxed: Vec<BoxFuture<'static, ()>> = Vec::new();
        row(&format!("rows of {size}, a spawn each"), |index| {
            boxed.push(Box::pin(Live));
            if index % size == size - 1 {
                let boxed = std::mem::take(&mut boxed);
                tokio::spawn(async {
                    for task in boxed {
                        task.await;
                    }
                });
            }
        })
        .await;
        let registry = TaskRegistry::new();
        let mut set = registry.set();
        row(&format!("postlude, sets of {size}"), |index| {
            set.add(Live);
            if index % size == size - 1 {
                set = registry.set();
            }
        })
        .await;
    }
}

/// Makes as many tasks as there may be live, counts, lets them end, and counts again.
async fn row(peer: &str, mut task: impl FnMut(usize)) {
    MAY_END.store(false, Ordering::Relaxed);
    let (bytes, allocations) = (held(), ALLOCATIONS.load(Ordering::Relaxed));
    (0..LIVE).for_each(&mut task);
    let_all_be_polled().await;
    let live = (held() - bytes) / LIVE as f64;
    let made = (ALLOCATIONS.load(Ordering::Relaxed) - allocations) as f64 / LIVE as f64;
    MAY_END.store(true, Ordering::Relaxed);
    let_all_be_polled().await;
    let left = (held() - bytes) / LIVE as f64;
    println!("| {peer} | {live:.0} | {made:.2} | {left:.1} |");
}

/// Tokio comes back to this after at most 61 polls of tasks.
async fn let_all_be_polled() {
    for _ in 0..LIVE / 10 {
        yield_now().await;
    }
}

async fn million(name: &str, at_a_time: usize) {
    let registry = TaskRegistry::new();
    peers::tokio_spawn(2 * at_a_time).await;
    peers::postlude(registry.clone(), 128).await;
    let before = held();
    for _ in 0..MILLION / at_a_time {
        peers::postlude(registry.clone(), at_a_time).await;
    }
    println!("| {name} | {} |", held() - before);
}

/// What a shard keeps of each name, whose tasks take times of several powers of two. The tasks that one thread spawns
/// are in one shard.
async fn names() {
    let registry = TaskRegistry::builder().history(0).build().unwrap();
    let names: Vec<&'static str> = (0..NAMES).map(|name| &*format!("name {name}").leak()).collect();
    let before = held();
    for name in names {
        for power in 0..POWERS {
            let work = tokio::time::sleep(Duration::from_millis(1 << power));
            registry.spawn(Task::new(work).named(name)).await;
        }
    }
    println!("| each name in a shard, times of {POWERS} powers of two | {:.0} |", (held() - before) / NAMES as f64);
}

fn held() -> f64 {
    BYTES.load(Ordering::Relaxed) as f64
}
