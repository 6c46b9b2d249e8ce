//! Fixed amounts of work for `scripts/instructions`, which counts the processor's instructions with callgrind: each
//! scenario once with postlude and once with what it is compared to.
//!
//! `instructions <scenario> with|without <rounds>` runs one of them and is silent; without arguments it lists them. Counts of
//! two numbers of rounds are subtracted from each other, so that what happens once is not part of them.
#![expect(clippy::disallowed_methods, reason = "it plays the peers that spawn by themselves")]
#![expect(clippy::print_stdout, reason = "the list is there to be read")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Extension, Router, body::Body, http::Request, routing::get};
use http_body_util::BodyExt;
use postlude::{Profile, Task, TaskLayer, TaskRegistry, TaskSet};
use postlude_floor::{Bag, Registry, Until, floor, keeping_floor, waiting_floor};
use tokio::{runtime::Builder, sync::Semaphore, time::timeout};
use tokio_metrics::TaskMonitor;
use tower::ServiceExt;
use tracing::Level;

/// A time limit that is not met.
const MINUTE: Duration = Duration::from_secs(60);
/// A limit that is not met.
const MANY: usize = 10_000;
/// Tasks, or requests, in a round.
const WINDOW: usize = 128;
/// More than a set waits after its response was released.
const LAST_WRITE: Duration = Duration::from_millis(10);

/// A scenario, what runs it, and what runs the same without postlude.
const SCENARIOS: [(&str, Side, Side); 26] = [
    ("spawn", Side::Spawned, Side::Tokio),
    ("spawn, against the floor", Side::Spawned, Side::FloorSpawned),
    ("spawn with a name", NAMED, Side::Tokio),
    ("a subscriber at INFO, against none", Side::Named(Setting::Info), NAMED),
    ("a span at INFO, against none", Side::Named(Setting::InfoSpan), NAMED),
    ("`max_concurrent`, never met, against none", Side::Named(Setting::MaxConcurrent), NAMED),
    ("a limit of the name, never met, against none", Side::Named(Setting::LimitOfName), NAMED),
    ("a time limit, not met, against none", Side::Named(Setting::Timeout), NAMED),
    ("a profile, against none", Side::Named(Setting::Profile), NAMED),
    ("a profile, against tokio-metrics", Side::Named(Setting::Profile), Side::Monitored),
    ("a name, a limit, a time limit and INFO, against the same by hand", Side::Named(Setting::Service), Side::ByHand),
    ("a set of 4 with a time limit, against none", Side::LimitedSets(4), Side::Sets(4)),
    ("a set of 4, drained by hand, against its last handle", Side::DrainedSets(4), Side::Sets(4)),
    ("set of 1", Side::Sets(1), Side::Tokio),
    ("set of 1, against the floor", Side::Sets(1), Side::FloorSets(1)),
    ("set of 4", Side::Sets(4), Side::Tokio),
    ("set of 4, against the floor", Side::Sets(4), Side::FloorSets(4)),
    ("set of 16", Side::Sets(16), Side::Tokio),
    ("set of 16, against the floor", Side::Sets(16), Side::FloorSets(16)),
    ("layer, no task", Side::Layer(0), Side::Handler(0)),
    ("layer, no task, against the floor", Side::Layer(0), Side::Floor(0)),
    ("layer, 1 task", Side::Layer(1), Side::Handler(1)),
    ("layer, 1 task, against the floor", Side::Layer(1), Side::Floor(1)),
    ("layer, 1 task, against the keeping floor", Side::Layer(1), Side::KeepingFloor(1)),
    ("layer, 1 task, against the waiting floor", Side::Layer(1), Side::WaitingFloor(1)),
    ("layer, 4 tasks", Side::Layer(4), Side::Handler(4)),
];

