//! Random programs: after any sequence of adds, drains, aborts, clears and shutdowns, each task has exactly one outcome,
//! and the counters agree with the hooks and with the tasks.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

#[cfg(feature = "rate-limit")]
use postlude::RateLimit;
use postlude::{
    BatchPolicy, Batcher, Priority, RepeatHandle, RetryPolicy, Task, TaskHandle, TaskId, TaskRegistry, TaskReport,
    TaskSet, after, attempt,
};

use crate::support::{assert_conserved, outcomes, until};
use proptest::prelude::*;

/// The work of a task.
#[derive(Clone, Copy, Debug)]
enum Work {
    Ends,
    Yields(u8),
    Fails,
    Panics,
    Hangs,
    TimesOut,
    Blocks,
    BlocksAndFails,
    Adds,
    PanicsInDrop,
    Retries(u32),
    RetriesBlocking(u32),
    Delayed,
    Computes,
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Add { set: usize, work: Work },
    Spawn(Work),
    Repeat(Work),
    StopRepeating(bool),
    Replay,
    Drain(usize),
    Drop(usize),
    Clear(usize),
    StopOnFailure(usize),
    Abort(usize),
    Wait(u8),
    Push(u8),
    Flush,
    AbortOldest,
    Shutdown,
}

/// What happened to each task, as the tasks and the hook report, not the counters.
#[derive(Clone, Default)]
struct Witness {
    /// Tasks whose work ran to its end.
    ended: Arc<Mutex<HashMap<u64, u32>>>,
    /// Outcomes that the failure hook has seen.
    reported: Arc<Mutex<HashMap<TaskId, &'static str>>>,
    added: Arc<Mutex<Vec<TaskId>>>,
    serial: Arc<Mutex<u64>>,
    /// Batches that did not complete, and how often each item was handled.
    batches_reported: Arc<AtomicU64>,
    items: Arc<Mutex<Vec<u32>>>,
    /// Runs of the repetitions; each repetition holds it until it has ended.
    runs: Arc<AtomicU64>,
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

impl Witness {
    fn hook(&self, report: &TaskReport) {
        self.batches_reported.fetch_add(u64::from(report.name == "batch"), Ordering::SeqCst);
        let before = self.reported.lock().unwrap().insert(report.id, report.outcome.label());
        assert_eq!(before, None, "two outcomes for {}", report.id);
    }

    fn task(&self, work: Work) -> Task {
        let serial = {
            let mut serial = self.serial.lock().unwrap();
            *serial += 1;
            *serial
        };
        let witness = self.clone();
        let end = move || {
            *witness.ended.lock().unwrap().entry(serial).or_default() += 1;
        };
        let task = match work {
            Work::Ends => Task::new(async move { end() }),
            Work::Yields(times) => Task::new(async move {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
                end();
            }),
            Work::Fails => Task::new(async { Err::<(), _>("failed") }),
            Work::Panics => Task::new(async { panic!("panicked") }),
            Work::Hangs => Task::new(std::future::pending::<()>()),
            Work::TimesOut => Task::new(std::future::pending::<()>()).timeout(Duration::from_micros(200)),
            Work::Blocks => Task::blocking(end),
            Work::BlocksAndFails => Task::blocking(|| Err::<(), _>("failed")),
            Work::Adds => {
                let witness = self.clone();
                Task::new(async move {
                    if let Ok(id) = after(witness.task(Work::Yields(1))) {
                        witness.added.lock().unwrap().push(id);
                    }
                    end();
                })
            }
            Work::Retries(last) => Task::retrying(twice(), move || {
                let result = succeed_at(last, &end);
                async move { result }
            }),
            Work::RetriesBlocking(last) => Task::retrying_blocking(twice(), move || succeed_at(last, &end)),
            Work::Computes => Task::cpu(end),
            Work::Delayed => Task::new(async move { end() }).delay(Duration::from_millis(1)),
            Work::PanicsInDrop => {
                let bomb = Bomb;
                Task::new(async move {
                    let _bomb = bomb;
                    tokio::task::yield_now().await;
                })
            }
        };
        dressed(task, serial)
    }

    fn batcher(&self, registry: &TaskRegistry) -> Batcher<usize> {
        let items = self.items.clone();
        let policy = BatchPolicy::default().max_items(3).max_delay(Duration::from_millis(1)).capacity(7);
        registry.batcher("batch", policy, move |batch| {
            for item in batch {
                items.lock().unwrap()[item] += 1;
            }
            async {}
        })
    }

