//! Registries under random calls from several threads at once, on 0, 2 and 4 workers. Some are shut down in the middle, and
//! some lose their runtime.
//!
//! `CHAOS_TASKS=1000000 cargo test --release --all-features --test behaviour chaos -- --nocapture` adds that many tasks.

use std::{
    env, panic,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use fastrand::Rng;
use postlude::{Priority, RetryPolicy, Task, TaskId, TaskRegistry, UniquePolicy};
use tokio::{
    runtime::{Builder, Handle},
    task::yield_now,
    time::sleep,
};

use crate::support::{assert_conserved, until};

const ADDERS: u64 = 3;
const TASKS_PER_ROUND: u64 = 3_000;

/// The names of the tasks, which are paused, resumed and limited.
const NAMES: [&str; 4] = ["limited", "rated", "unnamed", "unlimited"];

/// What the threads of one round share.
#[derive(Clone)]
struct Round {
    registry: TaskRegistry,
    /// The tasks that were given to the registry.
    added: Arc<AtomicU64>,
    /// The tasks whose data is alive.
    alive: Arc<AtomicU64>,
    ids: Arc<Mutex<Vec<TaskId>>>,
}

/// The data of a task.
struct Alive(Arc<AtomicU64>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Round {
    fn data(&self) -> Arc<Alive> {
        self.alive.fetch_add(1, Ordering::SeqCst);
        Arc::new(Alive(Arc::clone(&self.alive)))
    }

    fn task(&self, random: &mut Rng) -> Task {
        self.added.fetch_add(1, Ordering::SeqCst);
        let (data, millis) = (self.data(), random.u64(..3));
        let once_more = RetryPolicy::constant(Duration::from_millis(millis)).attempts(2);
        let task = match random.u8(..10) {
            0..3 => Task::new(async move { drop(data) }),
            3 => Task::new(async move {
                yield_now().await;
                drop(data);
            }),
            4 => Task::new(async move {
                sleep(Duration::from_millis(millis)).await;
                drop(data);
            }),
            5 => Task::new(async move {
                let _data = data;
                Err::<(), _>("fails")
            }),
            6 => Task::new(async move {
                let _data = data;
                // Without the hook, which would write a backtrace of each.
                panic::resume_unwind(Box::new("panics"));
            }),
            7 => Task::new(async move {
                let _data = data;
                std::future::pending::<()>().await;
            })
            .timeout(Duration::from_millis(millis)),
            8 => Task::blocking(move || drop(data)),
            _ => Task::retrying(once_more, move || {
                let data = Arc::clone(&data);
                async move {
                    yield_now().await;
                    drop(data);
                    Err::<(), _>("fails twice")
                }
            }),
        };
        let task = match random.u8(..12) {
            0 => task.named("limited"),
            1 => task.named("rated"),
            2 => task.priority(Priority::High),
            3 => task.delay(Duration::from_millis(millis)),
            4 => task.expires_after(Duration::from_millis(millis)),
            5 => task.named("by_key").key(random.u32(..3)),
            8 => task.named("unlimited"),
            6..8 => {
                let policies = [
                    UniquePolicy::join(),
                    UniquePolicy::skip(),
                    UniquePolicy::replace(),
                    UniquePolicy::replace().abort_running(),
                ];
                let policy = policies[random.usize(..policies.len())];
                task.named("unique").key(random.u32(..20)).unique(policy).delay(Duration::from_millis(millis))
            }
            _ => task,
        };
        if random.u8(..6) == 0 { task.timeout(Duration::from_millis(millis)) } else { task }
    }

    fn add(&self, random: &mut Rng) {
        if random.bool() {
            let handle = self.registry.spawn(self.task(random));
            self.ids.lock().unwrap().push(handle.id());
            return;
        }
        let set = self.registry.set();
        let ids: Vec<_> = (0..random.u8(1..6)).map(|_| set.add(self.task(random))).collect();
        self.ids.lock().unwrap().extend(&ids);
        match random.u8(..8) {
            0 => drop(set.clear()),
            1 => _ = ids[0].set().map(|set| self.registry.abort_set(set)),
            // A set that is dropped drains, too.
            2 => {}
            _ => drop(set.drain()),
        }
    }

    fn disturb(&self, random: &mut Rng) {
        match random.u8(..40) {
            0..8 => {
                let id = random.choice(self.ids.lock().unwrap().iter().copied());
                id.map(|id| self.registry.abort(id));
            }
            8 => drop(self.registry.abort_named("limited")),
            9 => {
                let replayed = self.registry.dead_letters().replay_all().len();
                self.added.fetch_add(replayed as u64, Ordering::SeqCst);
            }
            10 => drop(self.registry.metrics()),
            11 => drop(self.registry.tasks()),
            12 => drop(self.registry.dead_letters().clear()),
            13 => _ = self.registry.pause(name(random)),
            14..17 => _ = self.registry.resume(name(random)),
            17 => self.registry.set_limit(name(random), random.usize(1..4)).unwrap(),
            18 => self.registry.remove_limit(name(random)),
            _ => {}
        }
    }

    /// Adds tasks until the adders together have added `tasks` of them.
    fn adder(self, seed: u64, tasks: u64) {
        let mut random = Rng::with_seed(seed);
        while self.added.load(Ordering::SeqCst) < tasks {
            self.add(&mut random);
            self.disturb(&mut random);
        }
    }
}

fn name(random: &mut Rng) -> &'static str {
    NAMES[random.usize(..NAMES.len())]
}

/// A registry with some limits.
fn registry(random: &mut Rng, runtime: &Handle) -> TaskRegistry {
    let mut registry =
        TaskRegistry::builder().handle(runtime.clone()).limit_by_name("limited", 2).limit_by_key("by_key", 2);
    #[cfg(feature = "rate-limit")]
    {
        registry = registry.rate_limit("rated", postlude::RateLimit::per_second(50_000));
    }
    if random.bool() {
        registry = registry.capacity(random.usize(1..2_000));
    }
    if random.bool() {
        registry = registry.max_concurrent(random.usize(1..8));
    }
    if random.bool() {
        registry = registry.default_timeout(Duration::from_millis(random.u64(1..20)));
    }
    registry.build().unwrap()
}

/// Returns how many tasks were added.
fn play(seed: u64, workers: usize, tasks: u64) -> u64 {
    let mut random = Rng::with_seed(seed);
    let mut builder = if workers == 0 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if workers > 0 {
        builder.worker_threads(workers);
    }
    let runtime = builder.enable_all().build().unwrap();
    let round = Round {
        registry: registry(&mut random, runtime.handle()),
        added: Arc::default(),
        alive: Arc::default(),
        ids: Arc::default(),
    };
    let adders: Vec<_> = (0..ADDERS)
        .map(|adder| {
            let round = round.clone();
            thread::spawn(move || round.adder(seed * ADDERS + adder, tasks))
        })
        .collect();
    let registry = &round.registry;
    let early = random.u64(..tasks);
    let end = random.u8(..3);
    runtime.block_on(async {
        match end {
            // The runtime ends while tasks are added.
            0 => until(|| round.added.load(Ordering::SeqCst) > early).await,
            1 => {
                until(|| round.added.load(Ordering::SeqCst) > early).await;
                registry.shutdown(Duration::from_millis(random.u64(..20))).await;
            }
            _ => until(|| adders.iter().all(thread::JoinHandle::is_finished)).await,
        }
        if end == 2 {
            for name in NAMES {
                registry.resume(name);
            }
            registry.wait_idle().await;
        }
    });
    drop(runtime);
    adders.into_iter().for_each(|adder| adder.join().unwrap());
    registry.dead_letters().clear();
    let added = round.added.load(Ordering::SeqCst);
    assert_conserved(registry, added);
    let metrics = registry.metrics();
    assert_eq!(
        (metrics.pending, metrics.running, metrics.open_sets),
        (0, 0, 0),
        "{seed}, end {end}: {:?} {metrics:?}",
        registry.tasks()
    );
    assert_eq!(round.alive.load(Ordering::SeqCst), 0, "{seed}: nothing of a task is left: {metrics:?}");
    added
}

#[test]
#[expect(clippy::print_stdout, reason = "a long run says what it did")]
fn every_task_has_one_outcome_whatever_is_called() {
    let wanted = env::var("CHAOS_TASKS").map_or(20_000, |text| text.parse().unwrap());
    for workers in [0, 2, 4] {
        let (mut added, mut seed) = (0, workers as u64);
        while added < wanted / 3 {
            added += play(seed, workers, TASKS_PER_ROUND);
            seed += 5;
        }
        println!("{workers} workers: {added} tasks in {} rounds", seed / 5);
    }
}
