//! Tasks that leave their line to wait for a time, and the dead letters of those that gave up.

use std::{sync::Arc, time::Duration};

use loom::thread;

use crate::{
    engine::queue::SetQueue,
    ledger::live::LiveTask,
    loom_tests::{SPAWNED, check, registry, run_drains, set},
    model::{Outcome, RetryPolicy, TaskId},
    task::{
        Task,
        exhausted::{Exhausted, FailedAttempts},
    },
    util::clock::Timestamp,
};

/// A drain that takes a task in hand, which then leaves the line. `false` if the task is no longer in it.
fn take_and_part(line: &Arc<SetQueue>, id: TaskId) -> bool {
    let work = line.next().unwrap();
    let taken = work.meta().id() == id;
    if taken {
        line.part(id);
    } else {
        line.finish(work.meta().id(), Outcome::Completed.into());
    }
    taken
}

/// Seeded: `Transition::cut` does not look among the tasks that are away: the abort finds nothing to abort.
#[test]
fn an_abort_finds_a_task_that_is_leaving_its_line_and_the_next_one_runs() {
    check(|| {
        let registry = registry(None);
        let (tasks, line) = set(&registry);
        let id = tasks.add(async {});
        tasks.add(async {});
        line.launch(None);
        SPAWNED.with_borrow_mut(Vec::clear);
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || registry.abort(id))
        };
        if take_and_part(&line, id) {
            // Its drain goes on with it, whenever it was aborted.
            assert!(aborter.join().unwrap());
            assert!(line.finish(id, Outcome::Completed.into()).is_none(), "counted already");
        } else {
            assert!(aborter.join().unwrap());
        }
        run_drains();
        let metrics = registry.metrics();
        assert_eq!((metrics.aborted, metrics.completed), (1, 1), "{metrics:?}");
        assert_eq!((metrics.pending, metrics.running, metrics.stuck), (0, 0, 0), "{metrics:?}");
        assert!(registry.tasks().is_empty());
    });
}

/// Seeded: `DeadLetters::replay` looks the letter up and takes it out under two locks: both replay it.
#[test]
fn a_letter_is_replayed_once() {
    check(|| {
        let registry = registry(None);
        let source = Task::retrying(RetryPolicy::default(), || async {});
        let report =
            LiveTask::new(source.meta().identity()).report(Outcome::TimedOut(Duration::ZERO), Timestamp::now());
        let id = report.id;
        registry
            .shared
            .bury(&report, Some(Box::new(Exhausted { failed: FailedAttempts::default(), source: source.work })));
        let other = {
            let registry = registry.clone();
            thread::spawn(move || registry.dead_letters().replay(id).is_ok())
        };
        let replayed = registry.dead_letters().replay(id).is_ok();
        assert!(replayed != other.join().unwrap());
        assert!(registry.dead_letters().is_empty());
        assert_eq!(registry.metrics().pending, 1);
    });
}
