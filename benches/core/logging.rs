//! A task in a process that logs at INFO, as services do; and one with all that services set, beside the same by hand.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use criterion::Criterion;
use postlude::{Task, TaskRegistry};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::Level;
use tracing_subscriber::fmt;

use crate::{WINDOW, measure, peers, runtimes};

/// A time limit and a limit of a name that are not met.
const LONG: Duration = Duration::from_secs(3600);
const MANY: usize = 1_000_000;

/// A subscriber that writes JSON. It is that of one thread, so that another one can follow.
pub(crate) fn json(criterion: &mut Criterion) {
    let json = fmt().json().with_max_level(Level::INFO).with_writer(io::sink).finish();
    let _until_the_end = tracing::subscriber::set_default(json);
    for (flavor, runtime) in runtimes().into_iter().take(1) {
        spawns(criterion, &format!("logging_json/{flavor}"), &runtime);
    }
}

/// To be run last: the subscriber stays for the rest of the process.
pub(crate) fn info(criterion: &mut Criterion) {
    let subscriber = fmt().with_max_level(Level::INFO).with_writer(io::sink).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    for (flavor, runtime) in runtimes() {
        spawns(criterion, &format!("logging/{flavor}"), &runtime);
        service(criterion, &format!("service/{flavor}"), &runtime);
    }
}

fn spawns(criterion: &mut Criterion, group: &str, runtime: &tokio::runtime::Runtime) {
    let builder = || TaskRegistry::builder().handle(runtime.handle().clone());
    let (registry, with_spans) = (builder().build().unwrap(), builder().span_level(Level::INFO).build().unwrap());
    measure(criterion, group, runtime, "TaskTracker", || peers::task_tracker(WINDOW));
    measure(criterion, group, runtime, "postlude", || peers::postlude(registry.clone(), WINDOW));
    measure(criterion, group, runtime, "postlude_named", || peers::postlude_named(registry.clone(), WINDOW));
    measure(criterion, group, runtime, "postlude_sets_of_4", || peers::postlude_sets(registry.clone(), WINDOW / 4, 4));
    measure(criterion, group, runtime, "spans_at_info", || peers::postlude_named(with_spans.clone(), WINDOW));
}

/// A task with a name, a limit, a time limit, and a line in the log if it fails.
fn service(criterion: &mut Criterion, group: &str, runtime: &tokio::runtime::Runtime) {
    let builder = TaskRegistry::builder().handle(runtime.handle().clone());
    let registry = builder.limit_by_name("mail", MANY).default_timeout(LONG).build().unwrap();
    let semaphore = Arc::new(Semaphore::new(MANY));
    measure(criterion, group, runtime, "by_hand", || {
        let semaphore = Arc::clone(&semaphore);
        async move {
            let tracker = TaskTracker::new();
            for _ in 0..WINDOW {
                tracker.spawn(by_hand(Arc::clone(&semaphore)));
            }
            tracker.close();
            tracker.wait().await;
        }
    });
    measure(criterion, group, runtime, "postlude", || {
        let registry = registry.clone();
        async move {
            for _ in 0..WINDOW {
                registry.spawn(Task::new(peers::work()).named("mail"));
            }
            registry.wait_idle().await;
        }
    });
}

async fn by_hand(semaphore: Arc<Semaphore>) {
    let _permit = semaphore.acquire_owned().await;
    let work = async {
        peers::work().await;
        Ok::<(), Infallible>(())
    };
    match timeout(LONG, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "mail failed"),
        Err(_) => tracing::error!("mail timed out"),
    }
}
