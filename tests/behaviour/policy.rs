//! Policies of names: what holds for their tasks that say nothing else.

use std::{future::pending, time::Duration};

use postlude::{
    BuildError, DiscardReason, NamePolicy, Outcome, OutcomeKind, RejectReason, RetryPolicy, Task, TaskName,
    TaskRegistry, attempt,
};
use tokio::time::Instant;

use crate::support::{SECOND, assert_conserved};

fn registry(policy: NamePolicy) -> TaskRegistry {
    let builder = TaskRegistry::builder().default_timeout(60 * SECOND);
    builder.policy("mail", policy).build().unwrap()
}

async fn fails() -> Result<(), &'static str> {
    Err("busy")
}

/// Runs a task to its end, and returns how it ended, after how long, and how often it was tried again.
async fn run(registry: &TaskRegistry, task: Task) -> (OutcomeKind, Duration, u64) {
    let (start, before) = (Instant::now(), registry.metrics().retries);
    let outcome = registry.spawn(task).await;
    (outcome.kind(), start.elapsed(), registry.metrics().retries - before)
}

#[tokio::test(start_paused = true)]
async fn timeout_of_the_task_then_of_its_name_then_of_the_registry() {
    let registry = registry(NamePolicy::default().timeout(5 * SECOND));
    let endless = || Task::new(pending::<()>());
    for (task, seconds) in [
        (endless().named("mail").timeout(SECOND), 1),
        (endless().named("mail"), 5),
        (endless().named("mail").delay(SECOND), 6),
        (endless(), 60),
    ] {
        assert_eq!(run(&registry, task).await, (OutcomeKind::TimedOut, seconds * SECOND, 0));
    }
    let set = registry.set();
    set.add(endless().named("mail"));
    set.add(endless().named("mail").priority(postlude::Priority::High));
    let start = Instant::now();
    assert_eq!((set.drain().await.timed_out, start.elapsed()), (2, 10 * SECOND));
    assert_conserved(&registry, 6);
}

#[tokio::test(start_paused = true)]
async fn timeout_of_the_name_can_be_none() {
    let registry = registry(NamePolicy::default().timeout(Duration::MAX));
    let long = Task::new(tokio::time::sleep(3600 * SECOND)).named("mail");
    assert_eq!(run(&registry, long).await, (OutcomeKind::Completed, 3600 * SECOND, 0));
}

#[tokio::test(start_paused = true)]
async fn expires_after_of_the_task_then_of_its_name() {
    let registry = registry(NamePolicy::default().expires_after(5 * SECOND));
    registry.pause("mail");
    let mail = || Task::new(async {}).named("mail");
    for (task, seconds) in [(mail(), 5), (mail().expires_after(2 * SECOND), 2)] {
        assert_eq!(run(&registry, task).await, (OutcomeKind::Discarded, seconds * SECOND, 0));
    }
    let set = registry.set();
    set.add(mail());
    let start = Instant::now();
    let outcome = registry.spawn(mail()).await;
    assert!(matches!(outcome, Outcome::Discarded(DiscardReason::Expired)), "{outcome}");
    assert_eq!(start.elapsed(), 5 * SECOND);
    assert_eq!(set.drain().await.discarded, 1, "a task of a set expires before its set drains");
    assert_conserved(&registry, 4);
}

#[tokio::test(start_paused = true)]
async fn expires_after_of_the_name_loses_no_batch() {
    let registry = registry(NamePolicy::default().expires_after(SECOND));
    let (seen, mut batches) = tokio::sync::mpsc::unbounded_channel();
    let handle = move |items: Vec<u32>| {
        let seen = seen.clone();
        async move { seen.send(items.len()).unwrap() }
    };
    let batcher = registry.batcher("mail", postlude::BatchPolicy::default().max_delay(5 * SECOND), handle);
    for item in 0..10 {
        batcher.push(item).await.unwrap();
    }
    assert_eq!(batches.recv().await, Some(10));
}

#[tokio::test(start_paused = true)]
async fn retry_of_the_name_stands_for_the_default_policy() {
    let registry = registry(NamePolicy::default().retry(RetryPolicy::constant(SECOND).attempts(3)));
    let retrying = |policy| Task::retrying(policy, fails).named("mail");
    assert_eq!(run(&registry, retrying(RetryPolicy::default())).await, (OutcomeKind::Failed, 2 * SECOND, 2));
    let own = RetryPolicy::default().attempts(1);
    assert_eq!(run(&registry, retrying(own)).await, (OutcomeKind::Failed, Duration::ZERO, 0));
    let own = RetryPolicy::constant(10 * SECOND).attempts(2);
    assert_eq!(run(&registry, retrying(own)).await, (OutcomeKind::Failed, 10 * SECOND, 1));
    let closure = || Err::<(), _>("busy");
    let blocking = Task::retrying_blocking(RetryPolicy::default(), closure).named("mail");
    assert_eq!(run(&registry, blocking).await.2, 2);
    // A task that is made once can't be made again.
    assert_eq!(run(&registry, Task::new(fails()).named("mail")).await, (OutcomeKind::Failed, Duration::ZERO, 0));
    // Another name has no policy, and the default is what it was.
    let other = Task::retrying(RetryPolicy::default(), fails).named("other_mail");
    assert_eq!(run(&registry, other).await.2, 3);
}

