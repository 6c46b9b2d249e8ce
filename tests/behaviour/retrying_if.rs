//! Conditions on a task's own type of error, and what is left of that type in a boxed error.

use std::{
    error::Error,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::Context as _;
use postlude::{BoxError, Outcome, Task, TaskRegistry, attempt};

use crate::support::{Reports, SECOND, assert_conserved, retries::each_second};

/// A receiver's answer.
#[derive(Debug)]
struct Answer(u16);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the receiver answered {}", self.0)
    }
}

impl Error for Answer {}

fn is_temporary(answer: &Answer) -> bool {
    answer.0 >= 500
}

/// The number of retries until the task has ended.
async fn retries(task: Task) -> u64 {
    let registry = TaskRegistry::new();
    assert!(matches!(registry.spawn(task).await, Outcome::Failed(_)));
    assert_conserved(&registry, 1);
    registry.metrics().retries
}

#[tokio::test(start_paused = true)]
async fn is_asked_about_an_own_type() {
    for (status, expected) in [(503, 3), (400, 0)] {
        let task = Task::retrying_if(each_second(), is_temporary, move || async move { Err(Answer(status)) });
        assert_eq!(retries(task).await, expected, "{status}");
        let task = Task::retrying_blocking_if(each_second(), is_temporary, move || Err(Answer(status)));
        assert_eq!(retries(task).await, expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn is_asked_about_an_anyhow_error() {
    for context in [false, true] {
        for (status, expected) in [(503, 3), (400, 0)] {
            let condition = |error: &anyhow::Error| error.downcast_ref().is_none_or(is_temporary);
            let deliver = move || async move {
                let answer = Err(Answer(status));
                if context { answer.context("webhook") } else { answer.map_err(anyhow::Error::from) }
            };
            assert_eq!(retries(Task::retrying_if(each_second(), condition, deliver)).await, expected, "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn is_asked_about_an_eyre_report() {
    for (status, expected) in [(503, 3), (400, 0)] {
        let condition = |error: &eyre::Report| error.downcast_ref().is_none_or(is_temporary);
        let deliver = move || async move { Err(eyre::Report::new(Answer(status))) };
        assert_eq!(retries(Task::retrying_if(each_second(), condition, deliver)).await, expected, "{status}");
    }
}

/// What the guide says of `retry_if`: an error that came through `anyhow` or `eyre` is not found in the boxed one. Under
/// a context it is found among the sources.
#[test]
fn a_boxed_report_hides_its_error() {
    fn find(error: &(dyn Error + 'static)) -> [bool; 2] {
        let mut sources = std::iter::successors(error.source(), |&error| error.source());
        [error.is::<Answer>(), sources.any(|error| error.is::<Answer>())]
    }
    let plain: BoxError = anyhow::Error::new(Answer(400)).into();
    assert_eq!(find(&*plain), [false, false]);
    let under_context: BoxError = anyhow::Error::new(Answer(400)).context("webhook").into();
    assert_eq!(find(&*under_context), [false, true]);
    let plain: BoxError = eyre::Report::new(Answer(400)).into();
    assert_eq!(find(&*plain), [false, false]);
    let under_context: BoxError = eyre::Report::new(Answer(400)).wrap_err("webhook").into();
    assert_eq!(find(&*under_context), [false, true]);
    let own: BoxError = Answer(400).into();
    assert_eq!(find(&*own), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn the_policy_has_to_agree() {
    let policy = each_second().retry_if(|error| error.to_string() != "the receiver answered 501");
    for (status, expected) in [(503, 3), (501, 0), (400, 0)] {
        let task = Task::retrying_if(policy.clone(), is_temporary, move || async move { Err(Answer(status)) });
        assert_eq!(retries(task).await, expected, "{status}");
    }
    let task = Task::retrying_if(each_second().attempts(2), is_temporary, || async { Err(Answer(503)) });
    assert_eq!(retries(task).await, 1);
}

/// Each attempt has a verdict of its own.
#[tokio::test(start_paused = true)]
async fn is_asked_after_each_error_alone() {
    let registry = TaskRegistry::new();
    let asked = Arc::new(AtomicU32::new(0));
    let counted = asked.clone();
    let condition = move |answer: &Answer| {
        counted.fetch_add(1, Ordering::SeqCst);
        is_temporary(answer)
    };
    let flaky = || async {
        match attempt() {
            1 => Err(Answer(500)),
            2 => std::future::pending().await,
            _ => Err(Answer(400)),
        }
    };
    let task = Task::retrying_if(each_second(), condition, flaky).timeout(SECOND);
    assert!(matches!(registry.spawn(task).await, Outcome::Failed(error) if error.to_string().ends_with("400")));
    assert_eq!((registry.metrics().retries, asked.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_condition_is_counted_and_the_task_is_retried() {
    let reports = Reports::default();
    let registry = TaskRegistry::builder().on_failure(reports.hook()).build().unwrap();
    let condition = |_: &io::Error| panic!("a bug in a condition");
    let fails = || async { Err(io::Error::other("down")) };
    let outcome = registry.spawn(Task::retrying_if(each_second(), condition, fails)).await;
    assert!(matches!(&outcome, Outcome::Failed(error) if error.to_string() == "down"), "{outcome}");
    assert_eq!((registry.metrics().retries, registry.metrics().hook_panics), (3, 4));
    assert_eq!(reports.read().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn holds_for_a_replay() {
    let registry = TaskRegistry::new();
    let condition = |answer: &Answer| is_temporary(answer);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let fails = move || {
        let status = if counted.fetch_add(1, Ordering::SeqCst) == 1 { 503 } else { 400 };
        async move { Err(Answer(status)) }
    };
    let id = registry.spawn(Task::retrying_if(each_second(), condition, fails)).id();
    registry.wait_idle().await;
    registry.dead_letters().replay(id).unwrap().await;
    assert_eq!((calls.load(Ordering::SeqCst), registry.metrics().retries), (3, 1));
}
