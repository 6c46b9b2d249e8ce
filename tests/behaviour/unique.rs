//! Tasks of which at most one is live for each key.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use postlude::{
    DiscardReason, Outcome, OutcomeKind, RejectReason, RetryPolicy, Task, TaskHandle, TaskId, TaskRegistry, TaskReport,
    TaskState, TaskStatus, UniquePolicy, attempt,
};
use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep},
};

use crate::support::{Journal, Reports, SECOND, assert_conserved, until};

fn is_duplicate(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Discarded(DiscardReason::Duplicate))
}

fn keyed(work: impl Future<Output = ()> + Send + 'static, policy: UniquePolicy) -> Task {
    Task::new(work).named("reindex").key("document").unique(policy)
}

fn report(registry: &TaskRegistry, id: TaskId) -> TaskReport {
    match registry.get(id) {
        Some(TaskStatus::Ended(report)) => report,
        other => panic!("{id} has ended: {other:?}"),
    }
}

/// A task that runs until it is told to return.
async fn running(registry: &TaskRegistry, policy: UniquePolicy) -> (TaskHandle, oneshot::Sender<()>) {
    let (end, ended) = oneshot::channel();
    let handle = registry.spawn(keyed(async { _ = ended.await }, policy));
    until(|| registry.metrics().running == 1).await;
    (handle, end)
}

mod join {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_at_once_and_names_the_live_one_pending_or_running() {
        let (registry, journal, reports) = (TaskRegistry::new(), Journal::default(), Reports::default());
        let join = |name| keyed(journal.task(name), UniquePolicy::join());
        let first = registry.spawn(join("first").delay(SECOND));
        let second = registry.spawn(join("second"));
        assert_eq!(second.joined(), Some(first.id()));
        assert!(second.is_finished() && !second.abort() && first.joined().is_none());
        let (id, outcome) = (second.id(), second.await);
        assert!(is_duplicate(&outcome) && !outcome.is_loss());
        let report = report(&registry, id);
        assert_eq!((report.duplicate_of, report.attempt), (Some(first.id()), 0));
        assert!(first.await.is_completed());
        let third = registry.spawn(join("third"));
        assert!(third.joined().is_none() && third.await.is_completed());
        assert_eq!(journal.read(), ["first", "third"]);
        assert!(reports.read().is_empty());
        assert_conserved(&registry, 3);
    }

    #[tokio::test]
    async fn joins_one_that_runs_and_one_that_waits_for_its_next_attempt() {
        let registry = TaskRegistry::new();
        let (first, end) = running(&registry, UniquePolicy::join()).await;
        assert_eq!(registry.try_spawn(keyed(async {}, UniquePolicy::join())).unwrap().joined(), Some(first.id()));
        end.send(()).unwrap();
        assert!(first.await.is_completed());

        let policy = RetryPolicy::constant(Duration::from_secs(3600)).attempts(2);
        let retrying = Task::retrying(policy, || async { Err::<(), _>("once more") });
        let retrying = registry.spawn(retrying.named("reindex").key("document").unique(UniquePolicy::join()));
        until(|| registry.tasks().iter().any(|task| task.state == TaskState::Retrying)).await;
        assert_eq!(registry.spawn(keyed(async {}, UniquePolicy::join())).joined(), Some(retrying.id()));
        retrying.abort();
        assert!(registry.spawn(keyed(async {}, UniquePolicy::join())).await.is_completed());
        assert_conserved(&registry, 5);
    }

    #[tokio::test]
    async fn compares_only_unique_tasks_of_the_same_name_and_key() {
        let registry = TaskRegistry::new();
        let (_first, end) = running(&registry, UniquePolicy::join()).await;
        let plain = || Task::new(async {});
        for other in [
            plain().named("reindex").key("other").unique(UniquePolicy::join()),
            plain().named("other").key("document").unique(UniquePolicy::join()),
            plain().named("reindex").unique(UniquePolicy::join()),
            plain().named("reindex").key("document"),
            plain().named("reindex"),
        ] {
            assert!(registry.spawn(other).await.is_completed());
        }
        drop(end);
    }

