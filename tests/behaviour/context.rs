//! The context of a task: its set, its attempt and its token.

use std::{future::pending, time::Duration};

use postlude::{Outcome, RejectReason, Task, TaskRegistry, after, attempt, cancellation};
use tokio::sync::oneshot;

use crate::support::{Journal, SECOND, assert_conserved, retries::each_second, until};

/// Adds a task that adds a task, down to a depth.
fn descend(journal: Journal, depth: usize) {
    if depth > 0 {
        after(async move {
            journal.note(format!("level {depth}"));
            descend(journal, depth - 1);
        })
        .unwrap();
    }
}

mod after {
    use super::*;

    #[tokio::test]
    async fn without_set_returns_task() {
        let registry = TaskRegistry::new();
        assert_eq!(after(async {}).unwrap_err().reason(), RejectReason::NoSet);
        let (sender, reason) = oneshot::channel();
        registry.spawn(async move { sender.send(after(Task::new(async {}).named("kept"))).unwrap() });
        let rejected = reason.await.unwrap().unwrap_err();
        assert_eq!(rejected.reason(), RejectReason::NoSet);
        assert!(rejected.to_string().contains("`kept`"), "{rejected}");
        assert!(rejected.to_string().contains("TaskLayer"), "{rejected}");

        let handle = registry.spawn(rejected.into_task());
        assert!(matches!(handle.await, Outcome::Completed));
    }

    #[tokio::test]
    async fn in_task_adds_to_draining_set() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let inner = journal.clone();
        set.add(async move {
            inner.note("first");
            after(inner.task("added")).unwrap();
            inner.note("first ends");
        });
        set.add(journal.task("second"));
        set.drain().await;
        assert_eq!(journal.read(), ["first", "first ends", "second", "added"]);
    }

    #[tokio::test]
    async fn in_blocking_task_adds_to_draining_set() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let inner = journal.clone();
        set.add_blocking(move || after(inner.task("added")).map(drop));
        set.drain().await;
        assert_eq!(journal.read(), ["added"]);
        assert_conserved(&registry, 2);
    }

    #[tokio::test]
    async fn nests_five_levels() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let inner = journal.clone();
        registry.set().run_after(async move { descend(inner, 5) }).await;
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["level 5", "level 4", "level 3", "level 2", "level 1"]);
        assert_conserved(&registry, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn works_in_every_attempt() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let noted = journal.clone();
        set.add(Task::retrying(each_second(), move || {
            let noted = noted.clone();
            async move {
                after(noted.task(if attempt() == 1 { "added by the first" } else { "added by the second" })).unwrap();
                if attempt() == 1 { Err("once more") } else { Ok(()) }
            }
        }));
        assert_eq!(set.drain().await.completed, 3);
        assert_eq!(journal.read(), ["added by the first", "added by the second"]);
    }
}

mod attempt {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_known_in_factory_future_and_closure() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let noted = journal.clone();
        let both = Task::retrying(each_second(), move || {
            let (made_for, noted) = (attempt(), noted.clone());
            async move {
                noted.note(format!("{made_for} {}", attempt()));
                tokio::task::yield_now().await;
                if attempt() == 1 { Err("once more") } else { Ok(()) }
            }
        });
        registry.spawn(both).await;
        let noted = journal.clone();
        let closure = Task::retrying_blocking(each_second(), move || {
            noted.note(format!("closure {}", attempt()));
            if attempt() == 1 { Err("once more") } else { Ok(()) }
        });
        registry.spawn(closure.timeout(60 * SECOND)).await;
        let set = registry.set();
        let noted = journal.clone();
        set.add(async move { noted.note(format!("plain {}", attempt())) });
        set.drain().await;
        assert_eq!(journal.read(), ["1 1", "2 2", "closure 1", "closure 2", "plain 1"]);
        assert_eq!(attempt(), 0);
    }
}

mod cancellation {
    use super::*;

    /// Its set goes on meanwhile.
    #[tokio::test]
    async fn reaches_aborted_or_timed_out_closure() {
        let registry = TaskRegistry::new();
        for by_timeout in [true, false] {
            let (started, has_started) = oneshot::channel();
            let (ended, has_ended) = oneshot::channel();
            let closure = Task::blocking(move || {
                let token = cancellation();
                started.send(()).unwrap();
                while !token.is_cancelled() {
                    std::thread::yield_now();
                }
                ended.send(()).unwrap();
            });
            let set = registry.set();
            let id = set.add(if by_timeout { closure.timeout(Duration::from_millis(5)) } else { closure });
            set.add(async {});
            let drained = set.drain();
            has_started.await.unwrap();
            if !by_timeout {
                assert!(registry.abort(id));
            }
            let report = drained.await;
            assert_eq!((report.timed_out + report.aborted, report.completed), (1, 1));
            has_ended.await.unwrap();
        }
        until(|| registry.metrics().stuck == 0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn is_triggered_by_timeout() {
        let registry = TaskRegistry::new();
        let (sender, token) = oneshot::channel();
        let handle = registry.spawn(
            Task::new(async move {
                sender.send(cancellation()).unwrap();
                pending::<()>().await;
            })
            .timeout(Duration::from_secs(30)),
        );
        let token = token.await.unwrap();
        assert!(!token.is_cancelled());
        assert!(matches!(handle.await, Outcome::TimedOut(limit) if limit == Duration::from_secs(30)));
        assert!(token.is_cancelled());
    }

    #[tokio::test]
    async fn outside_a_task_is_never_triggered() {
        let registry = TaskRegistry::new();
        let token = cancellation();
        registry.shutdown(Duration::ZERO).await;
        assert!(!token.is_cancelled());
        assert!(registry.cancellation_token().is_cancelled());
    }

    /// The future may also add to its set while it is dropped.
    #[tokio::test]
    async fn is_triggered_in_drop_of_aborted_future() {
        struct Asks(Option<oneshot::Sender<bool>>);

        impl Drop for Asks {
            fn drop(&mut self) {
                let cancelled = cancellation().is_cancelled();
                after(async {}).unwrap();
                self.0.take().unwrap().send(cancelled).unwrap();
            }
        }

        let registry = TaskRegistry::new();
        let (sender, cancelled) = oneshot::channel();
        let set = registry.set();
        let asks = Asks(Some(sender));
        let id = set.add(async move {
            let _asks = asks;
            pending::<()>().await;
        });
        set.drain();
        tokio::task::yield_now().await;
        assert!(registry.abort(id));
        assert!(cancelled.await.unwrap());
        registry.wait_idle().await;
        assert_eq!(registry.metrics().completed, 1);
    }
}

mod cancellation_token {
    use super::*;

    #[tokio::test]
    async fn of_registry_cancels_no_task() {
        let registry = TaskRegistry::new();
        let (sender, token) = oneshot::channel();
        registry.spawn(async move {
            sender.send(cancellation()).unwrap();
            pending::<()>().await;
        });
        registry.cancellation_token().cancel();
        assert!(!token.await.unwrap().is_cancelled());
    }
}
