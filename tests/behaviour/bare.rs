//! A future that is spawned just as it is: it fares no differently from a task that was made of it.

use std::{
    future::{pending, poll_fn},
    sync::Arc,
    task::Poll,
};

use postlude::{IntoTask, Outcome, RejectReason, Task, TaskRegistry, TaskState, attempt, cancellation};
use tokio::{sync::Notify, task::yield_now};

use crate::support::{Bomb, Journal, assert_conserved};

/// What a future goes through, and what becomes of it.
#[derive(Clone, Copy, Debug)]
enum Course {
    Completes,
    WaitsAndCompletes,
    Fails,
    Panics,
    PanicsAfterAWait,
    PanicsWhenItIsDropped,
    AbortedBeforeItsFirstPoll,
    AbortedWhileItWaits,
    AbortedABombThatWaits,
    AbortsItself,
}

const COURSES: [Course; 10] = [
    Course::Completes,
    Course::WaitsAndCompletes,
    Course::Fails,
    Course::Panics,
    Course::PanicsAfterAWait,
    Course::PanicsWhenItIsDropped,
    Course::AbortedBeforeItsFirstPoll,
    Course::AbortedWhileItWaits,
    Course::AbortedABombThatWaits,
    Course::AbortsItself,
];

impl Course {
    const fn label(self) -> &'static str {
        match self {
            Self::Completes | Self::WaitsAndCompletes => "completed",
            Self::Fails => "failed",
            Self::Panics | Self::PanicsAfterAWait | Self::PanicsWhenItIsDropped => "panicked",
            Self::AbortedBeforeItsFirstPoll
            | Self::AbortedWhileItWaits
            | Self::AbortedABombThatWaits
            | Self::AbortsItself => "aborted",
        }
    }

    const fn holds_a_bomb(self) -> bool {
        matches!(self, Self::PanicsWhenItIsDropped | Self::AbortedABombThatWaits)
    }
}

/// Notes when it goes.
struct Last(Journal);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.note(format!("dropped in attempt {}, cancelled: {}", attempt(), cancellation().is_cancelled()));
    }
}

async fn future(course: Course, registry: TaskRegistry, journal: Journal, go: Arc<Notify>) -> Result<(), &'static str> {
    let _last = Last(journal.clone());
    let _bomb = course.holds_a_bomb().then(|| Bomb);
    journal.note(format!("polled in attempt {}", attempt()));
    match course {
        Course::Completes | Course::PanicsWhenItIsDropped | Course::AbortedBeforeItsFirstPoll => {}
        Course::WaitsAndCompletes => {
            for _ in 0..3 {
                yield_now().await;
            }
            go.notified().await;
        }
        Course::Fails => return Err("no such mailbox"),
        Course::Panics => panic!("on purpose"),
        Course::PanicsAfterAWait => {
            go.notified().await;
            panic!("on purpose");
        }
        Course::AbortedWhileItWaits | Course::AbortedABombThatWaits => pending().await,
        Course::AbortsItself => {
            assert!(registry.abort(registry.tasks()[0].id));
            assert!(cancellation().is_cancelled());
            pending::<()>().await;
        }
    }
    Ok(())
}

/// Spawns it and lets it go its way; returns what could be seen of that.
async fn play<T: IntoTask>(course: Course, task: impl FnOnce(TaskRegistry, Journal, Arc<Notify>) -> T) -> Vec<String> {
    let registry = TaskRegistry::new();
    let (journal, go) = (Journal::default(), Arc::new(Notify::new()));
    let mut handle = registry.spawn(task(registry.clone(), journal.clone(), Arc::clone(&go)));
    if matches!(course, Course::AbortedBeforeItsFirstPoll) {
        assert!(handle.abort() && handle.is_finished());
    }
    for _ in 0..5 {
        yield_now().await;
    }
    let waits = matches!(
        course,
        Course::WaitsAndCompletes
            | Course::PanicsAfterAWait
            | Course::AbortedWhileItWaits
            | Course::AbortedABombThatWaits
    );
    assert_eq!(registry.tasks().iter().any(|task| task.state == TaskState::Running), waits, "{course:?}");
    go.notify_one();
    if matches!(course, Course::AbortedWhileItWaits | Course::AbortedABombThatWaits) {
        assert!(handle.abort() && handle.is_finished() && !handle.abort());
    }
    let outcome = (&mut handle).await;
    assert_eq!(outcome.label(), course.label(), "{course:?}");
    registry.wait_idle().await;
    assert_conserved(&registry, 1);
    assert_eq!(registry.metrics().retries, 0, "{course:?}: it has started once");
    // What is aborted is dropped at its next turn.
    while registry.metrics().stuck > 0 {
        yield_now().await;
    }
    assert_eq!(handle.await.label(), course.label(), "it resolves to the same again");
    journal.note(format!("{outcome:?}"));
    journal.read()
}

