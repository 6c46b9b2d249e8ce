//! What is counted by name while it lives, and figures that take bounded time.

use std::{thread, time::Duration};

use postlude::{RetryPolicy, Task, TaskMetrics, TaskRegistry};
use tokio::sync::oneshot;

fn hanging(name: &'static str) -> Task {
    Task::new(std::future::pending::<()>()).named(name)
}

/// Pending, running and retrying tasks of a name.
fn live(metrics: &TaskMetrics, name: &str) -> [u64; 3] {
    metrics.by_name().get(name).map_or([0; 3], |name| [name.pending, name.running, name.retrying])
}

/// The figures of all names add up to those of the registry.
fn assert_sums(metrics: &TaskMetrics) {
    let names = || metrics.by_name().values();
    assert_eq!(names().map(|name| name.pending).sum::<u64>(), metrics.pending, "{metrics:?}");
    assert_eq!(names().map(|name| name.running).sum::<u64>(), metrics.running, "{metrics:?}");
    assert_eq!(names().map(|name| name.retrying).sum::<u64>(), metrics.retrying, "{metrics:?}");
    let ended: u64 = names().map(|name| name.outcomes().total()).sum();
    assert_eq!(metrics.added, metrics.pending + metrics.running + ended, "{metrics:?}");
}

mod by_name {
    use super::*;

