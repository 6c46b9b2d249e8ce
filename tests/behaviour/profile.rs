//! What is measured of tasks.

use std::{
    cell::Cell,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    task::Poll,
    time::{Duration, Instant},
};

use postlude::{
    BatchPolicy, BuildError, NameProfile, Outcome, Profile, RetryPolicy, Task, TaskEvent, TaskId, TaskProfile,
    TaskRegistry, TaskRegistryBuilder, TaskStatus, TaskStep,
};
use tokio::{sync::Notify, task::yield_now};

use crate::support::{Bomb, assert_conserved, until};

/// Longer than any poll of these tests may take on a machine that is busy.
const NEVER_SLOW: Duration = Duration::from_secs(3600);

const MILLISECOND: Duration = Duration::from_millis(1);

fn profiling() -> TaskRegistryBuilder {
    TaskRegistry::builder().profile(Profile::default().slow_poll(NEVER_SLOW))
}

/// The profile of a task, live or ended.
fn of(registry: &TaskRegistry, id: TaskId) -> Option<TaskProfile> {
    match registry.get(id)? {
        TaskStatus::Live(info) => info.profile.as_deref().copied(),
        TaskStatus::Ended(report) => report.profile.as_deref().copied(),
        _ => None,
    }
}

fn of_name(registry: &TaskRegistry, name: &str) -> NameProfile {
    registry.metrics().by_name()[name].profile.clone().unwrap()
}

/// Three polls.
async fn yield_twice() {
    yield_now().await;
    yield_now().await;
}

