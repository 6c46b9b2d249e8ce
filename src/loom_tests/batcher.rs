//! A batcher's batch where it meets other items, and its own abort.

use std::time::Duration;

use loom::thread;

use crate::{
    loom_tests::{check, registry},
    model::BatchPolicy,
    registry::{TaskRegistry, batcher::Batcher},
};

/// Seeded: `Shared::add` does not look again for a batch when it has the lock for the second time: two batches.
#[test]
fn two_items_that_meet_at_an_empty_batcher_share_a_batch() {
    check(|| {
        let registry = registry(None);
        let batcher = batcher(&registry);
        let other = {
            let batcher = batcher.clone();
            thread::spawn(move || batcher.try_push(1).is_ok())
        };
        let pushed = batcher.try_push(2).is_ok();
        assert!(pushed && other.join().unwrap());
        assert_eq!(batcher.gathered(), 2);
        assert_eq!(registry.metrics().added, 1);
    });
}

/// Seeded: `Shared::join` does not ask whether the batch's task is live: the item is in a batch that nobody handles.
#[test]
fn an_item_that_meets_the_abort_of_its_batch_goes_with_it_or_into_another() {
    check(|| {
        let registry = registry(None);
        let batcher = batcher(&registry);
        batcher.try_push(1).unwrap();
        let id = registry.tasks().first().unwrap().id;
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || assert!(registry.abort(id)))
        };
        batcher.try_push(2).unwrap();
        aborter.join().unwrap();
        let (live, metrics) = (registry.tasks().len() as u64, registry.metrics());
        assert_eq!(metrics.added, metrics.aborted + live, "{metrics:?}");
        batcher.try_push(3).unwrap();
        assert_eq!(registry.tasks().len(), 1, "the third is in a live batch");
        assert_eq!(batcher.gathered(), if live == 1 { 2 } else { 1 });
    });
}

fn batcher(registry: &TaskRegistry) -> Batcher<u32> {
    let policy = BatchPolicy::default().max_items(10).max_delay(Duration::MAX).capacity(10);
    registry.batcher("items", policy, |_: Vec<u32>| async {})
}