    #[tokio::test]
    async fn counts_spawned_tasks_and_those_of_sets_while_they_live() {
        let registry = TaskRegistry::builder().max_concurrent(3).build().unwrap();
        let set = registry.set();
        for name in ["a", "b", "a", "c", "b", "a"] {
            set.add(if name == "c" { hanging(name) } else { Task::new(async {}).named(name) });
        }
        let metrics = registry.metrics();
        assert_eq!(["a", "b", "c"].map(|name| live(&metrics, name)), [[3, 0, 0], [2, 0, 0], [1, 0, 0]]);
        assert_sums(&metrics);

        let handles = [(); 3].map(|()| registry.spawn(hanging("spawned")));
        let _drained = set.drain();
        // Two of the three permits are taken by spawned tasks at last, and one by the set's task that hangs.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let metrics = registry.metrics();
        assert_sums(&metrics);
        let of = |name| live(&metrics, name);
        assert_eq!(metrics.running, 3);
        assert_eq!([of("spawned")[0] + of("spawned")[1], of("c")[0] + of("c")[1]], [3, 1]);

        for handle in handles {
            handle.abort();
        }
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let metrics = registry.metrics();
        assert_eq!(
            ["a", "b", "c", "spawned"].map(|name| live(&metrics, name)),
            [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0; 3]]
        );
        assert_sums(&metrics);
        assert_eq!(registry.abort_named("c"), 1);
        registry.wait_idle().await;
        let metrics = registry.metrics();
        assert!(metrics.by_name().keys().all(|name| live(&metrics, name.as_str()) == [0; 3]), "{metrics:?}");
        assert_sums(&metrics);
    }

    #[tokio::test(start_paused = true)]
    async fn counts_a_task_as_retrying_between_its_attempts() {
        let registry = TaskRegistry::new();
        let policy = || RetryPolicy::constant(Duration::from_secs(10)).attempts(3);
        let flaky = || {
            Task::retrying(policy(), || async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Err::<(), _>("down")
            })
        };
        let set = registry.set();
        set.add(flaky().named("in a set"));
        let _drained = set.drain();
        registry.spawn(flaky().named("spawned"));
        let aborted = registry.spawn(flaky().named("aborted"));
        let at = async |millis| tokio::time::sleep(Duration::from_millis(millis)).await;
        let states = || {
            let metrics = registry.metrics();
            assert_sums(&metrics);
            ["in a set", "spawned", "aborted"].map(|name| live(&metrics, name))
        };
        at(500).await;
        assert_eq!(states(), [[0, 1, 0]; 3], "the first attempt");
        at(1_000).await;
        assert_eq!(states(), [[0, 1, 1]; 3], "between");
        aborted.abort();
        assert_eq!(states(), [[0, 1, 1], [0, 1, 1], [0; 3]], "aborted between");
        at(10_000).await;
        assert_eq!(states(), [[0, 1, 0], [0, 1, 0], [0; 3]], "the second attempt");
        registry.wait_idle().await;
        assert_eq!(states(), [[0; 3]; 3]);
    }

    // On four workers, with aborts and retries at any moment, and a reader.
    #[test]
    fn adds_up_at_every_moment() {
        const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let registry = runtime.block_on(async { TaskRegistry::builder().max_concurrent(8).build().unwrap() });
        let (stop, mut stopped) = oneshot::channel::<()>();
        let reader = {
            let registry = registry.clone();
            thread::spawn(move || {
                while matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                    assert_sums(&registry.metrics());
                }
            })
        };
        let adders: Vec<_> = (0..4)
            .map(|adder| {
                let registry = registry.clone();
                runtime.spawn(async move {
                    let mut random = fastrand::Rng::with_seed(adder);
                    for _ in 0..300 {
                        let set = registry.set();
                        for _ in 0..random.usize(1..12) {
                            let name = NAMES[random.usize(..NAMES.len())];
                            let retries = RetryPolicy::constant(Duration::ZERO).attempts(2);
                            let task = match random.u8(..4) {
                                0 => Task::retrying(retries, || async { Err::<(), _>("down") }),
                                1 => Task::new(tokio::task::yield_now()),
                                _ => Task::new(async {}),
                            };
                            let id = set.add(task.named(name));
                            if random.u8(..6) == 0 {
                                registry.abort(id);
                            }
                        }
                        if random.u8(..10) == 0 {
                            set.clear();
                        }
                        let spawned = registry.spawn(Task::new(tokio::task::yield_now()).named("spawned"));
                        if random.bool() {
                            spawned.abort();
                        }
                        drop(set);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        runtime.block_on(async {
            for adder in adders {
                adder.await.unwrap();
            }
            registry.wait_idle().await;
        });
        drop(stop);
        reader.join().unwrap();
        let metrics = registry.metrics();
        assert_sums(&metrics);
        assert!(metrics.by_name().keys().all(|name| live(&metrics, name.as_str()) == [0; 3]), "{metrics:?}");
    }
}

mod live_page {
    use super::*;

    // A page does not read the whole set: of 25,000 tasks three pages read all, in order, none twice.
    #[tokio::test(start_paused = true)]
    async fn begins_within_a_set_and_is_bounded() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let mut ids = vec![set.add(hanging("current"))];
        for index in 1..25_000 {
            let task = hanging("pending");
            ids.push(set.add(if index < 1_000 && index % 2 == 1 { task.delay(Duration::from_secs(60)) } else { task }));
        }
        let keep = set.clone();
        let _drained = set.drain();
        tokio::task::yield_now().await;
        let mut aborted = Vec::new();
        for id in ids.iter().skip(3_000).take(5_000) {
            assert!(registry.abort(*id));
            aborted.push(*id);
        }
        ids.retain(|id| !aborted.contains(id));

        let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let mut looks = 0;
            let page = registry.live_page(cursor, usize::MAX, |_| {
                looks += 1;
                true
            });
            assert!(looks <= 10_000 + 300, "{looks}");
            seen.extend(page.items.iter().map(|task| task.id));
            pages += 1;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, ids);
        assert!((2..=4).contains(&pages), "{pages}");
        let mut looks = 0;
        let page = registry.live_page(Some(ids[12_000]), 1, |_| {
            looks += 1;
            true
        });
        assert_eq!((page.items[0].id, looks), (ids[12_001], 2));
        assert_eq!(registry.tasks().len(), ids.len());
        keep.clear();
        registry.abort_set(ids[0].set().unwrap());
        registry.wait_idle().await;
    }
}

mod oldest_pending {
    use super::*;

    // The same as in the metrics, for each of the places in which a task may wait.
    #[tokio::test(start_paused = true)]
    async fn is_that_of_the_metrics() {
        let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
        let seconds = async |count| tokio::time::sleep(Duration::from_secs(count)).await;
        let oldest = async || {
            let alone = registry.oldest_pending().await;
            assert_eq!(alone, registry.metrics().oldest_pending);
            alone.as_secs()
        };
        assert_eq!(oldest().await, 0);
        let open = registry.set();
        open.add(hanging("open"));
        seconds(100).await;
        assert_eq!(oldest().await, 0, "its request is in progress");

        let first = registry.spawn(hanging("first"));
        seconds(10).await;
        let set = registry.set();
        set.add(hanging("in line"));
        set.add(hanging("behind it"));
        let drained = set.clone().drain();
        seconds(10).await;
        let spawned = registry.spawn(hanging("spawned"));
        seconds(10).await;
        assert_eq!(oldest().await, 20, "that of the set");
        set.clear();
        drop(drained);
        assert_eq!(oldest().await, 10, "the spawned one");
        spawned.abort();
        assert_eq!(oldest().await, 0);

        registry.spawn(hanging("delayed").delay(Duration::from_secs(30)));
        let delayed = registry.set();
        delayed.add(hanging("delayed in a set").delay(Duration::from_secs(20)));
        drop(delayed.drain());
        seconds(25).await;
        assert_eq!(oldest().await, 5, "its delay apart");
        first.abort();
    }
}

mod a_million_live_tasks {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    // The figures are taken in many steps, and other calls go through between them, also on the same thread.
    #[tokio::test(start_paused = true)]
    async fn are_looked_at_a_few_at_a_time() {
        let registry = TaskRegistry::new();
        registry.spawn(hanging("first"));
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(5)).await;
        for _ in 1..1_000_000 {
            registry.spawn(hanging("later"));
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        let mut ages = pin!(registry.ages());
        let (mut context, mut steps) = (Context::from_waker(Waker::noop()), 0_u64);
        let ages = loop {
            if let Poll::Ready(ages) = ages.as_mut().poll(&mut context) {
                break ages;
            }
            steps += 1;
            if steps % 100 == 0 {
                assert!(registry.spawn(hanging("meanwhile")).abort());
            }
        };
        assert!(steps >= 1_000_000 / 256, "{steps}");
        assert_eq!([ages.pending, ages.running].map(|age| age.as_secs()), [5, 10]);

        let metrics = registry.metrics();
        assert_eq!((metrics.live, metrics.by_name()["meanwhile"].aborted), (1_000_000, steps / 100));
        assert_eq!(metrics.by_name()["first"].oldest_running, Duration::from_secs(10));
        assert_eq!(metrics.by_name()["later"].oldest_pending, Duration::from_secs(5));
    }
}

mod recent_outcomes {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_what_ended_within_a_time_also_in_a_set_that_drains() {
        let registry = TaskRegistry::new();
        for _ in 0..3 {
            registry.spawn(async { Err::<(), _>("down") }).await;
        }
        tokio::time::sleep(Duration::from_secs(300)).await;
        registry.spawn(async { panic!("a bug") }).await;
        let set = registry.set();
        for _ in 0..5 {
            set.add(async {});
        }
        set.add(hanging("last"));
        let _drained = set.drain();
        tokio::task::yield_now().await;
        let recent = registry.recent_outcomes(Duration::from_secs(60));
        assert_eq!((recent.completed, recent.failed, recent.panicked), (5, 0, 1));
        assert_eq!(registry.recent_outcomes(Duration::from_secs(600)).failed, 3);
    }
}

mod runtime {
    use super::*;

    // And not that of the caller.
    #[tokio::test]
    async fn is_that_of_the_registry() {
        let own = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        let registry = TaskRegistry::builder().handle(own.handle().clone()).build().unwrap();
        for _ in 0..7 {
            registry.spawn(hanging("alive"));
        }
        let runtime = registry.metrics().runtime;
        // The driver of the timer, too.
        assert_eq!((runtime.workers, runtime.alive_tasks), (3, 8));
        own.shutdown_background();
    }
}