#[derive(Clone, Copy)]
enum Side {
    /// `tokio::spawn`, each by itself.
    Tokio,
    /// The same, measured by tokio-metrics.
    Monitored,
    /// `tokio::spawn` with a semaphore, a time limit and a line in the log if it fails.
    ByHand,
    /// `TaskRegistry::spawn`.
    Spawned,
    /// The same of a task with a name.
    Named(Setting),
    /// Sets of this many tasks.
    Sets(usize),
    /// The same, each task with a time limit.
    LimitedSets(usize),
    /// The same, drained by a call whose handle is dropped.
    DrainedSets(usize),
    /// Spawned tasks of the floor.
    FloorSpawned,
    /// Sets of the floor of this many tasks.
    FloorSets(usize),
    /// Calls of a router with a layer, whose handler adds this many tasks.
    Layer(usize),
    /// The same with a layer that does the least that it can.
    Floor(usize),
    /// The same with a layer that does the least that keeps the promises to its tasks.
    KeepingFloor(usize),
    /// The same, which waits for the last write, and for no client longer than a limit allows.
    WaitingFloor(usize),
    /// Calls of a router without a layer, whose handler spawns this many.
    Handler(usize),
}

/// A named task with nothing else.
const NAMED: Side = Side::Named(Setting::Nothing);

/// What a service sets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    Nothing,
    /// A subscriber that logs at INFO.
    Info,
    /// The same, with the spans of tasks at INFO.
    InfoSpan,
    MaxConcurrent,
    LimitOfName,
    Timeout,
    /// A profile of the tasks.
    Profile,
    /// All that services set, and a subscriber at INFO.
    Service,
}

impl Side {
    /// Requests need a clock that is advanced, because a set waits after its response.
    const fn is_request(self) -> bool {
        matches!(
            self,
            Self::Layer(_) | Self::Floor(_) | Self::KeepingFloor(_) | Self::WaitingFloor(_) | Self::Handler(_)
        )
    }

    /// How many tasks of a round a registry runs.
    const fn known_tasks(self) -> usize {
        match self {
            Self::Spawned | Self::Named(_) | Self::Sets(_) | Self::LimitedSets(_) | Self::DrainedSets(_) => WINDOW,
            Self::Layer(tasks) => WINDOW * tasks,
            Self::Tokio
            | Self::Monitored
            | Self::ByHand
            | Self::FloorSpawned
            | Self::FloorSets(_)
            | Self::Floor(_)
            | Self::KeepingFloor(_)
            | Self::WaitingFloor(_)
            | Self::Handler(_) => 0,
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [scenario, side, rounds] => {
            let (_, with, without) = SCENARIOS.into_iter().find(|(name, ..)| name == scenario).unwrap();
            let side = if side == "with" { with } else { without };
            // Of a paused clock, which is advanced: a histogram makes its rows for the times that it sees, and glibc's
            // aligned allocations then differ by a tenth from run to run.
            let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(run(side, rounds.parse().unwrap()));
        }
        _ => {
            for (name, ..) in SCENARIOS {
                println!("{name}");
            }
        }
    }
}

async fn run(side: Side, rounds: usize) {
    let registry = registry(side);
    let router = router(side, &registry);
    let (semaphore, monitor, floor) = (Arc::new(Semaphore::new(MANY)), TaskMonitor::new(), Registry::new());
    for _ in 0..rounds {
        match side {
            Side::Tokio => (0..WINDOW).for_each(|_| drop(tokio::spawn(async {}))),
            Side::Monitored => (0..WINDOW).for_each(|_| drop(tokio::spawn(monitor.instrument(async {})))),
            Side::ByHand => (0..WINDOW).for_each(|_| {
                let semaphore = Arc::clone(&semaphore);
                tokio::spawn(async move {
                    let _permit = semaphore.acquire_owned().await;
                    match timeout(MINUTE, async { Ok::<(), Infallible>(()) }).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::error!(%error, "work failed"),
                        Err(_) => tracing::error!("work timed out"),
                    }
                });
            }),
            Side::Spawned => (0..WINDOW).for_each(|_| drop(registry.spawn(async {}))),
            Side::Named(setting) => (0..WINDOW).for_each(|_| {
                let task = Task::new(async {}).named("work");
                drop(registry.spawn(if setting == Setting::Timeout { task.timeout(MINUTE) } else { task }));
            }),
            Side::Sets(size) => (0..WINDOW / size).for_each(|_| {
                let set = registry.set();
                (0..size).for_each(|_| _ = set.add(async {}));
            }),
            Side::LimitedSets(size) => (0..WINDOW / size).for_each(|_| {
                let set = registry.set();
                (0..size).for_each(|_| _ = set.add(Task::new(async {}).timeout(MINUTE)));
            }),
            Side::DrainedSets(size) => (0..WINDOW / size).for_each(|_| {
                let set = registry.set();
                (0..size).for_each(|_| _ = set.add(async {}));
                drop(set.drain());
            }),
            Side::FloorSpawned => (0..WINDOW).for_each(|_| _ = floor.spawn(async {})),
            Side::FloorSets(size) => (0..WINDOW / size).for_each(|_| {
                let set = floor.set();
                (0..size).for_each(|_| _ = set.add(async {}));
            }),
            Side::Layer(_) | Side::Floor(_) | Side::KeepingFloor(_) | Side::WaitingFloor(_) | Side::Handler(_) => {
                for _ in 0..WINDOW {
                    let response = router.clone().oneshot(Request::new(Body::empty())).await.unwrap();
                    response.into_body().collect().await.unwrap();
                }
            }
        }
        let_all_run().await;
        if side.is_request() {
            // Twice, because the layer may set its timer only after the first.
            for _ in 0..2 {
                tokio::time::advance(LAST_WRITE).await;
                let_all_run().await;
            }
        }
    }
    // Those that postlude knows of.
    assert_eq!(registry.metrics().completed, (rounds * side.known_tasks()) as u64);
}

