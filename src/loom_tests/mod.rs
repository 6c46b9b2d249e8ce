//! Models for loom, which runs them in every order in which their threads may meet. Run by
//! `RUSTFLAGS='--cfg postlude_loom -A unused' cargo test -p postlude --no-default-features
//! --features http --lib`.
//!
//! Tokio's part is played by hand: a drain that would be spawned is queued here, and a model's threads run it
//! as the tokio task would. Each model says which seeded bug it was seen to catch.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a model may stop where it stands")]

mod batcher;
mod hold;
mod retries;
mod semaphore;
mod unique;
mod waiting;

use std::{
    cell::RefCell,
    mem,
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    task::{Context, Poll, Wake, Waker},
};

use http::StatusCode;
use loom::{
    model::Builder,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};
use tokio::runtime::Runtime;

use crate::{
    engine::{
        drain::{finish, next},
        set_queue::SetQueue,
        shared::{OfName, Start},
    },
    ledger::finished::EndedBy,
    model::{Ending, Outcome},
    registry::{TaskRegistry, set::TaskSet},
    task::work::poll_work,
};

thread_local! {
    /// The drains that were spawned. All threads of a model share one thread of the system.
    static SPAWNED: RefCell<Vec<Arc<SetQueue>>> = const { RefCell::new(Vec::new()) };
}

/// Takes the place of the drain that is spawned.
fn leave_to_the_model(queue: &Arc<SetQueue>) {
    SPAWNED.with_borrow_mut(|spawned| spawned.push(Arc::clone(queue)));
}

/// Runs the drains that were spawned, as the tokio tasks would. At most one at a time drains a queue.
fn run_drains() {
    while let Some(queue) = SPAWNED.with_borrow_mut(Vec::pop) {
        drain(&queue);
    }
}

fn drain(queue: &Arc<SetQueue>) {
    let mut running = next(queue);
    while let Some(work) = running {
        let id = work.meta().id();
        let Poll::Ready(outcome) = poll_work(&mut Some(work), &mut Context::from_waker(Waker::noop())) else {
            panic!("the tasks of a model are ready at once");
        };
        running = finish(queue, None, id, outcome.into());
    }
}

fn registry(capacity: Option<usize>) -> TaskRegistry {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap());
    let mut builder = TaskRegistry::builder().handle(runtime.handle().clone());
    builder.spawn_drain = leave_to_the_model;
    match capacity {
        Some(capacity) => builder.capacity(capacity).build().unwrap(),
        None => builder.build().unwrap(),
    }
}

fn set(registry: &TaskRegistry) -> (TaskSet, Arc<SetQueue>) {
    let set = registry.set();
    let queue = Arc::clone(set.queue());
    (set, queue)
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        SPAWNED.with_borrow_mut(|spawned| drop(mem::take(spawned)));
        model();
    });
}

fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// A waker that remembers.
#[derive(Default)]
struct Woken(AtomicBool);

impl Woken {
    fn poll<F: Future + Unpin>(self: &Arc<Self>, future: &mut F) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(self));
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Seeded: `Transition::pop` leaves the phase as it is when the queue is empty, and the drain sets it to `Drained`
/// under a second lock: the added task stays pending.
#[test]
fn an_add_that_meets_the_end_of_a_drain_is_run() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        tasks.add(async {});
        queue.drain(None);
        let adder = {
            let tasks = tasks.clone();
            thread::spawn(move || {
                tasks.add(async {});
            })
        };
        run_drains();
        adder.join().unwrap();
        run_drains();
        let metrics = registry.metrics();
        assert_eq!((metrics.added, metrics.completed), (2, 2), "{metrics:?}");
        assert!(registry.tasks().is_empty());
    });
}

/// Seeded: `SetQueue::finish` counts without looking whether its task is still current: two outcomes for one task.
#[test]
fn an_abort_that_meets_completion_counts_one_outcome_and_the_next_task_runs() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        let id = tasks.add(async {});
        tasks.add(async {});
        queue.drain(None);
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || registry.abort(id))
        };
        run_drains();
        let aborted = aborter.join().unwrap();
        run_drains();
        let metrics = registry.metrics();
        assert_eq!(metrics.aborted, u64::from(aborted), "{metrics:?}");
        assert_eq!(metrics.completed + metrics.aborted, 2, "{metrics:?}");
        assert_eq!((metrics.pending, metrics.running, metrics.stuck), (0, 0, 0), "{metrics:?}");
    });
}

/// Seeded: `Ledger::told` reads the number of waiters before the end is counted: the wake-up is missed.
#[test]
fn a_wait_for_idleness_sees_the_last_end_or_is_woken_by_it() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        tasks.add(async {});
        queue.drain(None);
        let drainer = thread::spawn(run_drains);
        let woken = Arc::new(Woken::default());
        let mut idle = Box::pin(registry.wait_idle());
        let polled = woken.poll(&mut idle);
        drainer.join().unwrap();
        if polled.is_pending() {
            assert!(woken.0.load(Ordering::SeqCst), "nobody woke the waiter");
            assert!(woken.poll(&mut idle).is_ready());
        }
    });
}

/// Seeded: `Ledger::close_if_idle` looks at the shards one after another and closes them in a second round: a
/// task is accepted that nobody waits for.
#[test]
fn a_close_at_idle_that_meets_an_add_refuses_it_or_waits_for_it() {
    check(|| {
        let registry = registry(None);
        let (tasks, _queue) = set(&registry);
        let closer = {
            let registry = registry.clone();
            thread::spawn(move || registry.shared.ledger.close_if_idle())
        };
        let added = tasks.try_add(async {}).is_ok();
        let closed = closer.join().unwrap();
        assert!(!(added && closed), "accepted by a closed registry");
        tasks.clear();
    });
}

