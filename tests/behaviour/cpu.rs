//! CPU tasks: each on a thread of its own, under permits of their own.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use postlude::{BuildError, Outcome, Priority, Task, TaskRegistry, TaskSet, TaskState, after, cancellation};

use crate::support::{Bomb, Journal, assert_conserved};

fn registry(max: usize) -> TaskRegistry {
    TaskRegistry::builder().max_cpu(max).build().unwrap()
}

/// Holds threads until it is opened.
#[derive(Clone, Default)]
struct Barrier(Arc<(Mutex<bool>, Condvar)>);

impl Barrier {
    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        let _open = self.0.1.wait_while(open, |open| !*open).unwrap();
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// A task that waits for another one does not run it on its own stack: the other has its own thread, set and token.
#[tokio::test]
async fn a_task_that_waits_for_another_runs_nothing_else_meanwhile() {
    let registry = registry(2);
    let set = registry.set();
    let own = registry.clone();
    let journal = Journal::default();
    let notes = journal.clone();
    set.add(Task::cpu(move || {
        let (thread, token) = (thread::current().id(), cancellation());
        let (send, receive) = std::sync::mpsc::channel();
        own.spawn(Task::cpu(move || {
            assert_ne!(thread::current().id(), thread);
            assert!(TaskSet::current().is_none(), "a spawned task has no set");
            send.send(()).unwrap();
        }));
        receive.recv().unwrap();
        assert!(!token.is_cancelled());
        assert!(TaskSet::current().is_some());
        assert!(tokio::runtime::Handle::try_current().is_ok(), "a closure may use the runtime");
        notes.note("done");
    }));
    set.drain().await;
    registry.wait_idle().await;
    assert_eq!((journal.read().len(), registry.metrics().completed), (1, 2));
}

#[tokio::test]
async fn no_more_run_than_there_are_permits_and_other_tasks_pass_them() {
    for max in [1, 3] {
        let registry = registry(max);
        let (barrier, now, most) = (Barrier::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..6 {
            let (barrier, now, most) = (barrier.clone(), now.clone(), most.clone());
            registry.spawn(Task::cpu(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                barrier.wait();
                now.fetch_sub(1, Ordering::SeqCst);
            }));
        }
        assert!(registry.spawn(async {}).await.is_completed());
        assert!(registry.spawn_blocking(|| {}).await.is_completed());
        while now.load(Ordering::SeqCst) < max {
            tokio::task::yield_now().await;
        }
        assert_eq!(registry.metrics().pending, 6 - max as u64);
        barrier.open();
        registry.wait_idle().await;
        assert_eq!(most.load(Ordering::SeqCst), max);
        assert_conserved(&registry, 8);
    }
}

#[tokio::test]
async fn those_that_wait_start_by_priority_and_an_aborted_one_never_does() {
    let registry = registry(1);
    let (barrier, journal) = (Barrier::default(), Journal::default());
    let held = barrier.clone();
    registry.spawn(Task::cpu(move || held.wait()));
    tokio::task::yield_now().await;
    let waiting =
        [("low", Priority::Low), ("gone", Priority::High), ("high", Priority::High)].map(|(name, priority)| {
            let journal = journal.clone();
            registry.spawn(Task::cpu(move || journal.note(name)).priority(priority))
        });
    tokio::task::yield_now().await;
    assert!(waiting[1].abort());
    barrier.open();
    registry.wait_idle().await;
    assert_eq!(journal.read(), ["high", "low"]);
    assert_conserved(&registry, 4);
}

#[tokio::test]
async fn one_that_times_out_is_given_up_learns_of_it_and_keeps_its_permit_until_it_returns() {
    let registry = registry(1);
    let (barrier, told) = (Barrier::default(), Arc::new(Mutex::new(None)));
    let (held, tell) = (barrier.clone(), told.clone());
    let hog = Task::cpu(move || {
        let token = cancellation();
        held.wait();
        *tell.lock().unwrap() = Some(token.is_cancelled());
    });
    let set = registry.set();
    let next = Journal::default();
    set.add(hog.timeout(Duration::from_millis(1)));
    set.add(next.task("next"));
    let report = set.drain().await;
    assert_eq!((report.timed_out, report.completed), (1, 1), "the set goes on");
    let waiting = registry.spawn(Task::cpu(|| {}));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!((registry.metrics().stuck, registry.metrics().pending), (1, 1));
    barrier.open();
    assert!(waiting.await.is_completed());
    assert_eq!(*told.lock().unwrap(), Some(true));
    while registry.metrics().stuck > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_panic_and_an_error_are_outcomes_and_the_permit_is_free_again() {
    let registry = registry(1);
    let panicked = registry.spawn(Task::cpu(|| panic!("a bug"))).await;
    assert!(matches!(panicked, Outcome::Panicked(panic) if panic.message() == "a bug"));
    let failed = registry.spawn(Task::cpu(|| Err::<(), _>("no such picture"))).await;
    assert_eq!(failed.error().unwrap().to_string(), "no such picture");
    assert!(registry.spawn(Task::cpu(|| {})).await.is_completed());
    assert_conserved(&registry, 3);
}

#[tokio::test]
async fn it_may_add_to_its_set_and_spawn() {
    let (registry, journal) = (registry(1), Journal::default());
    let set = registry.set();
    let (notes, own) = (journal.clone(), registry.clone());
    set.add(Task::cpu(move || {
        assert!(TaskSet::current().is_some());
        after(notes.task("added")).unwrap();
        own.spawn(Task::cpu(move || notes.note("spawned")));
    }));
    set.drain().await;
    registry.wait_idle().await;
    let mut notes = journal.read();
    notes.sort();
    assert_eq!(notes, ["added", "spawned"]);
    assert_conserved(&registry, 3);
}

#[tokio::test]
async fn a_shutdown_that_gives_up_on_it_reports_it_as_stuck() {
    let registry = TaskRegistry::builder().max_cpu(1).settle(Duration::ZERO).build().unwrap();
    let barrier = Barrier::default();
    let held = barrier.clone();
    registry.spawn(Task::cpu(move || held.wait()).named("hog"));
    registry.spawn(Task::cpu(|| {}).named("waiting"));
    while registry.metrics().running == 0 {
        tokio::task::yield_now().await;
    }
    let report = registry.shutdown(Duration::ZERO).await;
    assert_eq!((report.stuck[0].name.as_str(), report.stuck[0].state), ("hog", TaskState::Stuck));
    assert_eq!((report.aborted.len(), report.discarded[0].name.as_str()), (1, "waiting"));
    barrier.open();
}

#[test]
fn the_end_of_the_runtime_leaves_it_running_if_it_is_told_not_to_wait() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registry = TaskRegistry::builder().max_cpu(1).handle(runtime.handle().clone()).build().unwrap();
    let barrier = Barrier::default();
    let (held, ended) = (barrier.clone(), Barrier::default());
    let end = ended.clone();
    registry.spawn(Task::cpu(move || {
        held.wait();
        end.open();
    }));
    while registry.metrics().running == 0 {
        thread::yield_now();
    }
    runtime.shutdown_background();
    while registry.metrics().running > 0 {
        thread::yield_now();
    }
    assert_eq!((registry.metrics().aborted, registry.metrics().stuck), (1, 1));
    drop(registry);
    barrier.open();
    ended.wait();
}

#[tokio::test]
async fn a_limit_of_zero_is_an_error() {
    let error = TaskRegistry::builder().max_cpu(0).build().unwrap_err();
    assert!(matches!(error, BuildError::ZeroLimit { name: "max_cpu", .. }), "{error}");
}

#[tokio::test]
async fn an_error_that_comes_too_late_and_panics_when_it_is_dropped_harms_nobody() {
    let (registry, barrier) = (registry(1), Barrier::default());
    let held = barrier.clone();
    let late = Task::cpu(move || {
        held.wait();
        Err::<(), _>(Bomb)
    });
    assert!(matches!(registry.spawn(late.timeout(Duration::from_millis(1))).await, Outcome::TimedOut(_)));
    barrier.open();
    let (next, after_next) = (registry.spawn(Task::cpu(|| {})), registry.spawn(Task::cpu(|| {})));
    assert!(next.await.is_completed() && after_next.await.is_completed(), "the permit is free again");
    assert_conserved(&registry, 3);
}