/// Two polls. Tokio's `yield_now` wakes its task only after the poll.
async fn wake_itself() {
    let mut is_woken = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_woken, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Blocks the thread, and returns for how long.
fn block() -> Duration {
    let begun = Instant::now();
    std::thread::sleep(MILLISECOND);
    begun.elapsed()
}

#[tokio::test]
async fn is_of_tasks_that_are_spawned_and_of_tasks_of_sets() {
    let registry = profiling().build().unwrap();
    let mut events = registry.subscribe();
    let set = registry.set();
    let ids = [registry.spawn(yield_twice()).id(), set.add(yield_twice()), set.add(yield_twice())];
    assert_eq!(ids.map(|id| of(&registry, id)), [None; 3], "nothing has started");
    set.drain().await;
    registry.wait_idle().await;
    for id in ids {
        let profile = of(&registry, id).unwrap();
        assert_eq!((profile.polls, profile.slow_polls), (3, 0), "{profile:?}");
        assert!(profile.busy >= profile.longest_poll && !profile.longest_poll.is_zero(), "{profile:?}");
        assert_eq!((profile.allocated, profile.cpu, profile.polling_for), (None, None, None));
    }
    let sums = of_name(&registry, "unnamed");
    assert_eq!((sums.polls, sums.poll_times().count(), sums.schedule_delays().count()), (9, 9, 6));
    let of_all = |figure: fn(TaskProfile) -> Duration| ids.iter().map(|id| figure(of(&registry, *id).unwrap())).sum();
    assert_eq!(sums.busy, of_all(|profile| profile.busy));
    assert_eq!(sums.busy, sums.poll_times().total());
    assert_eq!((sums.idle, sums.scheduled), (of_all(|profile| profile.idle), of_all(|profile| profile.scheduled)));
    assert_eq!(sums.scheduled, sums.schedule_delays().total());
    let mut finished = 0;
    while finished < 3 {
        if let Some(TaskEvent::Finished(report)) = events.recv().await {
            assert_eq!(report.profile.unwrap().polls, 3);
            finished += 1;
        }
    }
}

/// The test has the only thread, so a task that is woken waits until the test lets it run.
#[tokio::test]
async fn tells_time_that_is_busy_from_idle_and_scheduled() {
    let registry = profiling().build().unwrap();
    let (wake, woken) = (Arc::new(Notify::new()), Arc::new(Mutex::new([Duration::ZERO; 2])));
    let (begun, inner, busy) = (Instant::now(), wake.clone(), woken.clone());
    let id = registry
        .spawn(async move {
            busy.lock().unwrap()[0] = block();
            inner.notified().await;
            busy.lock().unwrap()[1] = block();
        })
        .id();
    until(|| of(&registry, id).is_some_and(|profile| profile.polls == 1)).await;
    let waits = of(&registry, id).unwrap();
    let idle = block();
    let idle_now = of(&registry, id).unwrap().idle;
    assert!(idle_now >= waits.idle + idle, "the wait that has not ended counts: {waits:?}, {idle_now:?}");
    wake.notify_one();
    let scheduled = block();
    let late = of(&registry, id).unwrap();
    assert!(late.scheduled >= scheduled && late.idle >= idle_now, "{late:?}");
    registry.wait_idle().await;
    let (profile, all) = (of(&registry, id).unwrap(), begun.elapsed());
    let [first, second] = *woken.lock().unwrap();
    assert!(profile.busy >= first + second && profile.longest_poll >= first.max(second), "{profile:?}");
    assert!(profile.idle >= idle && profile.scheduled >= scheduled, "{profile:?}");
    assert!(profile.busy + profile.idle + profile.scheduled <= all, "{profile:?} of {all:?}");
    assert_eq!(of_name(&registry, "unnamed").idle, profile.idle);
}

#[tokio::test]
async fn one_that_wakes_itself_is_scheduled_and_not_idle() {
    let registry = profiling().build().unwrap();
    let id = registry.spawn(wake_itself()).id();
    registry.wait_idle().await;
    let profile = of(&registry, id).unwrap();
    assert_eq!((profile.idle, profile.polls), (Duration::ZERO, 2));
    assert!(!profile.scheduled.is_zero());
}

#[tokio::test(start_paused = true)]
async fn is_of_tasks_with_any_policy() {
    let builder = profiling().max_concurrent(100).limit_by_name("limited", 1).default_timeout(NEVER_SLOW);
    let wrapped = Arc::new(AtomicU32::new(0));
    let steps = wrapped.clone();
    let builder = builder.wrap(move |_task| {
        let steps = steps.clone();
        move |step: TaskStep<'_>| {
            steps.fetch_add(1, Ordering::Relaxed);
            step.run()
        }
    });
    let registry = builder.build().unwrap();
    let three_polls = [
        Task::new(yield_twice()).named("limited"),
        Task::new(yield_twice()).named("delayed").delay(MILLISECOND),
        Task::new(yield_twice()).named("timed").timeout(Duration::from_secs(60)),
        Task::new(yield_twice()).named("keyed").key("one").unique(postlude::UniquePolicy::skip()),
    ];
    let set = registry.set();
    let of_set = Task::new(yield_twice()).named("limited");
    set.add(of_set);
    let mut expected = vec![("limited", 6), ("delayed", 3), ("timed", 3), ("keyed", 3)];
    three_polls.into_iter().for_each(|task| drop(registry.spawn(task)));
    set.drain().await;
    let output = registry.spawn_with_output(async {
        yield_twice().await;
        Ok::<_, std::io::Error>(7)
    });
    assert_eq!(output.await.unwrap(), 7);
    expected.push(("unnamed", 3));
    let policy = BatchPolicy::default().max_items(2);
    let batcher = registry.batcher("batch", policy, async |_items: Vec<u32>| yield_twice().await);
    (0..2).for_each(|item| batcher.try_push(item).unwrap());
    expected.push(("batch", 3));
    registry.wait_idle().await;
    for (name, polls) in expected {
        let sums = of_name(&registry, name);
        assert_eq!((sums.polls, sums.poll_times().count()), (polls, polls), "{name}");
    }
    assert!(registry.history().iter().all(|report| report.profile.as_ref().unwrap().polls == 3));
    assert!(wrapped.load(Ordering::Relaxed) >= 21, "each poll is inside its wrapper");
}

