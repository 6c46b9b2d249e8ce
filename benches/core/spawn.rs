//! A task spawned by itself, beside its peers, without a tracing subscriber.

use criterion::Criterion;
use postlude_floor::Registry;
use tokio_metrics::TaskMonitor;

use crate::{
    WINDOW, measure,
    peers::{self, ByHand},
    registry, runtimes,
};

pub(crate) fn peers(criterion: &mut Criterion) {
    for (flavor, runtime) in runtimes() {
        let group = format!("spawn/{flavor}");
        let registry = registry(&runtime);
        let (floor, by_hand, monitor) = (Registry::new(), ByHand::default(), TaskMonitor::new());
        measure(criterion, &group, &runtime, "TaskTracker", || peers::task_tracker(WINDOW));
        measure(criterion, &group, &runtime, "postlude", || peers::postlude(registry.clone(), WINDOW));
        measure(criterion, &group, &runtime, "postlude_named", || peers::postlude_named(registry.clone(), WINDOW));
        measure(criterion, &group, &runtime, "floor", || peers::floor(floor.clone(), WINDOW));
        measure(criterion, &group, &runtime, "timed", || peers::timed(WINDOW));
        measure(criterion, &group, &runtime, "tokio_spawn", || peers::tokio_spawn(WINDOW));
        measure(criterion, &group, &runtime, "JoinSet", || peers::join_set(WINDOW));
        measure(criterion, &group, &runtime, "by_hand", || peers::by_hand(by_hand.clone(), WINDOW));
        measure(criterion, &group, &runtime, "tokio_metrics", || peers::instrumented(monitor.clone(), WINDOW));
        measure(criterion, &group, &runtime, "FuturesUnordered", || peers::futures_unordered(WINDOW));
        measure(criterion, &group, &runtime, "in_place", || peers::awaited_in_place(WINDOW));
    }
}