    fn push(&self, batcher: &Batcher<usize>) {
        let item = {
            let mut items = self.items.lock().unwrap();
            items.push(0);
            items.len() - 1
        };
        if let Err(rejected) = batcher.try_push(item) {
            // As if it had been handled: it was handed back.
            self.items.lock().unwrap()[rejected.into_item()] += 1;
        }
    }

    fn add(&self, set: &TaskSet, work: Work) {
        let id = set.add(self.task(work));
        self.added.lock().unwrap().push(id);
    }

    fn repeat(&self, registry: &TaskRegistry, work: Work) -> RepeatHandle {
        let (witness, runs) = (self.clone(), Arc::clone(&self.runs));
        registry.spawn_every(Duration::from_millis(1), move || {
            runs.fetch_add(1, Ordering::SeqCst);
            witness.task(work)
        })
    }

    fn replay(&self, registry: &TaskRegistry) {
        let replayed = registry.dead_letters().replay_all();
        self.added.lock().unwrap().extend(replayed.iter().map(TaskHandle::id));
    }

    fn spawn(&self, registry: &TaskRegistry, work: Work) {
        let id = registry.spawn(self.task(work)).id();
        self.added.lock().unwrap().push(id);
    }
}

/// Some tasks have a name with limits, or one that is refused, and each a priority.
fn dressed(task: Task, serial: u64) -> Task {
    let name = match serial % 7 {
        0 => "limited",
        1 => "paced",
        2 => "both",
        3 => "refused",
        _ => "",
    };
    let priority = match serial % 3 {
        0 => Priority::Low,
        1 => Priority::Normal,
        _ => Priority::High,
    };
    task.named(name).priority(priority)
}

fn succeed_at(last: u32, end: impl Fn()) -> Result<(), &'static str> {
    if attempt() < last {
        return Err("once more");
    }
    end();
    Ok(())
}

