//! Items that are handled in batches.

use std::{
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postlude::{
    BatchPolicy, Batcher, DiscardReason, Outcome, RejectReason, RetryPolicy, Task, TaskRegistry, TaskState, attempt,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::support::{Bomb, SECOND, assert_conserved};

fn policy() -> BatchPolicy {
    BatchPolicy::default().max_items(3).max_delay(SECOND).capacity(6)
}

/// The batches that were handled, in order.
#[derive(Clone, Default)]
struct Handled(Arc<Mutex<Vec<Vec<u32>>>>);

impl Handled {
    fn read(&self) -> Vec<Vec<u32>> {
        self.0.lock().unwrap().clone()
    }

    fn batcher(&self, registry: &TaskRegistry, policy: BatchPolicy) -> Batcher<u32> {
        let handled = self.clone();
        registry.batcher("events", policy, move |items| {
            handled.0.lock().unwrap().push(items);
            async {}
        })
    }
}

/// Handles a batch when it is allowed to.
fn held_back(registry: &TaskRegistry, policy: BatchPolicy) -> (Batcher<u32>, Handled, Arc<Semaphore>) {
    let (handled, allowed) = (Handled::default(), Arc::new(Semaphore::new(0)));
    let (note, allow) = (handled.clone(), allowed.clone());
    let batcher = registry.batcher("events", policy, move |items| {
        let (note, allow) = (note.clone(), allow.clone());
        async move {
            allow.acquire().await.unwrap().forget();
            note.0.lock().unwrap().push(items);
        }
    });
    (batcher, handled, allowed)
}

/// A limit keeps the order of the batches.
#[tokio::test(start_paused = true)]
async fn waiting_batch_takes_more_items() {
    let registry = TaskRegistry::builder().limit_by_name("events", 1).build().unwrap();
    let (batcher, handled, allowed) = held_back(&registry, policy().capacity(100));
    batcher.push(0).await.unwrap();
    batcher.flush();
    tokio::task::yield_now().await;
    assert_eq!(registry.metrics().running, 1);
    batcher.push(1).await.unwrap();
    tokio::task::yield_now().await;
    batcher.flush();
    tokio::task::yield_now().await;
    let waiting: Vec<_> = registry.tasks().into_iter().filter(|task| task.state == TaskState::Pending).collect();
    assert_eq!((waiting.len(), waiting[0].due_in), (1, None), "flushed, and without a permit");
    for item in 2..7 {
        batcher.push(item).await.unwrap();
    }
    allowed.add_permits(10);
    registry.wait_idle().await;
    assert_eq!(handled.read(), [vec![0], vec![1, 2, 3], vec![4, 5, 6]]);
    assert_conserved(&registry, 3);
}

#[tokio::test(start_paused = true)]
async fn waiting_batch_is_a_pending_task() {
    let (registry, handled) = (TaskRegistry::new(), Handled::default());
    let (batcher, line) = (handled.batcher(&registry, policy()), line!());
    assert!(registry.tasks().is_empty(), "nothing waits yet");
    batcher.push(1).await.unwrap();
    sleep(SECOND / 4).await;
    let [task] = <[_; 1]>::try_from(registry.tasks()).unwrap();
    assert_eq!((task.name.as_str(), task.state, task.due_in), ("events", TaskState::Pending, Some(SECOND / 4 * 3)));
    assert!(task.location.file() == file!() && task.location.line() < line);
    registry.wait_idle().await;
    let ran_for = registry.metrics().total_time;
    assert_eq!(ran_for, Duration::ZERO, "waiting is not running");
}

#[tokio::test(start_paused = true)]
async fn abort_drops_batch() {
    let (registry, handled) = (TaskRegistry::new(), Handled::default());
    let batcher = handled.batcher(&registry, policy().capacity(3));
    for item in 0..2 {
        batcher.push(item).await.unwrap();
    }
    assert!(registry.abort(registry.tasks()[0].id));
    for item in 2..5 {
        batcher.push(item).await.unwrap(); // waits for the places that become free
    }
    registry.wait_idle().await;
    assert_eq!(handled.read(), [[2, 3, 4]]);
    assert_eq!(registry.metrics().aborted, 1);
    assert_conserved(&registry, 2);
}

#[tokio::test(start_paused = true)]
async fn failed_batch_frees_its_slots() {
    let registry = TaskRegistry::new();
    let batcher = registry.batcher("events", policy().max_items(1).capacity(1), |items| {
        assert!(items != [0], "the handler panics");
        async move {
            assert!(items != [1], "its future panics");
            if items == [2] { Err("the disk is full") } else { Ok(()) }
        }
    });
    for item in 0..4 {
        batcher.push(item).await.unwrap();
    }
    registry.wait_idle().await;
    let m = registry.metrics();
    assert_eq!((m.panicked, m.failed, m.completed), (2, 1, 1));
}

#[tokio::test]
async fn items_may_panic_in_drop() {
    let registry = TaskRegistry::builder().limit_by_name("bombs", 1).build().unwrap();
    let policy = BatchPolicy::default().capacity(3);
    let bombs = registry.batcher("bombs", policy, |_: Vec<Bomb>| async {});
    for _ in 0..3 {
        assert!(bombs.try_push(Bomb).is_ok());
    }
    assert!(registry.abort(registry.tasks()[0].id));
    // There is room when they are gone.
    assert!(bombs.push(Bomb).await.is_ok());
    assert_eq!(registry.metrics().aborted, 1);
    registry.abort(registry.tasks()[0].id);
    registry.wait_idle().await;
}

mod policy {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn max_items_and_max_delay() {
        let (registry, handled) = (TaskRegistry::new(), Handled::default());
        let batcher = handled.batcher(&registry, policy());
        let start = Instant::now();
        for item in 0..4 {
            batcher.push(item).await.unwrap();
        }
        tokio::task::yield_now().await;
        assert_eq!((handled.read(), start.elapsed()), (vec![vec![0, 1, 2]], Duration::ZERO));
        sleep(SECOND / 2).await;
        batcher.push(4).await.unwrap();
        registry.wait_idle().await;
        assert_eq!((handled.read(), start.elapsed()), (vec![vec![0, 1, 2], vec![3, 4]], SECOND));
        assert_conserved(&registry, 2);
        assert_eq!(registry.metrics().by_name()["events"].completed, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn capacity() {
        let registry = TaskRegistry::new();
        let (batcher, handled, allowed) = held_back(&registry, policy());
        for item in 0..6 {
            batcher.try_push(item).unwrap();
        }
        tokio::task::yield_now().await;
        assert_eq!(registry.metrics().running, 2, "being handled counts, too");
        let rejected = batcher.try_push(6).unwrap_err();
        assert_eq!((rejected.reason(), rejected.into_item()), (RejectReason::BatcherFull, 6));
        let given_up = tokio::time::timeout(SECOND, batcher.push(7)).await;
        assert!(given_up.is_err());
        let waiting = tokio::spawn({
            let batcher = batcher.clone();
            async move { batcher.push(8).await }
        });
        sleep(SECOND).await;
        assert!(!waiting.is_finished());
        allowed.add_permits(1);
        waiting.await.unwrap().unwrap();
        allowed.add_permits(10);
        registry.wait_idle().await;
        let mut items = handled.read().concat();
        items.sort_unstable();
        assert_eq!(items, [0, 1, 2, 3, 4, 5, 8]);
    }

    #[tokio::test(start_paused = true)]
    async fn extreme_values() {
        let none = BatchPolicy::default().max_items(0).max_delay(Duration::ZERO).capacity(0);
        let endless = BatchPolicy::default().max_items(usize::MAX).max_delay(Duration::MAX).capacity(usize::MAX);
        let at_once = policy().max_delay(Duration::ZERO);
        let expected = [vec![vec![1], vec![2]], vec![vec![1, 2]], vec![vec![1, 2]]];
        for (policy, expected) in [none, endless, at_once].into_iter().zip(expected) {
            let (registry, handled) = (TaskRegistry::new(), Handled::default());
            let batcher = handled.batcher(&registry, policy);
            let start = Instant::now();
            batcher.push(1).await.unwrap();
            batcher.push(2).await.unwrap();
            registry.shutdown(SECOND).await;
            assert_eq!((handled.read(), start.elapsed()), (expected, Duration::ZERO), "{policy:?}");
        }
        let registry = TaskRegistry::new();
        let unnamed = registry.batcher("", policy(), |_: Vec<()>| async {});
        unnamed.push(()).await.unwrap();
        assert_eq!(registry.tasks()[0].name, "unnamed");
    }
}

mod flush {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn and_last_drop_handle_at_once() {
        let (registry, handled) = (TaskRegistry::new(), Handled::default());
        let policy = policy().max_delay(Duration::MAX);
        let batcher = handled.batcher(&registry, policy);
        let start = Instant::now();
        batcher.flush();
        batcher.push(1).await.unwrap();
        batcher.flush();
        registry.wait_idle().await;
        assert_eq!(handled.read(), [[1]]);
        batcher.push(2).await.unwrap();
        let clone = batcher.clone();
        drop(batcher);
        sleep(SECOND).await;
        assert_eq!(handled.read(), [[1]]);
        drop(clone);
        registry.wait_idle().await;
        assert_eq!((handled.read(), start.elapsed()), (vec![vec![1], vec![2]], SECOND));
    }
}

mod try_push {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn returns_item_with_reason() {
        let registry = TaskRegistry::builder().capacity(1).build().unwrap();
        let (batcher, hog) =
            (Handled::default().batcher(&registry, policy()), registry.spawn(std::future::pending::<()>()));
        let rejected = batcher.try_push(1).unwrap_err();
        assert_eq!((rejected.reason(), rejected.into_item()), (RejectReason::Capacity, 1));
        hog.abort();
        batcher.try_push(1).unwrap();
        batcher.try_push(2).unwrap();
        assert!(
            matches!(registry.spawn(async {}).await, Outcome::Discarded(DiscardReason::Capacity)),
            "one batch, one task"
        );

        let registry = TaskRegistry::builder().admit(|_| Err("no events at night".into())).build().unwrap();
        let rejected = Handled::default().batcher(&registry, policy()).try_push(1).unwrap_err();
        assert_eq!(rejected.reason(), RejectReason::Refused);
        assert_eq!(rejected.source().unwrap().to_string(), "no events at night");
        assert_conserved(&registry, 0);
    }
}

mod shutdown {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn handles_waiting_batch_at_once() {
        let (registry, handled) = (TaskRegistry::new(), Handled::default());
        let batcher = handled.batcher(&registry, policy().max_delay(3600 * SECOND));
        batcher.push(1).await.unwrap();
        sleep(SECOND).await;
        let report = registry.shutdown(10 * SECOND).await;
        assert!(report.is_clean(), "{report}");
        assert_eq!(handled.read(), [[1]]);
    }

    #[tokio::test(start_paused = true)]
    async fn accepts_until_idle_then_rejects() {
        let (registry, handled) = (TaskRegistry::new(), Handled::default());
        let batcher = handled.batcher(&registry, policy().max_delay(Duration::MAX));
        batcher.push(1).await.unwrap();
        let late = batcher.clone();
        registry.spawn(async move {
            sleep(SECOND).await;
            late.push(2).await.map_err(|_| "closed")
        });
        let start = Instant::now();
        let report = registry.shutdown(60 * SECOND).await;
        assert!(report.is_clean(), "{report}");
        assert_eq!((handled.read(), start.elapsed()), (vec![vec![1], vec![2]], SECOND));
        for rejected in [batcher.push(3).await.unwrap_err(), batcher.try_push(3).unwrap_err()] {
            assert_eq!(rejected.reason(), RejectReason::Closed);
            assert!(rejected.to_string().contains("`events`"), "{rejected}");
            assert_eq!(rejected.into_item(), 3);
        }
        assert_conserved(&registry, 3);
    }
}

mod retrying_batcher {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keeps_items_and_slots_between_attempts() {
        let (registry, handled) = (TaskRegistry::new(), Handled::default());
        let note = handled.clone();
        let retry = RetryPolicy::constant(10 * SECOND).attempts(3);
        let batcher = registry.retrying_batcher("events", policy().capacity(3), retry, move |items| {
            note.0.lock().unwrap().push(items);
            async { if attempt() < 3 { Err("the receiver is down") } else { Ok(()) } }
        });
        let start = Instant::now();
        for item in 0..3 {
            batcher.push(item).await.unwrap();
        }
        sleep(SECOND).await;
        assert_eq!(batcher.try_push(3).unwrap_err().reason(), RejectReason::BatcherFull, "between attempts, too");
        batcher.push(3).await.unwrap();
        assert_eq!((handled.read(), start.elapsed()), (vec![vec![0, 1, 2]; 3], 20 * SECOND));
        assert_eq!((registry.metrics().completed, registry.metrics().retries), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn dead_letter_keeps_items() {
        let (registry, handled) = (TaskRegistry::new(), Handled::default());
        let (note, down) = (handled.clone(), Arc::new(AtomicUsize::new(1)));
        let is_down = down.clone();
        let retry = RetryPolicy::constant(SECOND).attempts(2);
        let batcher = registry.retrying_batcher("events", policy().capacity(3), retry, move |items| {
            let is_down = is_down.load(Ordering::SeqCst) == 1;
            if !is_down {
                note.0.lock().unwrap().push(items);
            }
            async move { if is_down { Err("the receiver is down") } else { Ok(()) } }
        });
        for item in 0..3 {
            batcher.push(item).await.unwrap();
        }
        batcher.push(3).await.unwrap();
        down.store(0, Ordering::SeqCst);
        let [dead] = <[_; 1]>::try_from(registry.dead_letters().list()).unwrap();
        assert_eq!(dead.name, "events");
        assert!(registry.dead_letters().replay(dead.id).is_ok());
        registry.wait_idle().await;
        let mut batches = handled.read();
        batches.sort();
        assert_eq!(batches, [vec![0, 1, 2], vec![3]]);
    }
}

mod threads {
    use super::*;

    /// With flushes and spawns in between.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn lose_no_item() {
        const PUSHERS: u32 = 8;
        const ITEMS: u32 = 500;
        let registry = TaskRegistry::builder().limit_by_name("other", 1).build().unwrap();
        let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..PUSHERS * ITEMS).map(|_| AtomicUsize::new(0)).collect());
        let count = counts.clone();
        let policy = BatchPolicy::default().max_items(7).max_delay(Duration::from_micros(100)).capacity(50);
        let batcher = registry.batcher("events", policy, move |items: Vec<u32>| {
            assert!((1..=7).contains(&items.len()));
            for item in items {
                count[item as usize].fetch_add(1, Ordering::SeqCst);
            }
            tokio::task::yield_now()
        });
        let pushers: Vec<_> = (0..PUSHERS)
            .map(|pusher| {
                let (batcher, registry) = (batcher.clone(), registry.clone());
                tokio::spawn(async move {
                    for item in 0..ITEMS {
                        batcher.push(pusher * ITEMS + item).await.unwrap();
                        match item % 50 {
                            0 => batcher.flush(),
                            1 => drop(registry.spawn(Task::new(async {}).named("other"))),
                            _ => {}
                        }
                    }
                })
            })
            .collect();
        for pusher in pushers {
            pusher.await.unwrap();
        }
        drop(batcher);
        registry.wait_idle().await;
        assert!(counts.iter().all(|count| count.load(Ordering::SeqCst) == 1));
        let m = registry.metrics();
        assert_eq!((m.completed, m.pending, m.running), (m.added, 0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn keep_order_within_limit_of_one() {
        let policy = BatchPolicy::default().max_items(2);
        for _ in 0..100 {
            let registry = TaskRegistry::builder().limit_by_name("events", 1).build().unwrap();
            let handled = Handled::default();
            let batcher = handled.batcher(&registry, policy);
            let pushing = tokio::spawn(async move { (0..40).for_each(|item| batcher.try_push(item).unwrap()) });
            pushing.await.unwrap();
            registry.wait_idle().await;
            assert!(handled.read().concat().into_iter().eq(0..40), "{:?}", handled.read());
        }
    }
}
