//! Tasks whose output somebody waits for.

use std::{
    future::{pending, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use postlude::{BoxError, DiscardReason, Outcome, OutcomeKind, OutputTask, Priority, Task, TaskRegistry, attempt};
use tokio::time::{sleep, timeout};

use crate::support::{Bomb, Reports, SECOND, assert_conserved, until};

#[tokio::test]
async fn returns_output() {
    let registry = TaskRegistry::new();
    let handle = registry.spawn_with_output(async { Ok::<_, io::Error>(attempt() + 41) });
    assert_eq!((handle.name().as_str(), registry.get(handle.id()).unwrap().label()), ("unnamed", "pending"));
    assert_eq!(handle.await.unwrap(), 42);
    let blocking =
        OutputTask::blocking(|| Ok::<_, io::Error>(vec![1, 2, 3])).named("blocking").priority(Priority::High);
    let handle = registry.spawn_with_output(blocking);
    assert_eq!((handle.name().as_str(), registry.tasks()[0].location.file()), ("blocking", file!()));
    assert_eq!(handle.await.unwrap(), [1, 2, 3]);
    let cpu = OutputTask::cpu(|| Ok::<_, io::Error>("computed".to_owned()));
    assert_eq!(registry.spawn_with_output(cpu).await.unwrap(), "computed");
    let metrics = registry.metrics();
    assert_eq!((metrics.completed, metrics.by_name()["blocking"].completed), (3, 1));
    assert_conserved(&registry, 3);
}

#[tokio::test(start_paused = true)]
async fn returns_outcome_of_a_task_that_did_not_complete() {
    let reports = Reports::default();
    let registry = TaskRegistry::builder().capacity(1).on_failure(reports.hook()).build().unwrap();
    let Err(Outcome::Failed(error)) = registry.spawn_with_output(async { Err::<(), _>("no such page") }).await else {
        panic!("it fails")
    };
    assert_eq!(error.to_string(), "no such page");
    let panics = registry.spawn_with_output::<u8>(async { if attempt() > 0 { panic!("a bug") } else { Err("never") } });
    assert!(matches!(panics.await, Err(Outcome::Panicked(panic)) if panic.message() == "a bug"));
    let hangs = || OutputTask::new(pending::<Result<u8, io::Error>>());
    assert!(matches!(registry.spawn_with_output(hangs().timeout(SECOND)).await, Err(Outcome::TimedOut(SECOND))));
    let aborted = registry.spawn_with_output(hangs());
    let full = registry.spawn_with_output(hangs());
    assert!(full.is_finished());
    assert!(matches!(full.await, Err(Outcome::Discarded(DiscardReason::Capacity))));
    assert!(!aborted.is_finished() && aborted.abort() && !aborted.abort());
    assert!(matches!(aborted.await, Err(Outcome::Aborted)));
    let expired = registry.spawn_with_output(hangs().expires_after(Duration::ZERO));
    assert!(matches!(expired.await, Err(Outcome::Discarded(DiscardReason::Expired))));
    assert_eq!(reports.read().len(), 6);
    assert_conserved(&registry, 6);
}

/// A future that was ended inside its last poll did not complete, although it has returned.
#[tokio::test]
async fn an_outcome_that_was_counted_hides_a_later_output() {
    let registry = TaskRegistry::new();
    let (send, id) = tokio::sync::oneshot::channel();
    let (own, output) = (registry.clone(), Arc::new(()));
    let returned = output.clone();
    let handle = registry.spawn_with_output(async move {
        assert!(own.abort(id.await?));
        Ok::<_, BoxError>(returned)
    });
    send.send(handle.id()).unwrap();
    assert!(matches!(handle.await, Err(Outcome::Aborted)));
    until(|| Arc::strong_count(&output) == 1).await;
    assert_conserved(&registry, 1);
}

#[tokio::test(start_paused = true)]
async fn is_cancel_safe_and_returns_the_output_once() {
    let registry = TaskRegistry::new();
    let mut handle = registry.spawn_with_output(async {
        sleep(10 * SECOND).await;
        Ok::<_, io::Error>(7)
    });
    for _ in 0..3 {
        assert!(timeout(SECOND, &mut handle).await.is_err());
    }
    assert_eq!((&mut handle).await.unwrap(), 7);
    assert!(handle.is_finished());
    assert!(matches!((&mut handle).await, Err(Outcome::Completed)));
    poll_fn(|context| {
        assert!(Pin::new(&mut handle).poll(context).is_ready());
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn a_dropped_handle_changes_nothing_and_drops_the_output_with_the_task() {
    let registry = TaskRegistry::new();
    let output = Arc::new(());
    let returned = output.clone();
    drop(registry.spawn_with_output(async move { Ok::<_, io::Error>(returned) }));
    // The output panics when it is dropped, in the task.
    drop(registry.spawn_with_output(async { Ok::<_, io::Error>(Bomb) }));
    registry.spawn(Task::new(async {})).await;
    registry.wait_idle().await;
    let metrics = registry.metrics();
    assert_eq!((metrics.completed + metrics.panicked, Arc::strong_count(&output)), (3, 1));
    assert_conserved(&registry, 3);
}

#[test]
fn a_runtime_that_ends_is_an_outcome() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
    let handle = registry.spawn_with_output(pending::<Result<u8, io::Error>>());
    drop(runtime);
    let outcome = futures::executor::block_on(handle).unwrap_err();
    assert_eq!(outcome.kind(), OutcomeKind::Discarded);
}