#[tokio::test(start_paused = true)]
async fn sums_the_attempts_of_a_task() {
    let registry = profiling().build().unwrap();
    let policy = RetryPolicy::constant(Duration::from_secs(60)).attempts(3);
    let id = registry
        .spawn(Task::retrying(policy, || async {
            wake_itself().await;
            Err::<(), _>("down")
        }))
        .id();
    until(|| of(&registry, id).is_some_and(|profile| profile.polls == 2)).await;
    registry.wait_idle().await;
    let profile = of(&registry, id).unwrap();
    assert_eq!(profile.polls, 6);
    assert_eq!(profile.idle, Duration::ZERO, "the time between two attempts is no wait of the work");
    let closure = Task::retrying_blocking(RetryPolicy::constant(MILLISECOND).attempts(2), || {
        block();
        Err::<(), _>("down")
    });
    let id = registry.spawn(closure).id();
    registry.wait_idle().await;
    assert!(of(&registry, id).unwrap().busy >= 2 * MILLISECOND);
}

#[tokio::test(start_paused = true)]
async fn is_of_each_run_of_a_repeated_task() {
    let registry = profiling().build().unwrap();
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let repeated = registry.spawn_every(Duration::from_secs(60), move || {
        let counted = counted.clone();
        async move {
            yield_twice().await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    until(|| runs.load(Ordering::Relaxed) == 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    until(|| runs.load(Ordering::Relaxed) == 2).await;
    drop(repeated);
    until(|| of_name(&registry, "unnamed").polls == 6).await;
}

#[tokio::test]
async fn of_a_closure_has_processor_time_and_no_polls() {
    let profile = Profile::default().slow_poll(MILLISECOND);
    let registry = TaskRegistry::builder().profile(profile).build().unwrap();
    for (name, make) in [("blocks", Task::blocking as fn(_) -> _), ("computes", Task::cpu)] {
        let (release, held) = mpsc::channel::<()>();
        let (report, times) = mpsc::channel();
        let closure: Box<dyn FnOnce() + Send> = Box::new(move || {
            let begun = Instant::now();
            assert!(held.recv().is_err());
            let slept = (0..20).map(|_| block()).sum::<Duration>();
            let spun = Instant::now();
            while spun.elapsed() < MILLISECOND {
                std::hint::spin_loop();
            }
            report.send((begun.elapsed(), slept)).unwrap();
        });
        let handle = registry.spawn(make(closure).named(name));
        let id = handle.id();
        until(|| of(&registry, id).is_some_and(|profile| !profile.busy.is_zero())).await;
        assert_eq!(of(&registry, id).unwrap().polling_for, None, "it does not hold a worker");
        drop(release);
        assert!(handle.await.is_completed());
        let (profile, sums) = (of(&registry, id).unwrap(), of_name(&registry, name));
        assert_eq!((profile.polls, profile.slow_polls, sums.polls, sums.slow_polls), (0, 0, 0, 0));
        let (busy, slept) = times.recv().unwrap();
        assert!(profile.busy >= busy, "{profile:?}");
        assert_eq!((sums.busy, sums.cpu, sums.poll_times().count()), (profile.busy, profile.cpu, 0));
        if cfg!(target_os = "linux") {
            let cpu = profile.cpu.unwrap();
            assert!(!cpu.is_zero() && cpu < slept, "a thread that sleeps uses no processor: {profile:?}");
        }
    }
}

#[tokio::test]
async fn a_slow_poll_is_counted_once() {
    let registry = TaskRegistry::builder().profile(Profile::default().slow_poll(MILLISECOND)).build().unwrap();
    let slow = Task::new(async {
        block();
        yield_now().await;
        block();
    });
    let id = registry.spawn(slow.named("slow")).id();
    registry.wait_idle().await;
    assert_eq!(of(&registry, id).unwrap().slow_polls, 2);
    assert_eq!(of_name(&registry, "slow").slow_polls, 2);
}

/// The watchdog finds it while nothing returns, and the poll is not counted again when it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_does_not_return_is_found_while_it_lasts() {
    let registry = TaskRegistry::builder().profile(Profile::default().slow_poll(MILLISECOND)).build().unwrap();
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let stuck = Task::new(async move { assert!(held.lock().unwrap().recv().is_err()) });
    let id = registry.spawn(stuck.named("stuck")).id();
    until(|| of(&registry, id).is_some_and(|profile| profile.polling_for.is_some())).await;
    let polling_for = || of(&registry, id).unwrap().polling_for.unwrap();
    let first = polling_for();
    until(|| polling_for() > first && polling_for() >= MILLISECOND).await;
    until(|| of(&registry, id).unwrap().slow_polls == 1).await;
    let profile = of(&registry, id).unwrap();
    assert_eq!((profile.polls, profile.slow_polls), (0, 1));
    assert!(profile.busy >= MILLISECOND, "the poll that has not returned counts: {profile:?}");
    assert_eq!(of_name(&registry, "stuck").slow_polls, 1);
    drop(release);
    registry.wait_idle().await;
    let profile = of(&registry, id).unwrap();
    assert_eq!((profile.polls, profile.slow_polls, profile.polling_for), (1, 1, None));
    assert!(profile.longest_poll > first);
    let sums = of_name(&registry, "stuck");
    assert_eq!((sums.polls, sums.slow_polls, sums.longest_poll), (1, 1, profile.longest_poll));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_task_that_is_abandoned_inside_a_poll_tells_so() {
    let registry = profiling().build().unwrap();
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let stuck = Task::new(async move { assert!(held.lock().unwrap().recv().is_err()) });
    let set = registry.set();
    let id = set.add(stuck.named("stuck"));
    let drained = set.drain();
    until(|| of(&registry, id).is_some_and(|profile| profile.polling_for.is_some())).await;
    assert!(registry.abort(id));
    drained.await;
    let TaskStatus::Ended(report) = registry.get(id).unwrap() else { panic!("it has ended") };
    assert!(matches!(report.outcome, Outcome::Aborted));
    assert!(report.profile.unwrap().polling_for.is_some());
    drop(release);
    let sums = || registry.metrics().by_name()["stuck"].profile.clone();
    until(|| sums().is_some_and(|sums| sums.polls == 1)).await;
}

#[tokio::test]
async fn counts_the_wait_of_a_task_that_is_stopped() {
    let registry = profiling().build().unwrap();
    let hangs = || Task::new(std::future::pending::<()>()).named("hangs");
    let [timed, aborted] = [registry.spawn(hangs().timeout(MILLISECOND)), registry.spawn(hangs())];
    let ids = [timed.id(), aborted.id()];
    assert!(matches!(timed.await, Outcome::TimedOut(_)));
    assert!(registry.abort(ids[1]));
    registry.wait_idle().await;
    for id in ids {
        let profile = of(&registry, id).unwrap();
        assert!(!profile.idle.is_zero() && profile.polls == 1, "{profile:?}");
    }
    // The name learns of the wait when the work is dropped.
    until(|| of_name(&registry, "hangs").idle >= of(&registry, ids[0]).unwrap().idle).await;
}

#[tokio::test]
async fn of_work_that_panics() {
    let registry = profiling().build().unwrap();
    let bomb = Bomb;
    let handles = [
        registry.spawn(Task::new(async { panic!("a bug") }).named("panics")),
        registry.spawn(Task::blocking(|| panic!("a bug")).named("panics")),
        registry.spawn(Task::new(async move { drop(bomb) }).named("panics")),
    ];
    for handle in handles {
        let id = handle.id();
        assert!(matches!(handle.await, Outcome::Panicked(_)));
        assert!(!of(&registry, id).unwrap().busy.is_zero());
        assert_eq!(of(&registry, id).unwrap().polling_for, None);
    }
    assert_eq!(of_name(&registry, "panics").polls, 2);
    assert_conserved(&registry, 3);
}

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(1 << 40) };
}

fn allocate(bytes: u64) {
    ALLOCATED.set(ALLOCATED.get() + bytes);
}

#[tokio::test]
async fn allocations_are_the_difference_around_each_poll_and_closure() {
    let profile = Profile::default().slow_poll(NEVER_SLOW).allocations(|| ALLOCATED.get());
    let registry = TaskRegistry::builder().profile(profile).build().unwrap();
    let future = async {
        allocate(100);
        yield_now().await;
        allocate(20);
    };
    let handles = [
        registry.spawn(Task::new(future).named("allocates")),
        registry.spawn(Task::blocking(|| allocate(3)).named("allocates")),
        registry.spawn(Task::new(yield_twice()).named("allocates")),
    ];
    for (handle, bytes) in handles.into_iter().zip([120, 3, 0]) {
        let id = handle.id();
        allocate(7_000_000);
        handle.await;
        assert_eq!(of(&registry, id).unwrap().allocated, Some(bytes));
    }
    assert_eq!(of_name(&registry, "allocates").allocated, Some(123));
}

#[tokio::test]
async fn a_probe_that_panics_is_counted_and_changes_no_outcome() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let profile = Profile::default().slow_poll(NEVER_SLOW).allocations(move || {
        let call = counted.fetch_add(1, Ordering::Relaxed);
        assert!(call >= 2, "a bug in a probe");
        u64::from(call)
    });
    let registry = TaskRegistry::builder().profile(profile).build().unwrap();
    // The first call of the probe of each of the first two polls panics, so there is no second.
    let id = registry.spawn(yield_twice()).id();
    registry.wait_idle().await;
    let (metrics, profile) = (registry.metrics(), of(&registry, id).unwrap());
    assert_eq!((metrics.completed, metrics.hook_panics), (1, 2));
    assert_eq!((profile.polls, profile.allocated), (3, Some(1)));
    assert_eq!(calls.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn is_off_by_default() {
    let registry = TaskRegistry::new();
    let held = Arc::new(Notify::new());
    let released = held.clone();
    registry.spawn(async move { released.notified().await });
    registry.spawn(async { Err::<(), _>("refused") }).await;
    yield_now().await;
    assert!(registry.tasks()[0].profile.is_none());
    held.notify_one();
    registry.wait_idle().await;
    assert!(registry.history().iter().all(|report| report.profile.is_none()));
    assert!(registry.metrics().by_name()["unnamed"].profile.is_none());
}

#[tokio::test]
async fn a_slow_poll_of_no_time_is_an_error() {
    let built = TaskRegistry::builder().profile(Profile::default().slow_poll(Duration::ZERO)).build();
    assert_eq!(built.unwrap_err(), BuildError::ZeroSlowPoll);
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn json_has_it_only_if_it_is_on() {
    let keys = ["allocated", "busy", "cpu", "idle", "longest_poll", "polling_for", "polls", "scheduled", "slow_polls"];
    for is_on in [false, true] {
        let registry = if is_on { profiling().build().unwrap() } else { TaskRegistry::new() };
        let held = Arc::new(Notify::new());
        let released = held.clone();
        let id = registry.spawn(Task::new(async move { released.notified().await }).named("held")).id();
        registry.spawn(Task::new(yield_twice()).named("done")).await;
        let json = serde_json::to_value((registry.get(id), registry.history(), registry.metrics())).unwrap();
        let found = [&json[0], &json[1][0], &json[2]["by_name"]["done"]].map(|at| at.get("profile"));
        if !is_on {
            assert_eq!(found, [None; 3]);
            continue;
        }
        for at in &found[..2] {
            let mut found: Vec<_> = at.unwrap().as_object().unwrap().keys().collect();
            found.sort_unstable();
            assert_eq!(found, keys);
        }
        assert_eq!((&found[0].unwrap()["polls"], &found[1].unwrap()["polls"]), (&1.into(), &3.into()));
        let sums = found[2].unwrap();
        assert_eq!((&sums["polls"], &sums["cpu"]), (&3.into(), &serde_json::Value::Null));
        assert!(sums["poll"]["p50"].is_f64() && sums["schedule_delay"]["p99"].is_f64(), "{sums}");
        held.notify_one();
        registry.wait_idle().await;
    }
}