    #[tokio::test]
    async fn observers_are_told_of_the_add_and_the_end() {
        let registry = TaskRegistry::new();
        let mut events = registry.subscribe();
        let (first, end) = running(&registry, UniquePolicy::join()).await;
        let second = registry.spawn(keyed(async {}, UniquePolicy::join()));
        end.send(()).unwrap();
        first.await;
        let mut of_second = Vec::new();
        while let Some(event) = events.recv().await {
            if event.id() == Some(second.id()) {
                of_second.push(format!("{event:?}").split('(').next().unwrap().to_owned());
            }
            if of_second.len() == 2 {
                break;
            }
        }
        assert_eq!(of_second, ["Added", "Finished"]);
    }
}

mod skip {
    use super::*;

    #[tokio::test]
    async fn hands_the_task_back() {
        let registry = TaskRegistry::new();
        let (first, end) = running(&registry, UniquePolicy::skip()).await;
        let rejected = registry.try_spawn(keyed(async {}, UniquePolicy::skip())).unwrap_err();
        assert_eq!(rejected.reason(), RejectReason::Duplicate);
        let task = rejected.into_task();
        assert!(is_duplicate(&registry.spawn(keyed(async {}, UniquePolicy::skip())).await));
        end.send(()).unwrap();
        assert!(first.await.is_completed());
        assert!(registry.spawn(task).await.is_completed());
        assert_conserved(&registry, 3);
    }

    #[tokio::test]
    async fn in_a_set_that_drains_hands_it_back_and_before_that_accepts_it() {
        let registry = TaskRegistry::new();
        let (first, end) = running(&registry, UniquePolicy::skip()).await;
        let set = registry.set();
        let early = set.try_add(keyed(async {}, UniquePolicy::skip())).unwrap();
        set.clone().drain().await;
        assert!(is_duplicate(&report(&registry, early).outcome));
        let late = set.try_add(keyed(async {}, UniquePolicy::skip())).unwrap_err();
        assert_eq!(late.reason(), RejectReason::Duplicate);
        end.send(()).unwrap();
        first.await;
        assert_conserved(&registry, 2);
    }
}

mod replace {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pending_task_is_a_duplicate_of_the_new_one() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let replace = |name| keyed(journal.task(name), UniquePolicy::replace()).delay(SECOND);
        let first = registry.spawn(replace("first"));
        sleep(SECOND / 2).await;
        let start = Instant::now();
        let second = registry.spawn(replace("second"));
        assert!(second.joined().is_none());
        let id = first.id();
        assert!(is_duplicate(&first.await));
        assert_eq!(report(&registry, id).duplicate_of, Some(second.id()));
        assert!(second.await.is_completed());
        assert_eq!((journal.read(), start.elapsed()), (vec!["second".to_owned()], SECOND));
        assert_conserved(&registry, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_no_longer_than_the_bound() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let policy = UniquePolicy::replace().put_off_at_most(3 * SECOND);
        let start = Instant::now();
        let ran_at = Arc::new(AtomicU64::new(0));
        for _ in 0..20 {
            let (ran_at, ran) = (Arc::clone(&ran_at), journal.clone());
            let work = async move {
                ran.note("ran");
                ran_at.store(start.elapsed().as_secs(), Ordering::SeqCst);
            };
            registry.spawn(keyed(work, policy).delay(SECOND));
            if !journal.read().is_empty() {
                break;
            }
            sleep(SECOND / 2).await;
        }
        assert_eq!((journal.read().len(), ran_at.load(Ordering::SeqCst)), (1, 3));
        registry.wait_idle().await;
        assert_eq!(journal.read().len(), 2, "and the one after that runs, too");
    }