#[tokio::test]
async fn a_future_spawned_as_it_is_fares_like_a_task_made_of_it() {
    for course in COURSES {
        let bare = play(course, |registry, journal, go| future(course, registry, journal, go)).await;
        let boxed = play(course, |registry, journal, go| Task::new(future(course, registry, journal, go))).await;
        assert_eq!(bare, boxed, "{course:?}");
        let polled = !matches!(course, Course::AbortedBeforeItsFirstPoll);
        assert_eq!(bare.iter().any(|line| line.starts_with("polled")), polled, "{course:?}: {bare:?}");
    }
}

#[tokio::test]
async fn a_bare_future_that_panics_when_it_is_dropped_at_its_end_has_panicked() {
    let registry = TaskRegistry::new();
    let bomb = Bomb;
    // It is not an async block, which would drop what it holds before it returns.
    let outcome = registry.spawn(poll_fn(move |_| {
        let _held = &bomb;
        Poll::Ready(())
    }));
    assert!(matches!(outcome.await, Outcome::Panicked(panic) if panic.message() == "a bug in a drop"));
    assert_conserved(&registry, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_from_another_thread_ends_a_bare_future_at_any_moment() {
    for round in 0..2_000 {
        let registry = TaskRegistry::new();
        let mut handle = registry.spawn(async move {
            for _ in 0..round % 5 {
                yield_now().await;
            }
            pending::<()>().await;
        });
        let aborter = {
            let (registry, id) = (registry.clone(), handle.id());
            tokio::spawn(async move { registry.abort(id) })
        };
        assert!(matches!((&mut handle).await, Outcome::Aborted));
        assert!(aborter.await.unwrap());
        while registry.metrics().stuck > 0 {
            yield_now().await;
        }
        assert_conserved(&registry, 1);
    }
}

#[test]
fn a_bare_future_that_its_runtime_drops_has_an_outcome() {
    for poll_it in [true, false] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let registry = TaskRegistry::builder().handle(runtime.handle().clone()).build().unwrap();
        let (journal, held) = (Journal::default(), Journal::default());
        let last = Last(held.clone());
        let note = journal.clone();
        registry.spawn(async move {
            let _last = last;
            note.note("polled");
            pending::<()>().await;
        });
        if poll_it {
            runtime.block_on(yield_now());
        }
        drop(runtime);
        let m = registry.metrics();
        assert_eq!((m.aborted, m.discarded), (u64::from(poll_it), u64::from(!poll_it)));
        assert_conserved(&registry, 1);
        assert_eq!((journal.read().len(), held.read().len()), (usize::from(poll_it), 1));
    }
}

#[tokio::test]
async fn a_bare_future_that_is_not_accepted_comes_back_with_the_place_where_it_was_spawned() {
    let registry = TaskRegistry::builder().capacity(1).build().unwrap();
    let _first = registry.spawn(pending::<()>());
    let journal = Journal::default();
    let rejected = registry.try_spawn(journal.task("second")).unwrap_err();
    assert_eq!(rejected.reason(), RejectReason::Capacity);
    let task = rejected.into_task();
    assert_eq!((task.name().as_str(), task.location().file()), ("unnamed", file!()));

    let other = TaskRegistry::new();
    assert!(matches!(other.spawn(task).await, Outcome::Completed));
    assert_eq!(journal.read(), ["second"]);
    assert!(matches!(registry.spawn(async {}).await, Outcome::Discarded(_)));
    assert_conserved(&registry, 2);
}
