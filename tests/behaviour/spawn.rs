//! Spawned tasks, their handles, outcomes and names.

use std::{error::Error, fmt, future::pending, time::Duration};

use postlude::{BoxError, DiscardReason, Outcome, RejectReason, Task, TaskId, TaskRegistry, TaskState};
use tokio::sync::{mpsc, oneshot};

use crate::support::{Journal, assert_conserved};

#[tokio::test]
async fn outlives_handle_and_registry() {
    let (sender, receiver) = oneshot::channel();
    {
        let registry = TaskRegistry::new();
        drop(registry.spawn(async move {
            tokio::task::yield_now().await;
            sender.send(()).map_err(|()| "nobody waits")
        }));
    }
    receiver.await.unwrap();
}

mod handle {
    use super::*;

    #[tokio::test]
    async fn gives_outcome_again() {
        let registry = TaskRegistry::new();
        let mut handle = registry.spawn(async { panic!("a {}", "bug") });
        let Outcome::Panicked(panic) = (&mut handle).await else { panic!("not a panic") };
        assert_eq!(panic.message(), "a bug");
        assert!(handle.is_finished());
        assert!(matches!((&mut handle).await, Outcome::Panicked(_)));
        assert!(matches!(registry.spawn_blocking(|| {}).await, Outcome::Completed));
    }

    #[tokio::test]
    async fn may_be_polled_and_awaited_later() {
        let registry = TaskRegistry::new();
        let (go, may_go) = oneshot::channel::<()>();
        let mut handle = registry.spawn(async { may_go.await.map_err(|_| "gone") });
        assert!(futures::poll!(&mut handle).is_pending());
        go.send(()).unwrap();
        assert!(matches!(handle.await, Outcome::Completed));
    }

    #[tokio::test]
    async fn agrees_with_metrics_after_shutdown() {
        let registry = TaskRegistry::builder().max_concurrent(1).settle(Duration::ZERO).build().unwrap();
        let running = registry.spawn(pending::<()>());
        let mut waiting = registry.spawn(async {});
        let unasked = registry.spawn(async {});
        assert!(futures::poll!(&mut waiting).is_pending());
        tokio::task::yield_now().await;
        registry.shutdown(Duration::ZERO).await;
        assert!(matches!(running.await, Outcome::Aborted));
        assert!(matches!(waiting.await, Outcome::Discarded(DiscardReason::Closed)));
        assert!(matches!(unasked.await, Outcome::Discarded(DiscardReason::Closed)));
        let metrics = registry.metrics();
        assert_eq!((metrics.aborted, metrics.discarded), (1, 2));
    }
}

mod tasks {
    use super::*;

    #[tokio::test]
    async fn lists_live_task() {
        let registry = TaskRegistry::new();
        let (go, may_go) = oneshot::channel::<()>();
        let handle = registry.spawn(Task::new(async { may_go.await.map_err(|_| "gone") }).named("mail"));
        assert_eq!(registry.tasks()[0].state, TaskState::Pending);
        tokio::task::yield_now().await;

        let listed = registry.tasks();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].id, listed[0].name.as_str(), listed[0].state), (handle.id(), "mail", TaskState::Running));
        assert_eq!((listed[0].set, listed[0].location.file()), (None, file!()));
        assert!(!handle.is_finished());

        go.send(()).unwrap();
        assert!(matches!(handle.await, Outcome::Completed));
        assert!(registry.tasks().is_empty());
        assert_conserved(&registry, 1);
    }

    #[tokio::test]
    async fn lists_set_in_order() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        let first = set.add(Task::new(pending::<()>()).named("first"));
        let second = set.add(Task::new(async {}).named("second"));
        assert_eq!(first.set(), second.set());
        assert_eq!(format!("{first}"), format!("{}.1", first.set().unwrap()));
        assert_eq!(format!("{second}").parse::<TaskId>().unwrap(), second);

        let _drained = set.drain();
        tokio::task::yield_now().await;
        let listed: Vec<_> = registry.tasks().iter().map(|task| (task.name.as_str(), task.state, task.set)).collect();
        let expected = [("first", TaskState::Running, first.set()), ("second", TaskState::Pending, first.set())];
        assert_eq!(listed, expected);
    }
}

mod task_id {
    use super::*;