    #[tokio::test]
    async fn waits_for_a_running_one_and_only_the_latest_waits() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (first, end) = running(&registry, UniquePolicy::replace()).await;
        let replace = |name| keyed(journal.task(name), UniquePolicy::replace());
        let second = registry.spawn(replace("second"));
        let third = registry.spawn(replace("third"));
        assert!(is_duplicate(&second.await));
        for _ in 0..20 {
            yield_now().await;
        }
        assert!(!third.is_finished() && journal.read().is_empty());
        end.send(()).unwrap();
        assert!(first.await.is_completed() && third.await.is_completed());
        assert_eq!(journal.read(), ["third"]);
        assert_conserved(&registry, 3);
    }

    #[tokio::test]
    async fn one_that_waits_can_be_aborted_and_leaves_the_key_with_the_running_one() {
        let registry = TaskRegistry::new();
        let (first, end) = running(&registry, UniquePolicy::replace()).await;
        let second = registry.spawn(keyed(async {}, UniquePolicy::replace()));
        yield_now().await;
        assert!(second.abort() && matches!(second.await, Outcome::Aborted));
        assert_eq!(registry.spawn(keyed(async {}, UniquePolicy::join())).joined(), Some(first.id()));
        end.send(()).unwrap();
        first.await;
        assert!(registry.spawn(keyed(async {}, UniquePolicy::join())).await.is_completed());
    }

    #[tokio::test]
    async fn aborts_a_running_one_by_choice() {
        let registry = TaskRegistry::new();
        let (first, _end) = running(&registry, UniquePolicy::replace()).await;
        let second = registry.spawn(keyed(async {}, UniquePolicy::replace().abort_running()));
        assert!(matches!(first.await, Outcome::Aborted));
        assert!(second.await.is_completed());
        assert_conserved(&registry, 2);
    }

    #[tokio::test]
    async fn keeps_the_place_of_the_one_it_replaces() {
        let (registry, journal) = (TaskRegistry::builder().max_concurrent(1).build().unwrap(), Journal::default());
        let (held, release) = oneshot::channel::<()>();
        registry.spawn(async { _ = release.await });
        let replaced = registry.spawn(keyed(journal.task("replaced"), UniquePolicy::replace()));
        let other = registry.spawn(journal.task("other"));
        let newest = registry.spawn(keyed(journal.task("newest"), UniquePolicy::replace()));
        drop(held);
        assert!(is_duplicate(&replaced.await));
        assert!(other.await.is_completed() && newest.await.is_completed());
        assert_eq!(journal.read(), ["newest", "other"]);
    }

    #[tokio::test]
    async fn a_retry_does_not_keep_the_place() {
        let (registry, journal) = (TaskRegistry::builder().max_concurrent(1).build().unwrap(), Journal::default());
        let (held, release) = oneshot::channel::<()>();
        registry.spawn(async { _ = release.await });
        registry.spawn(keyed(async {}, UniquePolicy::replace()));
        let noted = journal.clone();
        let retrying = Task::retrying(RetryPolicy::constant(Duration::ZERO).attempts(2), move || {
            let noted = noted.clone();
            async move {
                noted.note(format!("attempt {}", attempt()));
                Err::<(), _>("fails")
            }
        });
        registry.spawn(retrying.named("reindex").key("document").unique(UniquePolicy::replace()));
        registry.spawn(journal.task("other"));
        drop(held);
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["attempt 1", "other", "attempt 2"]);
    }

    #[tokio::test]
    async fn a_closure_that_waits_for_a_permit_is_replaced_and_one_that_runs_is_not() {
        let registry = TaskRegistry::builder().max_blocking(1).build().unwrap();
        let (release, held) = mpsc::channel::<()>();
        let closure = |held: mpsc::Receiver<()>| Task::blocking(move || _ = held.recv());
        let first = registry.spawn(closure(held).named("write").key(1).unique(UniquePolicy::replace()));
        until(|| registry.metrics().running == 1).await;
        let write = || Task::blocking(|| {}).named("write").key(1).unique(UniquePolicy::replace());
        let (second, third) = (registry.spawn(write()), registry.spawn(write()));
        assert!(is_duplicate(&second.await));
        drop(release);
        assert!(first.await.is_completed() && third.await.is_completed());
        assert_conserved(&registry, 3);
    }

    /// No change is missed: a task that is added while another one runs is followed by a run.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn at_most_one_runs_and_the_last_change_is_always_seen() {
        let registry = TaskRegistry::new();
        for _ in 0..200 {
            let (changes, seen, runs) = (Arc::new(AtomicU64::new(0)), Arc::default(), Arc::default());
            let adders: Vec<_> = (0..4)
                .map(|_| {
                    let registry = registry.clone();
                    let (changes, seen, runs) = (Arc::clone(&changes), Arc::clone(&seen), Arc::clone(&runs));
                    tokio::spawn(async move {
                        for _ in 0..5 {
                            changes.fetch_add(1, Ordering::SeqCst);
                            registry.spawn(keyed(look(&changes, &seen, &runs), UniquePolicy::replace()));
                            yield_now().await;
                        }
                    })
                })
                .collect();
            for adder in adders {
                adder.await.unwrap();
            }
            registry.wait_idle().await;
            assert_eq!(AtomicU64::load(&seen, Ordering::SeqCst), 20);
        }
        assert_conserved(&registry, 4_000);
    }

    fn look(
        changes: &Arc<AtomicU64>,
        seen: &Arc<AtomicU64>,
        runs: &Arc<AtomicUsize>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (changes, seen, runs) = (Arc::clone(changes), Arc::clone(seen), Arc::clone(runs));
        async move {
            assert_eq!(runs.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
            let now = changes.load(Ordering::SeqCst);
            yield_now().await;
            seen.fetch_max(now, Ordering::SeqCst);
            runs.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

mod in_a_set {
    use super::*;

    #[tokio::test]
    async fn an_open_set_has_no_key_and_a_draining_one_has_all_of_its_keys() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let (end, ended) = oneshot::channel::<()>();
        set.add(async { _ = ended.await });
        let of_set = set.add(keyed(journal.task("of the set"), UniquePolicy::join()));
        let before = registry.spawn(keyed(journal.task("before"), UniquePolicy::join()));
        assert!(before.await.is_completed(), "the set is open");
        let drained = set.drain();
        until(|| registry.metrics().running == 1).await;
        assert_eq!(registry.spawn(keyed(async {}, UniquePolicy::join())).joined(), Some(of_set));
        end.send(()).unwrap();
        drained.await;
        assert_eq!(journal.read(), ["before", "of the set"]);
    }

    #[tokio::test]
    async fn a_cleared_or_dropped_set_has_claimed_nothing() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        set.add(keyed(async {}, UniquePolicy::join()));
        assert_eq!(set.clear(), 1);
        set.drain().await;
        assert!(registry.spawn(keyed(async {}, UniquePolicy::join())).await.is_completed());
    }

    #[tokio::test]
    async fn the_first_of_two_with_a_key_runs_or_the_second_by_policy() {
        for (policy, runs) in [(UniquePolicy::join(), "first"), (UniquePolicy::replace(), "second")] {
            let (registry, journal) = (TaskRegistry::new(), Journal::default());
            let set = registry.set();
            let ids = ["first", "second"].map(|name| set.add(keyed(journal.task(name), policy)));
            set.add(journal.task("last"));
            let counts = set.drain().await;
            assert_eq!((counts.completed, counts.discarded), (2, 1));
            assert_eq!(journal.read(), [runs, "last"]);
            let (ran, duplicate) = if runs == "first" { (ids[0], ids[1]) } else { (ids[1], ids[0]) };
            assert_eq!(report(&registry, duplicate).duplicate_of, Some(ran));
            assert_conserved(&registry, 3);
        }
    }

    #[tokio::test]
    async fn a_duplicate_does_not_stop_a_set_that_stops_on_failure() {
        let registry = TaskRegistry::new();
        let set = registry.set();
        set.stop_on_failure();
        set.add(keyed(async {}, UniquePolicy::join()));
        set.add(keyed(async {}, UniquePolicy::join()));
        set.add(async {});
        let counts = set.drain().await;
        assert_eq!((counts.completed, counts.discarded), (2, 1));
    }

    #[tokio::test]
    async fn more_tasks_than_are_claimed_at_a_time() {
        let registry = TaskRegistry::new();
        let (sets, each) = (3, 1_000);
        for _ in 0..sets {
            let set = registry.set();
            for key in 0..each {
                set.add(Task::new(async {}).named("reindex").key(key).unique(UniquePolicy::replace()));
            }
            set.drain();
        }
        registry.wait_idle().await;
        let metrics = registry.metrics();
        assert!(metrics.completed >= 1_000 && metrics.completed + metrics.discarded == 3_000, "{metrics:?}");
    }

    #[tokio::test]
    async fn a_task_that_replaces_one_of_another_draining_set() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (end, ended) = oneshot::channel::<()>();
        let set = registry.set();
        set.add(async { _ = ended.await });
        let old = set.add(keyed(journal.task("old"), UniquePolicy::replace()));
        set.add(journal.task("after"));
        let drained = set.drain();
        until(|| registry.metrics().running == 1).await;
        let new = registry.spawn(keyed(journal.task("new"), UniquePolicy::replace()));
        let id = new.id();
        assert!(new.await.is_completed());
        assert_eq!(report(&registry, old).duplicate_of, Some(id));
        end.send(()).unwrap();
        let counts = drained.await;
        assert_eq!((counts.completed, counts.discarded), (2, 1));
        assert_eq!(journal.read(), ["new", "after"]);
    }
}

