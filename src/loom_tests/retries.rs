//! Tasks that wait for a time beside the queue of their set, and dead letters.

use std::{sync::Arc, time::Duration};

use loom::thread;

use crate::{
    engine::{
        drain::{finish, next},
        set_queue::{PollPermission, SetQueue},
    },
    ledger::live::LiveTask,
    loom_tests::{SPAWNED, check, registry, run_drains, set},
    model::{Outcome, RetryPolicy, TaskId},
    task::{
        Task,
        exhausted::{Exhausted, FailedAttempts},
    },
    util::clock::Timestamp,
};

/// A drain whose task begins to wait for a time. `false` if the task is no longer in the queue.
fn run_and_detach(queue: &Arc<SetQueue>, id: TaskId) -> bool {
    let work = next(queue).unwrap();
    let next_id = work.meta().id();
    let is_it = next_id == id;
    if is_it {
        queue.transition(|step| step.detach_sleeping(id));
    } else {
        finish(queue, None, next_id, Outcome::Completed.into());
    }
    is_it
}

/// Seeded: `Transition::stop` does not look among the sleeping tasks: the abort finds nothing to abort.
#[test]
fn an_abort_finds_a_task_that_is_leaving_its_queue_and_the_next_one_runs() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        let id = tasks.add(async {});
        tasks.add(async {});
        queue.drain(None);
        SPAWNED.with_borrow_mut(Vec::clear);
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || registry.abort(id))
        };
        if run_and_detach(&queue, id) {
            // Its drain stays with it, whenever it was aborted.
            assert!(aborter.join().unwrap());
            assert!(!matches!(queue.begin_poll(id), PollPermission::Granted));
            assert!(finish(&queue, None, id, Outcome::Completed.into()).is_none(), "counted already");
        } else {
            assert!(aborter.join().unwrap());
        }
        run_drains();
        let metrics = registry.metrics();
        assert_eq!((metrics.aborted, metrics.completed), (1, 1), "{metrics:?}");
        assert_eq!((metrics.pending, metrics.running), (0, 0), "{metrics:?}");
        assert!(registry.tasks().is_empty() && registry.shared.abandoned.not_dropped() == 0);
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
        let exhausted = Exhausted { failed: FailedAttempts::default(), source: source.work };
        registry.shared.store_dead_letter(&report, Some(Box::new(exhausted)));
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