#[tokio::test(start_paused = true)]
async fn conditions_of_the_task_and_of_its_name_hold_both() {
    let of_name = RetryPolicy::constant(SECOND).attempts(5).retry_if(|error| error.to_string() != "gone");
    let registry = registry(NamePolicy::default().retry(of_name));
    // The text of the error of each attempt.
    for (errors, retries) in [(["busy", "gone"], 1), (["busy", "full"], 1), (["busy", "busy"], 4)] {
        let factory = move || async move { Err::<(), _>(errors[usize::from(attempt() > 1)]) };
        let policy = RetryPolicy::default().retry_if(|error| error.to_string() != "full");
        assert_eq!(run(&registry, Task::retrying(policy, factory).named("mail")).await.2, retries, "{errors:?}");
        let condition = |error: &&str| *error != "full";
        let task = Task::retrying_if(RetryPolicy::default(), condition, factory);
        assert_eq!(run(&registry, task.named("mail")).await.2, retries, "{errors:?}, typed");
    }
    let panics = Task::retrying(RetryPolicy::default().retry_panics(), || async { panic!("oh") });
    assert_eq!(run(&registry, panics.named("mail")).await, (OutcomeKind::Panicked, 4 * SECOND, 4));
}

#[tokio::test(start_paused = true)]
async fn a_replay_keeps_the_policy_and_its_conditions() {
    let of_name = RetryPolicy::constant(SECOND).attempts(2).retry_if(|error| error.to_string() == "busy");
    let registry = registry(NamePolicy::default().retry(of_name).timeout(9 * SECOND));
    let condition = |_: &&str| true;
    registry.spawn(Task::retrying_if(RetryPolicy::default(), condition, fails).named("mail")).await;
    for replays in 1..=3 {
        let letter = registry.dead_letters().list().pop().unwrap();
        registry.dead_letters().replay(letter.id).unwrap();
        registry.wait_idle().await;
        assert_eq!(registry.metrics().retries, 1 + replays);
    }
    assert_conserved(&registry, 4);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_handed_back_has_no_policy_of_a_registry() {
    let policy = NamePolicy::default().timeout(SECOND).expires_after(SECOND);
    let full = TaskRegistry::builder().capacity(1).policy("mail", policy).build().unwrap();
    full.spawn(pending::<()>());
    let other = TaskRegistry::new();
    let mail = || Task::new(async { tokio::time::sleep(10 * SECOND).await }).named("mail");
    for rejected in [full.try_spawn(mail()).unwrap_err(), full.set().try_add(mail()).unwrap_err()] {
        assert_eq!(rejected.reason(), RejectReason::Capacity);
        let (start, outcome) = (Instant::now(), other.spawn(rejected.into_task()).await);
        assert!(outcome.is_completed(), "{outcome}");
        assert_eq!(start.elapsed(), 10 * SECOND);
    }
}

#[tokio::test]
async fn mistakes_are_errors_of_build() {
    let build = |name: &'static str, policy: NamePolicy| TaskRegistry::builder().policy(name, policy).build();
    for (policy, setting) in [
        (NamePolicy::default().timeout(Duration::ZERO), "timeout"),
        (NamePolicy::default().expires_after(Duration::ZERO), "expires_after"),
    ] {
        let error = build("mail", policy).unwrap_err();
        assert!(matches!(error, BuildError::ZeroTimeOfName { setting: found, .. } if found == setting), "{error}");
    }
    let twice = TaskRegistry::builder().policy("mail", NamePolicy::default()).policy("mail", NamePolicy::default());
    let error = twice.build().unwrap_err().to_string();
    assert_eq!(error, "`policy` is set twice for `mail`: keep one of both");
    // The name stands for all that are too long.
    let long = TaskName::intern("n".repeat(129));
    for builder in [
        TaskRegistry::builder().policy(long, NamePolicy::default()),
        TaskRegistry::builder().limit_by_name(long, 1),
        TaskRegistry::builder().limit_by_key(long, 1),
    ] {
        assert!(matches!(builder.build(), Err(BuildError::OtherName { .. })));
    }
    TaskRegistry::builder().limit_by_name("other", 1).build().unwrap();
    for builder in [
        TaskRegistry::builder().limit_by_name("mail", usize::MAX),
        TaskRegistry::builder().limit_by_key("mail", usize::MAX),
    ] {
        assert!(matches!(builder.build(), Err(BuildError::HugeLimitOfName { limit: usize::MAX, .. })));
    }
}