#[tokio::test]
async fn every_end_releases_the_key() {
    let registry = TaskRegistry::builder().max_concurrent(4).build().unwrap();
    let join = |task: Task| task.named("reindex").key("document").unique(UniquePolicy::join());
    let ends: [(fn() -> Task, OutcomeKind); 6] = [
        (|| Task::new(async {}), OutcomeKind::Completed),
        (|| Task::new(async { Err::<(), _>("fails") }), OutcomeKind::Failed),
        (|| Task::new(async { panic!("a bug") }), OutcomeKind::Panicked),
        (|| Task::new(std::future::pending::<()>()).timeout(Duration::from_millis(1)), OutcomeKind::TimedOut),
        (|| Task::new(async {}).timeout(Duration::ZERO), OutcomeKind::TimedOut),
        (|| Task::new(async {}).delay(60 * SECOND).expires_after(Duration::from_millis(1)), OutcomeKind::Discarded),
    ];
    for (task, kind) in ends {
        assert_eq!(registry.spawn(join(task())).await.kind(), kind);
        let set = registry.set();
        set.add(join(task()));
        let counts = set.drain().await;
        assert_eq!(counts.iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>(), [(kind, 1)]);
    }
    let attempts = Task::retrying(RetryPolicy::constant(Duration::ZERO).attempts(2), || async {
        if attempt() == 1 { Err("once more") } else { Ok(()) }
    });
    assert!(registry.spawn(join(attempts)).await.is_completed());
    assert!(registry.spawn(join(Task::blocking(|| {}))).await.is_completed());
    let aborted = registry.spawn(join(Task::new(std::future::pending::<()>())));
    aborted.abort();
    assert!(registry.spawn(join(Task::new(async {}))).await.is_completed());
}