    #[test]
    fn is_parsed_strictly() {
        for wrong in ["", "x", "1.", ".1", "1.0", "1.2.3", "-1"] {
            assert!(wrong.parse::<TaskId>().is_err(), "{wrong:?}");
        }
    }
}

mod named {
    use super::*;

    #[tokio::test]
    async fn defaults_to_unnamed() {
        let registry = TaskRegistry::new();
        assert_eq!(registry.spawn(async {}).name(), "unnamed");
        assert_eq!(registry.spawn(Task::new(async {}).named("")).name(), "unnamed");
        assert_eq!(registry.spawn(Task::new(async {}).named("mail")).name(), "mail");
        registry.wait_idle().await;
        let metrics = registry.metrics();
        let names: Vec<_> =
            metrics.by_name().iter().map(|(name, figures)| (name.as_str(), figures.completed)).collect();
        assert_eq!(names, [("mail", 1), ("unnamed", 2)]);
    }
}

mod outcome {
    use super::*;

    /// An error that panics when it is shown, and when it is dropped.
    #[derive(Debug)]
    struct Hostile;

    impl fmt::Display for Hostile {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("shown");
        }
    }

    impl Error for Hostile {}

    impl Drop for Hostile {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[tokio::test]
    async fn failed_shows_chain_of_error() {
        #[derive(Debug)]
        struct Outer(std::io::Error);

        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the mail was not sent")
            }
        }

        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }

        let registry = TaskRegistry::new();
        let outcome = registry.spawn(async { Err::<(), _>(Outer(std::io::Error::other("refused"))) }).await;
        assert_eq!(outcome.to_string(), "failed: the mail was not sent: refused");
        let Outcome::Failed(error) = outcome else { panic!("{outcome}") };
        assert!(error.downcast_ref::<Outer>().is_some());
    }

    #[tokio::test]
    async fn discarded_has_reason() {
        let (sender, mut seen) = mpsc::unbounded_channel();
        let registry = TaskRegistry::builder()
            .on_failure(move |report| sender.send(report.outcome.clone()).unwrap())
            .build()
            .unwrap();
        let set = registry.set();
        set.add(async {});
        set.clear();
        assert!(matches!(seen.recv().await.unwrap(), Outcome::Discarded(DiscardReason::Cleared)));
    }

    /// Tasks that the user discarded on purpose are no losses.
    #[test]
    fn is_loss() {
        let discarded = |reason| Outcome::Discarded(reason);
        let cases = [
            (Outcome::Completed, false),
            (Outcome::Failed(BoxError::from("no").into()), true),
            (Outcome::TimedOut(Duration::ZERO), true),
            (Outcome::Aborted, true),
            (discarded(DiscardReason::Ending), false),
            (discarded(DiscardReason::Cleared), false),
            (discarded(DiscardReason::Capacity), true),
            (discarded(DiscardReason::Closed), true),
            (discarded(DiscardReason::RuntimeEnded), true),
            (discarded(DiscardReason::PreviousFailed), true),
            (discarded(DiscardReason::Expired), true),
            (discarded(DiscardReason::Refused), true),
        ];
        for (outcome, is_loss) in cases {
            assert_eq!(outcome.is_loss(), is_loss, "{outcome}");
        }
    }

    /// An error that panics when it is displayed or dropped stops nothing.
    #[tokio::test]
    async fn failed_with_error_that_panics() {
        // A subscriber that formats the error.
        let _listening = tracing::subscriber::set_default(tracing_subscriber::fmt().with_test_writer().finish());
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        set.add(async { Err::<(), _>(Hostile) });
        set.add(journal.task("second"));
        set.add(journal.task("third"));
        let report = set.drain().await;
        assert_eq!((report.failed, report.completed), (1, 2));
        drop(registry.spawn(async { Err::<(), _>(Hostile) }));
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["second", "third"]);
        assert_conserved(&registry, 4);
    }
}

mod try_spawn {
    use super::*;

    #[tokio::test]
    async fn rejection_works_with_question_mark() {
        async fn handler(registry: TaskRegistry) -> Result<(), Box<dyn Error + Send + Sync>> {
            registry.try_spawn(async {})?;
            Ok(())
        }

        let registry = TaskRegistry::new();
        registry.shutdown(Duration::ZERO).await;
        let error = handler(registry).await.unwrap_err();
        let rejected = error.downcast_ref::<postlude::Rejected>().unwrap();
        assert_eq!(rejected.reason(), RejectReason::Closed);
    }
}
