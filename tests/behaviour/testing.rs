//! The registry for tests, and the builders of what hooks are called with.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use futures::FutureExt;
use postlude::{
    DiscardReason, Outcome, RetryPolicy, Task, TaskRegistry, TaskState,
    testing::{DeadLetterBuilder, TaskInfoBuilder, TaskReportBuilder, TestRegistry, panicked},
};

use crate::support::{Journal, SECOND, assert_conserved};

/// The message of a failed assertion.
fn message_of(assertion: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(assertion)).unwrap_err();
    *payload.downcast::<String>().unwrap()
}

mod run {
    use super::*;

    #[tokio::test]
    async fn twice_at_once_holds_tasks_back_afterwards() {
        let tasks = TestRegistry::new();
        tasks.spawn(async {});
        tokio::join!(tasks.run(), tasks.run());
        tasks.spawn(async {});
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!((tasks.metrics().pending, tasks.metrics().completed), (1, 1));
    }

    /// Tasks of every kind wait, and what they add runs with them.
    #[tokio::test]
    async fn starts_what_was_added() {
        let (tasks, journal) = (TestRegistry::new(), Journal::default());
        let (set, registry) = (tasks.set(), tasks.registry().clone());
        let (in_set, blocking, cpu, late) = (journal.clone(), journal.clone(), journal.clone(), journal.task("late"));
        set.add(async move { in_set.note("set") });
        tasks.spawn_blocking(move || blocking.note("blocking"));
        tasks.spawn(Task::cpu(move || cpu.note("cpu")));
        tasks.spawn(async move { drop(registry.spawn(late)) });
        drop(set);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!((tasks.metrics().pending, tasks.metrics().running), (4, 0));
        tasks.run().await;
        let mut ran = journal.read();
        ran.sort();
        assert_eq!(ran, ["blocking", "cpu", "late", "set"]);
        assert_conserved(&tasks, 5);

        tasks.spawn(journal.task("again"));
        tokio::task::yield_now().await;
        assert_eq!(tasks.metrics().pending, 1, "held back again");
        tasks.run().await;
        assert_eq!(tasks.metrics().completed, 6);
    }

    /// A set that the test still holds, and has not drained.
    #[tokio::test]
    async fn drains_sets_without_a_request() {
        let (tasks, journal) = (TestRegistry::new(), Journal::default());
        let set = tasks.set();
        set.add(journal.task("first"));
        set.add(journal.task("second"));
        tasks.run().await;
        assert_eq!(journal.read(), ["first", "second"]);
        set.add(journal.task("third"));
        tasks.run().await;
        assert_eq!(journal.read().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_delays_and_retries() {
        let tasks = TestRegistry::new();
        tasks.spawn(Task::new(async {}).named("delayed").delay(30 * 24 * 3600 * SECOND));
        let mut attempts = 0;
        let flaky = Task::retrying(RetryPolicy::default(), move || {
            attempts += 1;
            let result = if attempts < 3 { Err("not yet") } else { Ok(()) };
            async move { result }
        });
        tasks.spawn(flaky.named("flaky"));
        tasks.run().await;
        tasks.assert_ran("delayed");
        tasks.assert_ran("flaky");
        tasks.assert_none_failed();
    }

    #[tokio::test(start_paused = true)]
    async fn panics_if_a_task_never_ends_on_a_paused_clock() {
        let tasks = TestRegistry::new();
        tasks.spawn(Task::new(std::future::pending::<()>()).named("hangs"));
        let payload = AssertUnwindSafe(tasks.run()).catch_unwind().await.unwrap_err();
        let message = payload.downcast::<String>().unwrap();
        assert!(message.contains("some tasks have not ended:") && message.contains("`hangs`"), "{message}");
        assert!(message.contains("running"), "{message}");
    }

    #[tokio::test]
    async fn panics_when_its_patience_is_over() {
        let tasks = TestRegistry::new().patience(Duration::from_millis(50));
        tasks.spawn(Task::new(std::future::pending::<()>()).named("hangs"));
        let payload = AssertUnwindSafe(tasks.run()).catch_unwind().await.unwrap_err();
        assert!(payload.downcast::<String>().unwrap().contains("`hangs`"));
    }

    /// On threads that are not the test's, nothing starts early either.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn holds_back_on_many_threads() {
        let tasks = TestRegistry::build(TaskRegistry::builder().max_concurrent(3)).unwrap();
        for _ in 0..20 {
            let adders: Vec<_> = (0..4)
                .map(|_| {
                    let registry = tasks.registry().clone();
                    tokio::spawn(async move {
                        for _ in 0..25 {
                            registry.spawn(async {});
                        }
                    })
                })
                .collect();
            futures::future::join_all(adders).await;
            assert_eq!((tasks.metrics().pending, tasks.metrics().running), (100, 0));
            tasks.run().await;
            assert_eq!(tasks.metrics().pending, 0);
        }
        tasks.assert_ran_times("unnamed", 2_000);
        assert_conserved(&tasks, 2_000);
    }
}

mod assert_ran {
    use super::*;