#[tokio::test]
async fn a_dead_letter_is_replayed_with_its_key() {
    let registry = TaskRegistry::new();
    let failing = Task::retrying(RetryPolicy::default().attempts(1), || async { Err::<(), _>("fails") });
    let dead = registry.spawn(failing.named("reindex").key("document").unique(UniquePolicy::skip()));
    let id = dead.id();
    dead.await;
    let (first, end) = running(&registry, UniquePolicy::join()).await;
    assert!(registry.dead_letters().replay(id).is_err(), "its key is live");
    assert_eq!(registry.dead_letters().len(), 1, "nothing is lost");
    end.send(()).unwrap();
    first.await;
    assert_eq!(registry.dead_letters().replay(id).unwrap().await.kind(), OutcomeKind::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_those_that_wait_for_a_key() {
    let registry = TaskRegistry::builder().settle(Duration::ZERO).build().unwrap();
    let (_first, _end) = running(&registry, UniquePolicy::replace()).await;
    let waits = registry.spawn(keyed(async {}, UniquePolicy::replace()));
    yield_now().await;
    let report = registry.shutdown(SECOND).await;
    assert_eq!((report.aborted.len(), report.discarded.len()), (1, 1));
    assert!(matches!(waits.await, Outcome::Discarded(DiscardReason::Closed)));
    assert_conserved(&registry, 2);
}

/// The key is free when somebody is told of the end: a task that a hook adds then does not join the one that has ended.
#[tokio::test]
async fn a_hook_may_add_the_same_key_when_a_task_has_ended() {
    let (registry, journal) = (Arc::new(std::sync::OnceLock::<TaskRegistry>::new()), Journal::default());
    let (again, ran) = (Arc::clone(&registry), journal.clone());
    let hook = move |_: &TaskReport| {
        let task = keyed(ran.task("again"), UniquePolicy::join());
        assert!(again.get().unwrap().spawn(task).joined().is_none());
        ran.note("hook");
    };
    let registry = registry.get_or_init(|| TaskRegistry::builder().on_failure(hook).build().unwrap());
    for failing in [
        Task::new(async { Err::<(), _>("fails") }),
        Task::new(std::future::pending::<()>()).timeout(Duration::from_millis(1)),
    ] {
        registry.spawn(failing.named("reindex").key("document").unique(UniquePolicy::join())).await;
        registry.wait_idle().await;
    }
    let mut noted = journal.read();
    noted.sort();
    assert_eq!(noted, ["again", "again", "hook", "hook"]);
}

/// A task that is already too late to start replaces nothing.
#[tokio::test(start_paused = true)]
async fn an_expired_task_claims_no_key() {
    let (registry, journal) = (TaskRegistry::new(), Journal::default());
    let pending = registry.spawn(keyed(journal.task("pending"), UniquePolicy::replace()).delay(SECOND));
    let late = keyed(journal.task("late"), UniquePolicy::replace()).expires_after(Duration::ZERO);
    assert!(matches!(registry.spawn(late).await, Outcome::Discarded(DiscardReason::Expired)));
    assert!(pending.await.is_completed());
    assert_eq!(journal.read(), ["pending"]);
}

/// An observer that spawns the same key again when one ends: no lock is held, and nothing is lost.
#[tokio::test]
async fn an_observer_may_add_the_same_key() {
    let registry = TaskRegistry::builder().build().unwrap();
    let mut events = registry.subscribe();
    registry.spawn(keyed(async {}, UniquePolicy::replace()));
    let mut ended = 0;
    while ended < 50 {
        if let Some(postlude::TaskEvent::Finished(_)) = events.recv().await {
            ended += 1;
            registry.spawn(keyed(async {}, UniquePolicy::replace()));
        }
    }
    registry.wait_idle().await;
    assert_conserved(&registry, 51);
}

#[cfg(feature = "http")]
mod with_when {
    use http::StatusCode;
    use http_body_util::{BodyExt, Full};
    use postlude::Ending;

    use super::*;

    /// A task whose request has failed replaces nothing: otherwise neither of the two would run.
    #[tokio::test]
    async fn a_refused_ending_claims_no_key() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let pending =
            registry.spawn(keyed(journal.task("pending"), UniquePolicy::replace()).delay(Duration::from_millis(50)));
        let set = registry.set();
        let of_request = set.add(keyed(journal.task("request"), UniquePolicy::replace()).when(Ending::is_success));
        let failed = http::Response::builder()
            .status(StatusCode::INTERNAL_SERVER_ERROR)
            .body(Full::new(bytes::Bytes::new()))
            .unwrap();
        drop(set.attach(failed).into_body().collect().await.unwrap());
        assert!(pending.await.is_completed());
        registry.wait_idle().await;
        assert!(matches!(report(&registry, of_request).outcome, Outcome::Discarded(DiscardReason::Ending)));
        assert_eq!(journal.read(), ["pending"]);
    }

    /// A layer that refuses the ending discards very many tasks in pieces. None of them claims its key meanwhile.
    #[cfg(feature = "axum")]
    #[tokio::test]
    async fn a_set_that_its_layer_refuses_claims_no_key() {
        use axum::{Router, body::Body, routing::get};
        use postlude::{TaskLayer, TaskSet};
        use tower::ServiceExt;

        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let key = |number: u32| Task::new(async {}).named("reindex").key(number).unique(UniquePolicy::replace());
        let pending = Task::new(journal.task("pending")).named("reindex").key(999_u32).unique(UniquePolicy::replace());
        let pending = registry.spawn(pending.delay(Duration::from_millis(50)));
        let handler = move |tasks: TaskSet| async move {
            (0..1_000).for_each(|number| _ = tasks.add(key(number)));
        };
        let layer = TaskLayer::new(registry.clone()).drain_when(|_| false);
        let app: Router = Router::new().route("/", get(handler)).layer(layer);
        let response = app.oneshot(http::Request::new(Body::empty())).await.unwrap();
        drop(response.into_body().collect().await.unwrap());
        assert!(pending.await.is_completed());
        registry.wait_idle().await;
        assert_eq!((journal.read(), registry.metrics().discarded), (vec!["pending".to_owned()], 1_000));
    }

    #[tokio::test]
    async fn a_late_add_asks_its_condition_first() {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let set = registry.set();
        let late = set.clone();
        let failed = http::Response::builder().status(500).body(Full::new(bytes::Bytes::new())).unwrap();
        set.add(async {});
        drop(set.attach(failed).into_body().collect().await.unwrap());
        registry.wait_idle().await;
        let pending =
            registry.spawn(keyed(journal.task("pending"), UniquePolicy::replace()).delay(Duration::from_millis(50)));
        late.add(keyed(journal.task("request"), UniquePolicy::replace()).when(Ending::is_success));
        assert!(pending.await.is_completed());
        registry.wait_idle().await;
        assert_eq!(journal.read(), ["pending"]);
    }
}