fn twice() -> RetryPolicy {
    RetryPolicy::constant(Duration::from_micros(300)).attempts(2)
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![
        3 => Just(Work::Ends),
        3 => (0..4_u8).prop_map(Work::Yields),
        2 => Just(Work::Fails),
        1 => Just(Work::Panics),
        1 => Just(Work::Hangs),
        1 => Just(Work::TimesOut),
        1 => Just(Work::Blocks),
        1 => Just(Work::BlocksAndFails),
        2 => Just(Work::Adds),
        1 => Just(Work::PanicsInDrop),
        2 => (1..4_u32).prop_map(Work::Retries),
        1 => (1..4_u32).prop_map(Work::RetriesBlocking),
        1 => Just(Work::Delayed),
        1 => Just(Work::Computes),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..64_usize;
    prop_oneof![
        3 => Just(Step::Open),
        10 => (at.clone(), work()).prop_map(|(set, work)| Step::Add { set, work }),
        5 => work().prop_map(Step::Spawn),
        1 => work().prop_map(Step::Repeat),
        1 => proptest::bool::ANY.prop_map(Step::StopRepeating),
        1 => Just(Step::Replay),
        3 => at.clone().prop_map(Step::Drain),
        2 => at.clone().prop_map(Step::Drop),
        1 => at.clone().prop_map(Step::Clear),
        1 => at.clone().prop_map(Step::StopOnFailure),
        3 => at.prop_map(Step::Abort),
        3 => (1..8_u8).prop_map(Step::Push),
        1 => Just(Step::Flush),
        1 => Just(Step::AbortOldest),
        3 => (0..8_u8).prop_map(Step::Wait),
        1 => Just(Step::Shutdown),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    workers: usize,
    max_concurrent: Option<usize>,
    capacity: Option<usize>,
    named: bool,
    rule: bool,
}

fn setup() -> impl Strategy<Value = Setup> {
    let limit = || proptest::option::of(1..4_usize);
    let capacity = proptest::option::of(1..20_usize);
    (0..3_usize, limit(), capacity, any::<bool>(), any::<bool>()).prop_map(
        |(workers, max_concurrent, capacity, named, rule)| Setup { workers, max_concurrent, capacity, named, rule },
    )
}

fn registry(witness: &Witness, setup: Setup) -> TaskRegistry {
    let hook = witness.clone();
    let mut builder = TaskRegistry::builder()
        .max_blocking(2)
        .settle(Duration::from_millis(2))
        .on_failure(move |report| hook.hook(report));
    if let Some(limit) = setup.max_concurrent {
        builder = builder.max_concurrent(limit);
    }
    if let Some(capacity) = setup.capacity {
        builder = builder.capacity(capacity);
    }
    if setup.named {
        builder =
            builder.limit_by_name("limited", 1).limit_by_name("both", 2).promote_after(Duration::from_micros(100));
        #[cfg(feature = "rate-limit")]
        for name in ["paced", "both"] {
            builder = builder.rate_limit(name, RateLimit::per_second(1000).burst(2));
        }
    }
    if setup.rule {
        builder = builder.admit(|task| if task.name == "refused" { Err("by rule".into()) } else { Ok(()) });
    }
    builder.build().unwrap()
}

async fn run(program: Vec<Step>, setup: Setup) {
    let witness = Witness::default();
    let registry = registry(&witness, setup);
    let batcher = witness.batcher(&registry);
    let mut sets = vec![registry.set()];
    let mut repetitions = Vec::new();
    for step in program {
        let pick = |at: usize| &sets[at % sets.len()];
        match step {
            Step::Open => sets.push(registry.set()),
            Step::Add { set, work } => witness.add(pick(set), work),
            Step::Spawn(work) => witness.spawn(&registry, work),
            Step::Repeat(work) => repetitions.push(witness.repeat(&registry, work)),
            Step::StopRepeating(abort) => match repetitions.pop() {
                Some(repetition) if abort => repetition.abort(),
                Some(repetition) => repetition.stop(),
                None => {}
            },
            Step::Replay => witness.replay(&registry),
            Step::Drain(at) => drop(pick(at).clone().drain()),
            Step::Drop(at) => {
                let at = at % sets.len();
                sets[at] = registry.set();
            }
            Step::Clear(at) => drop(pick(at).clear()),
            Step::StopOnFailure(at) => pick(at).stop_on_failure(),
            Step::Abort(at) => {
                let id = witness.added.lock().unwrap().iter().rev().nth(at).copied();
                id.map(|id| registry.abort(id));
            }
            Step::Wait(times) => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
            Step::Push(count) => (0..count).for_each(|_| witness.push(&batcher)),
            Step::Flush => batcher.flush(),
            Step::AbortOldest => {
                registry.tasks().first().map(|task| registry.abort(task.id));
            }
            Step::Shutdown => drop(registry.shutdown(Duration::from_millis(1)).await),
        }
        let m = registry.metrics();
        assert_eq!(m.added, m.pending + m.running + outcomes(&m), "in motion: {m:?}");
    }
    sets.clear();
    let report = registry.shutdown(Duration::from_millis(5)).await;
    // Each repetition holds a copy until it has ended; the other two are the witness's and the hook's.
    until(|| Arc::strong_count(&witness.runs) <= 2).await;
    registry.wait_idle().await;
    assert!(registry.metrics().discarded >= report.discarded.len() as u64);
    compare(&witness, &registry);
}

/// The counters must say what the hook and the tasks say.
fn compare(witness: &Witness, registry: &TaskRegistry) {
    let batches = registry.metrics().by_name().get("batch").cloned().unwrap_or_default();
    let lost = batches.failed + batches.panicked + batches.timed_out + batches.aborted + batches.discarded;
    assert_eq!(lost, witness.batches_reported.load(Ordering::SeqCst), "{batches:?}");
    let items = witness.items.lock().unwrap().clone();
    assert!(items.iter().all(|handled| *handled == 1 || (*handled == 0 && lost > 0)), "{items:?}, {batches:?}");
    let added = witness.added.lock().unwrap().len() as u64 + witness.runs.load(Ordering::SeqCst);
    let added = added + batches.completed + lost;
    assert_conserved(registry, added);
    let m = registry.metrics();
    assert_eq!((m.pending, m.running, m.open_sets), (0, 0, 0), "{m:?}");
    assert!(registry.tasks().is_empty());
    let reported = witness.reported.lock().unwrap().clone();
    let count = |label| reported.values().filter(|reported| **reported == label).count() as u64;
    assert_eq!(m.failed, count("failed"), "{m:?}");
    assert_eq!(m.panicked, count("panicked"), "{m:?}");
    assert_eq!(m.timed_out, count("timed_out"), "{m:?}");
    assert_eq!(m.aborted, count("aborted"), "{m:?}");
    assert_eq!(m.discarded, count("discarded"), "{m:?}");
    assert_eq!(m.completed, added - reported.len() as u64, "{m:?}");
    assert!(witness.ended.lock().unwrap().values().all(|times| *times == 1), "work that ran twice");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_give_each_task_one_outcome(
        program in proptest::collection::vec(step(), 0..60),
        setup in setup(),
    ) {
        let runtime = match setup.workers {
            0 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
            workers => tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
        };
        runtime.unwrap().block_on(run(program, setup));
    }
}