fn registry(side: Side) -> TaskRegistry {
    let setting = if let Side::Named(setting) = side { setting } else { Setting::Nothing };
    if matches!(setting, Setting::Info | Setting::InfoSpan | Setting::Service) || matches!(side, Side::ByHand) {
        tracing_subscriber::fmt().with_max_level(Level::INFO).with_writer(std::io::sink).init();
    }
    let builder = TaskRegistry::builder();
    let builder = match setting {
        Setting::InfoSpan => builder.span_level(Level::INFO),
        Setting::MaxConcurrent => builder.max_concurrent(MANY),
        Setting::LimitOfName => builder.limit_by_name("work", MANY),
        Setting::Profile => builder.profile(Profile::default()),
        Setting::Service => builder.limit_by_name("work", MANY).default_timeout(MINUTE),
        Setting::Nothing | Setting::Info | Setting::Timeout => builder,
    };
    builder.build().unwrap()
}

/// Tokio comes back to this after 61 polls of tasks: by then, the spawned tasks have run.
async fn let_all_run() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

fn router(side: Side, registry: &TaskRegistry) -> Router {
    let handler = |tasks: usize| {
        Router::new().route(
            "/",
            get(move || async move {
                (0..tasks).for_each(|_| drop(tokio::spawn(async {})));
                "ok"
            }),
        )
    };
    let bag = |tasks: usize| {
        Router::new().route(
            "/",
            get(move |Extension(bag): Extension<Bag>| async move {
                (0..tasks).for_each(|_| bag.add(async {}));
                "ok"
            }),
        )
    };
    match side {
        Side::Handler(tasks) => handler(tasks),
        Side::Floor(0) => floor(handler(0), Until::Released),
        Side::Floor(tasks) => floor(bag(tasks), Until::Taken),
        Side::KeepingFloor(tasks) => keeping_floor(bag(tasks), &Registry::new()),
        Side::WaitingFloor(tasks) => waiting_floor(bag(tasks), &Registry::new()),
        Side::Layer(tasks) => if tasks == 0 {
            handler(0)
        } else {
            Router::new().route(
                "/",
                get(move |set: TaskSet| async move {
                    (0..tasks).for_each(|_| _ = set.add(async {}));
                    "ok"
                }),
            )
        }
        .layer(TaskLayer::new(registry.clone())),
        _ => Router::new(),
    }
}