    #[tokio::test]
    async fn lists_what_did_run() {
        let tasks = TestRegistry::new();
        let message = message_of(|| tasks.assert_ran("welcome_mail"));
        assert!(message.ends_with("no task was added"), "{message}");

        let line = line!() + 1;
        tasks.spawn(Task::new(async { Err::<(), _>("connection refused") }).named("welcome_mail"));
        let message = message_of(|| tasks.assert_ran("welcome_mail"));
        assert!(
            message.contains("`welcome_mail`") && message.ends_with("what is pending starts with `run()`"),
            "{message}"
        );

        tasks.spawn(Task::new(async {}).named("audit_log"));
        tasks.run().await;
        let message = message_of(|| tasks.assert_ran("welcome_mail"));
        assert!(message.starts_with("no task `welcome_mail` has run and completed:"), "{message}");
        assert!(
            message.contains(&format!("testing.rs:{line}:")) && message.contains("): failed: connection refused"),
            "{message}"
        );
        assert!(message.contains("`audit_log`") && message.contains("): completed"), "{message}");
        tasks.assert_ran("audit_log");
        tasks.assert_ran_times("audit_log", 1);
        let message = message_of(|| tasks.assert_ran_times("audit_log", 2));
        assert!(message.starts_with("1 tasks `audit_log` have run and completed, and not 2:"), "{message}");
    }