/// Seeded: `SetQueue::admit` leaves an add to an empty queue account: the registry closes while a task is pending.
/// Seeded:
/// `SetAccount` counts a start that was counted before: the counters do not add up.
#[test]
fn adds_and_ends_that_are_booked_later_are_neither_missed_nor_taken_for_idleness() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        tasks.add(async {});
        tasks.add(async {});
        queue.drain(None);
        let adder = {
            let (tasks, registry) = (tasks.clone(), registry.clone());
            thread::spawn(move || {
                let added = tasks.try_add(async {}).is_ok();
                let m = registry.metrics();
                assert_eq!(m.added, m.pending + m.running + m.completed, "{m:?}");
                added
            })
        };
        run_drains();
        let closed = registry.shared.ledger.close_if_idle();
        let added = adder.join().unwrap();
        run_drains();
        let metrics = registry.metrics();
        assert_eq!((metrics.completed, metrics.pending), (2 + u64::from(added), 0), "closed: {closed}, {metrics:?}");
        assert_eq!(registry.history().len() as u64, metrics.completed);
    });
}

/// Seeded: `SetQueue::answered` asks for the shutdown before it notes the answer: neither drains the set.
#[test]
fn a_shutdown_that_meets_an_answer_drains_the_set() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        tasks.add(async {});
        let shutdown = {
            let registry = registry.clone();
            thread::spawn(move || assert!(poll_once(registry.drain_answered_sets()).is_some()))
        };
        queue.response_ready(Ending::Disconnected(StatusCode::OK));
        shutdown.join().unwrap();
        run_drains();
        assert_eq!(registry.metrics().completed, 1, "still open");
    });
}

/// Seeded: `SetQueue::offer` drains late answers in phase `Open` only: a set that was empty when the shutdown looked.
#[test]
fn a_shutdown_that_meets_an_add_to_a_leaving_set_drains_it() {
    check(|| {
        let registry = registry(None);
        let (tasks, queue) = set(&registry);
        queue.response_ready(Ending::Disconnected(StatusCode::OK));
        queue.hold(Ending::Sent(StatusCode::OK));
        let shutdown = {
            let registry = registry.clone();
            thread::spawn(move || assert!(poll_once(registry.drain_answered_sets()).is_some()))
        };
        tasks.add(async {});
        shutdown.join().unwrap();
        run_drains();
        assert_eq!(registry.metrics().completed, 1, "still leaving");
    });
}

/// Seeded: `Ledger::reserve` as a load and a store: two tasks within a capacity of one.
#[test]
fn tasks_that_meet_at_the_capacity_do_not_exceed_it_and_give_their_place_back() {
    check(|| {
        let registry = registry(Some(1));
        let (tasks, queue) = set(&registry);
        let (others, other_queue) = set(&registry);
        queue.drain(None);
        other_queue.drain(None);
        let other = thread::spawn(move || {
            let accepted = others.try_add(async {}).is_ok();
            run_drains();
            accepted
        });
        let accepted = tasks.try_add(async {}).is_ok();
        let metrics = registry.metrics();
        assert!(metrics.pending + metrics.running <= 1, "{metrics:?}");
        run_drains();
        let accepted = u64::from(accepted) + u64::from(other.join().unwrap());
        run_drains();
        assert_eq!(registry.metrics().completed, accepted);
        assert!(tasks.try_add(async {}).is_ok(), "the place is free again");
        tasks.clear();
        run_drains();
    });
}

/// Seeded: `SetQueue::finish` gives the place back before it looks whether its task is still current: a place too many
/// is free.
#[test]
fn an_abort_that_meets_completion_gives_the_place_within_the_capacity_back_once() {
    check(|| {
        let registry = registry(Some(1));
        let (tasks, queue) = set(&registry);
        let id = tasks.add(async {});
        queue.drain(None);
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || registry.abort(id))
        };
        run_drains();
        aborter.join().unwrap();
        run_drains();
        let (others, _other_line) = set(&registry);
        assert!(others.try_add(async {}).is_ok(), "the place is free again");
        assert!(others.try_add(async {}).is_err(), "and it is one place");
        others.clear();
    });
}

/// Seeded: `Shared::end_spawned` strikes the task off after it has released the lock: two outcomes.
#[test]
fn a_spawned_task_that_is_ended_from_both_sides_has_one_outcome() {
    check(|| {
        let registry = registry(None);
        let handle = registry.spawn(async {});
        let id = handle.id();
        assert!(matches!(registry.shared.start(id, OfName::None), Start::At(_)));
        let aborter = {
            let registry = registry.clone();
            thread::spawn(move || registry.abort(id))
        };
        let inside = registry.shared.end_spawned(id, |_| Outcome::Completed, EndedBy::Runner);
        if !inside {
            registry.shared.abandoned.dropped(id);
        }
        let outside = aborter.join().unwrap();
        assert!(inside != outside);
        let metrics = registry.metrics();
        assert_eq!((metrics.completed, metrics.aborted), (u64::from(inside), u64::from(outside)), "{metrics:?}");
        assert_eq!((metrics.running, metrics.stuck), (0, 0), "{metrics:?}");
    });
}
