//! The order in which waiting tasks start; and none waits for ever.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use postlude::{Outcome, Priority, Task, TaskRegistry};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use crate::support::{Journal, SECOND, assert_conserved};

#[tokio::test(start_paused = true)]
async fn then_first_in_first_out() {
    for blocking in [false, true] {
        let registry = TaskRegistry::builder().max_concurrent(1).max_blocking(1).build().unwrap();
        let journal = Journal::default();
        let (release, held) = oneshot::channel::<()>();
        let first: Task = if blocking {
            Task::blocking(move || held.blocking_recv().map_err(|_| "gone"))
        } else {
            Task::new(async { held.await.map_err(|_| "gone") })
        };
        registry.spawn(first);
        tokio::task::yield_now().await;
        for (name, priority) in [
            ("low", Priority::Low),
            ("normal", Priority::Normal),
            ("high", Priority::High),
            ("second low", Priority::Low),
            ("second high", Priority::High),
        ] {
            let task = if blocking {
                let journal = journal.clone();
                Task::blocking(move || journal.note(name))
            } else {
                Task::new(journal.task(name))
            };
            registry.spawn(task.priority(priority));
        }
        registry.spawn(async {}); // async tasks do not wait behind blocking ones
        tokio::task::yield_now().await;
        release.send(()).unwrap();
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["high", "second high", "normal", "low", "second low"]);
        assert_conserved(&registry, 7);
    }
}

#[tokio::test(start_paused = true)]
async fn does_not_reorder_a_set() {
    let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
    let journal = Journal::default();
    let set = registry.set();
    for (name, priority) in [("1", Priority::Low), ("2", Priority::High), ("3", Priority::Normal)] {
        set.add(Task::new(journal.task(name)).priority(priority));
    }
    assert_eq!(set.drain().await.completed, 3);
    assert_eq!(journal.read(), ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn without_limit_changes_nothing() {
    let registry = TaskRegistry::new();
    let outcome = registry.spawn(Task::new(async {}).priority(Priority::High)).await;
    assert!(matches!(outcome, Outcome::Completed));
    assert_eq!(Priority::default(), Priority::Normal);
}

mod promote_after {
    use super::*;

    /// A task of the simulation: its priority, when it came and when it started, in seconds.
    #[derive(Clone, Copy, Debug)]
    struct Run {
        priority: Priority,
        came: f64,
        started: f64,
    }

    /// Two permits, tasks of one second each, and for a minute three of them come every second.
    async fn saturated(promote_after: Duration) -> Vec<Run> {
        let registry = TaskRegistry::builder().max_concurrent(2).promote_after(promote_after).build().unwrap();
        let runs = Arc::new(Mutex::new(Vec::new()));
        let begin = Instant::now();
        for round in 0..180_u32 {
            let priority = match round {
                _ if round % 9 == 0 => Priority::Low,
                _ if round % 3 == 0 => Priority::Normal,
                _ => Priority::High,
            };
            let (runs, came) = (runs.clone(), begin.elapsed().as_secs_f64());
            let task = Task::new(async move {
                let started = begin.elapsed().as_secs_f64();
                runs.lock().unwrap().push(Run { priority, came, started });
                sleep(SECOND).await;
            });
            registry.spawn(task.priority(priority));
            sleep(SECOND / 3).await;
        }
        registry.wait_idle().await;
        assert_conserved(&registry, 180);
        std::mem::take(&mut *runs.lock().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_overtaking() {
        let runs = saturated(10 * SECOND).await;
        let mut promoted = 0;
        for (place, first) in runs.iter().enumerate() {
            for second in &runs[place + 1..] {
                let priorities_apart = f64::from(first.priority as u8) - f64::from(second.priority as u8);
                let later = first.came - second.came;
                if later > 0.0 {
                    // The first has overtaken the second: allowed within the bound, which needs a higher priority.
                    assert!(later < 10.0 * priorities_apart, "{first:?} before {second:?}");
                } else if priorities_apart < 0.0 {
                    promoted += u32::from(second.came < first.started);
                }
            }
        }
        assert!(promoted > 100, "a lower priority has also gone first, by its age: {promoted}");
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_low_priority_from_starving() {
        let last_start = |runs: &[Run], priority| {
            let starts = runs.iter().filter(|run| run.priority == priority && run.came < 10.0).map(|run| run.started);
            starts.fold(0.0, f64::max)
        };
        let strict = saturated(Duration::MAX).await;
        assert!(last_start(&strict, Priority::Low) > 55.0, "of the first 10 s, one waited for the rush to end");
        let aged = saturated(10 * SECOND).await;
        assert!(last_start(&aged, Priority::Low) < 45.0);
        assert!(last_start(&aged, Priority::High) < last_start(&aged, Priority::Normal));
        let level = saturated(Duration::ZERO).await;
        assert!(level.is_sorted_by(|a, b| a.came <= b.came), "promoted at once: in the order in which they came");
    }
}