    #[tokio::test]
    async fn lists_fifty_at_most() {
        let tasks = TestRegistry::new();
        (0..60).for_each(|_| drop(tasks.spawn(async {})));
        tasks.run().await;
        (0..70).for_each(|_| drop(tasks.spawn(async {})));
        let message = message_of(|| tasks.assert_ran("mail"));
        assert!(message.contains("and 30 more"), "{message}");
        assert_eq!(message.lines().count(), 1 + 50 + 50 + 2, "{message}");
    }
}

#[tokio::test]
async fn assert_not_added() {
    let tasks = TestRegistry::new();
    tasks.assert_not_added("mail");
    tasks.spawn(Task::new(async {}).named("mail"));
    assert!(message_of(|| tasks.assert_not_added("mail")).starts_with("a task `mail` was added:"));
    tasks.run().await;
    assert!(message_of(|| tasks.assert_not_added("mail")).contains("): completed"));
    tasks.assert_not_added("report");
}

#[tokio::test]
async fn assert_none_failed() {
    let tasks = TestRegistry::new();
    let set = tasks.set();
    set.add(async {});
    set.clear();
    tasks.run().await;
    tasks.assert_none_failed();
    tasks.spawn(async { panic!("a bug") });
    tasks.spawn(std::future::pending::<()>()).abort();
    tasks.run().await;
    let message = message_of(|| tasks.assert_none_failed());
    assert!(message.starts_with("2 tasks were lost:") && message.contains("): panicked: a bug"), "{message}");
}

/// What a builder makes is what a hook is called with.
#[tokio::test]
async fn builders() {
    let failed = TaskReportBuilder::new("mail").failed("connection refused").attempt(3).ran_for(SECOND).build();
    assert_eq!((failed.name.as_str(), failed.attempt, failed.ran_for, failed.set), ("mail", 3, SECOND, None));
    assert_eq!(failed.outcome.to_string(), "failed: connection refused");
    assert!(failed.location.file().ends_with("testing.rs"));
    let refused =
        TaskReportBuilder::new("mail").outcome(Outcome::Discarded(DiscardReason::Refused)).refusal("no").in_set();
    let refused = refused.build();
    assert_eq!((refused.attempt, refused.refusal.unwrap().to_string()), (0, "no".to_owned()));
    assert_eq!(refused.set, refused.id.set());
    assert_ne!(refused.id, failed.id);
    let progress = TaskReportBuilder::new("import").progress(40, 90, "page 3").build().progress.unwrap();
    assert_eq!(progress.to_string(), "40 of 90, page 3");

    let info = TaskInfoBuilder::new("mail").running(2, SECOND).age(3 * SECOND).build();
    assert_eq!((info.state, info.attempt, info.running_for), (TaskState::Running, 2, Some(SECOND)));
    let mut profile = postlude::TaskProfile::default();
    profile.polls = 3;
    let profiled = TaskInfoBuilder::new("mail").profile(profile).build();
    assert_eq!((profiled.profile.as_deref(), info.profile), (Some(&profile), None));
    let retrying = TaskInfoBuilder::new("mail").retrying(2, SECOND).build();
    assert_eq!((retrying.state, retrying.due_in, retrying.running_for), (TaskState::Retrying, Some(SECOND), None));

    let letter =
        DeadLetterBuilder::new("mail").attempt(panicked("a bug")).replay_of(failed.id).not_replayable().build();
    assert_eq!((letter.attempts[0].number, letter.replay_of, letter.is_replayable), (1, Some(failed.id), false));
    assert_eq!(letter.attempts[0].outcome.to_string(), "panicked: a bug");
}

#[cfg(feature = "axum")]
mod http {
    use axum::{Router, body::Body, http::Request, routing::post};
    use postlude::{Ending, TaskLayer, TaskSet};
    use tower::ServiceExt;

    use super::*;

    fn app(tasks: &TestRegistry) -> Router {
        let signup = |tasks: TaskSet| async move {
            tasks.add(Task::new(async {}).named("welcome_mail").when(Ending::is_success));
            "welcome!"
        };
        Router::new().route("/signup", post(signup)).layer(TaskLayer::new(tasks.registry().clone()))
    }

    fn request() -> Request<Body> {
        Request::post("/signup").body(Body::empty()).unwrap()
    }

    /// The first test of a new user: it reads the status alone, and the response is alive.
    #[tokio::test]
    async fn an_unread_response_counts_as_taken() {
        let tasks = TestRegistry::new();
        let response = app(&tasks).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), 200);
        tasks.run().await;
        tasks.assert_ran("welcome_mail");
        drop(response);
    }

    /// What the client did before is not changed.
    #[tokio::test]
    async fn a_dropped_response_is_a_client_that_has_left() {
        let tasks = TestRegistry::new();
        drop(app(&tasks).oneshot(request()).await.unwrap());
        tasks.run().await;
        let [report] = &tasks.reports()[..] else { panic!("one task") };
        assert!(matches!(report.outcome, Outcome::Discarded(DiscardReason::Ending)), "{report:?}");
        tasks.assert_none_failed();
    }

    /// A handler that waits for the test: its set drains when it has returned.
    #[tokio::test]
    async fn a_request_in_flight_is_waited_for() {
        let tasks = TestRegistry::new();
        let done = std::sync::Arc::new(tokio::sync::Notify::new());
        let is_done = done.clone();
        let slow = |tasks: TaskSet| async move {
            tasks.add(Task::new(async {}).named("welcome_mail"));
            is_done.notified().await;
        };
        let app = Router::new().route("/signup", post(slow)).layer(TaskLayer::new(tasks.registry().clone()));
        let (response, ()) = tokio::join!(app.oneshot(request()), async {
            tokio::task::yield_now().await;
            let run = tasks.run();
            tokio::pin!(run);
            assert!(run.as_mut().now_or_never().is_none());
            assert_eq!(tasks.metrics().completed, 0);
            done.notify_one();
            run.await;
        });
        tasks.assert_ran("welcome_mail");
        drop(response.unwrap());
    }
}
