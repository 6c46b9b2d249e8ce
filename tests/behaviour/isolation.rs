//! A task that ends harms nothing but itself: what is stopped is gone before the next task starts, and observers are notified
//! before that.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use postlude::{Outcome, RetryPolicy, Task, TaskInfo, TaskObserver, TaskRegistry, TaskReport};
use tokio::runtime::Builder;

use crate::support::{Journal, assert_conserved, until};

/// Alive as long as the future that holds it.
struct Alive(Arc<AtomicBool>);

impl Alive {
    fn new(alive: &Arc<AtomicBool>) -> Self {
        alive.store(true, Ordering::SeqCst);
        Self(Arc::clone(alive))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

mod stopped {
    use super::*;

    /// Ends the first task of a set by `end`, and tells whether the second one found its future alive.
    async fn next_finds_it_alive(registry: TaskRegistry, first: impl Fn(Task) -> Task, aborts: bool) -> bool {
        let (alive, found) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let set = registry.set();
        let held = Arc::clone(&alive);
        let id = set.add(first(Task::new(async move {
            let _alive = Alive::new(&held);
            pending::<()>().await;
        })));
        let (is_alive, tell) = (Arc::clone(&alive), Arc::clone(&found));
        set.add(async move { tell.store(is_alive.load(Ordering::SeqCst), Ordering::SeqCst) });
        let drained = set.drain();
        if aborts {
            until(|| alive.load(Ordering::SeqCst)).await;
            assert!(registry.abort(id));
        }
        let report = drained.await;
        assert_eq!((report.completed, report.total()), (1, 2));
        assert!(!alive.load(Ordering::SeqCst));
        found.load(Ordering::SeqCst)
    }

    // One thread: no task is inside a poll when its time is over or it is aborted.
    #[tokio::test]
    async fn by_timeout_is_gone_before_the_next_starts() {
        for _ in 0..50 {
            let limit = |task: Task| task.timeout(Duration::from_millis(1));
            assert!(!next_finds_it_alive(TaskRegistry::new(), limit, false).await);
        }
    }

    #[tokio::test]
    async fn by_abort_is_gone_before_the_next_starts() {
        for round in 0..200 {
            let builder = TaskRegistry::builder();
            // Also with a permit, and so with a policy around the future.
            let builder = if round % 2 == 0 { builder } else { builder.max_concurrent(1) };
            assert!(!next_finds_it_alive(builder.build().unwrap(), |task| task, true).await);
        }
    }

    /// The permit of a task that has timed out is released after its future was dropped.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn is_gone_before_its_permit_is_released() {
        let registry = TaskRegistry::builder().max_concurrent(1).build().unwrap();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        struct Running(Arc<AtomicUsize>);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        for _ in 0..50 {
            let (now, most) = (now.clone(), most.clone());
            let hang = async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let _running = Running(now);
                pending::<()>().await;
            };
            registry.spawn(Task::new(hang).timeout(Duration::from_millis(1)));
        }
        registry.wait_idle().await;
        assert_eq!((registry.metrics().timed_out, most.load(Ordering::SeqCst)), (50, 1));
    }

    /// A future that is inside a poll at its time limit can't be dropped: it is counted, and its set goes on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn inside_a_poll_is_abandoned_and_the_set_goes_on() {
        for retries in [false, true] {
            let registry = TaskRegistry::new();
            let (release, held) = mpsc::channel::<()>();
            let held = Arc::new(Mutex::new(held));
            let block = move || {
                let held = Arc::clone(&held);
                async move {
                    // Blocks its worker, as no async task should.
                    held.lock().unwrap().recv().unwrap_err();
                    pending::<()>().await;
                }
            };
            let policy = RetryPolicy::constant(Duration::ZERO).attempts(2);
            let task = if retries { Task::retrying(policy, block) } else { Task::new(block()) };
            let set = registry.set();
            let next = Journal::default();
            set.add(task.timeout(Duration::from_millis(5)));
            set.add(next.task("next"));
            let drained = set.drain();
            until(|| next.read() == ["next"]).await;
            assert_eq!(registry.metrics().timed_out, u64::from(!retries), "a retry waits until the poll returns");
            drop(release);
            let report = drained.await;
            assert_eq!((report.timed_out, report.completed), (1, 1));
            registry.wait_idle().await;
            assert_eq!(registry.metrics().retries, u64::from(retries));
            until(|| registry.metrics().stuck == 0).await;
            assert_conserved(&registry, 2);
        }
    }

    /// A closure that never got a thread is dropped, with its permit.
    #[test]
    fn before_it_got_a_thread_is_dropped_with_its_permit() {
        let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
        let registry = TaskRegistry::builder().max_blocking(1).handle(runtime.handle().clone()).build().unwrap();
        runtime.block_on(async {
            let (release, held) = mpsc::channel::<()>();
            let hog = tokio::task::spawn_blocking(move || held.recv().unwrap_err());
            let alive = Arc::new(AtomicBool::new(false));
            let held = Alive::new(&alive);
            let waiting = registry.spawn(Task::blocking(move || drop(held)).timeout(Duration::from_secs(3600)));
            // Its task acquires the permit, and waits for a thread.
            tokio::task::yield_now().await;
            assert!(waiting.abort());
            until(|| !alive.load(Ordering::SeqCst)).await;
            assert_eq!(registry.metrics().stuck, 0);
            let next = registry.spawn(Task::blocking(|| {}));
            drop(hog);
            drop(release);
            let next = tokio::time::timeout(Duration::from_secs(30), next).await.expect("it gets the permit");
            assert!(matches!(next, Outcome::Completed));
        });
        assert_conserved(&registry, 2);
    }
}

mod notified {
    use super::*;

    /// Aborts the next task when it is notified of the end of the one before, and takes its time.
    struct Aborter {
        registry: Mutex<Option<TaskRegistry>>,
        started: Journal,
    }

    impl TaskObserver for Aborter {
        fn started(&self, task: &TaskInfo) {
            self.started.note(task.name.as_str());
        }

        fn finished(&self, report: &TaskReport) {
            if report.name == "first" {
                assert_eq!(self.started.read(), ["first"], "the next one has not started");
                let registry = self.registry.lock().unwrap().clone().unwrap();
                assert_eq!(registry.abort_named("second"), 1);
            }
        }
    }

    #[tokio::test]
    async fn of_an_end_before_the_next_starts() {
        for fails in [false, true] {
            let started = Journal::default();
            let aborter = Arc::new(Aborter { registry: Mutex::default(), started: started.clone() });
            let registry = TaskRegistry::builder().observe(Arc::clone(&aborter)).build().unwrap();
            *aborter.registry.lock().unwrap() = Some(registry.clone());
            let set = registry.set();
            set.add(Task::new(async move { if fails { Err("no") } else { Ok(()) } }).named("first"));
            set.add(Task::new(async {}).named("second"));
            set.add(Task::new(async {}).named("third"));
            let report = set.drain().await;
            assert_eq!((report.aborted, report.total()), (1, 3));
            assert_eq!(started.read(), ["first", "third"]);
            *aborter.registry.lock().unwrap() = None;
        }
    }

    /// An observer aborts a task when it is notified of its start: the work is never polled.
    #[tokio::test]
    async fn of_a_start_before_the_first_poll() {
        struct Refuse(Mutex<Option<TaskRegistry>>);
        impl TaskObserver for Refuse {
            fn started(&self, task: &TaskInfo) {
                assert!(self.0.lock().unwrap().clone().unwrap().abort(task.id));
            }
        }
        let refuse = Arc::new(Refuse(Mutex::default()));
        let registry = TaskRegistry::builder().observe(Arc::clone(&refuse)).build().unwrap();
        *refuse.0.lock().unwrap() = Some(registry.clone());
        let journal = Journal::default();
        let set = registry.set();
        for _ in 0..3 {
            set.add(journal.task("polled"));
        }
        assert_eq!(set.drain().await.aborted, 3);
        assert!(matches!(registry.spawn(journal.task("polled")).await, Outcome::Aborted));
        assert!(journal.read().is_empty());
        assert_conserved(&registry, 4);
        *refuse.0.lock().unwrap() = None;
    }
}

#[cfg(feature = "rate-limit")]
mod order {
    use postlude::RateLimit;

    use super::*;

    fn runtime(workers: usize) -> tokio::runtime::Runtime {
        let mut builder = if workers == 0 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        if workers > 0 {
            builder.worker_threads(workers);
        }
        builder.enable_all().build().unwrap()
    }

    /// First in, first out, through the rate, the limit of the name and that of the kind.
    #[test]
    fn is_kept_through_a_rate_and_limits() {
        for workers in [0, 2] {
            let runtime = runtime(workers);
            for limit in
                [RateLimit::per_second(2_000).burst(1), RateLimit::per_second(50_000), RateLimit::per_second(500)]
            {
                let builder = TaskRegistry::builder().rate_limit("x", limit).limit_by_name("x", 1).max_concurrent(2);
                let registry = builder.handle(runtime.handle().clone()).build().unwrap();
                let journal = Journal::default();
                runtime.block_on(async {
                    for number in 0..20_usize {
                        let journal = journal.clone();
                        registry.spawn(Task::new(async move { journal.note(format!("{number:02}")) }).named("x"));
                        // Others compete for the permits of the kind.
                        registry.spawn(tokio::task::yield_now());
                    }
                    registry.wait_idle().await;
                });
                let order = journal.read();
                assert!(order.is_sorted() && order.len() == 20, "{workers} workers, {limit:?}: {order:?}");
            }
        }
    }
}

mod permits {
    use std::{
        pin::Pin,
        task::{Context, Poll},
        thread,
        time::Instant,
    };

    use super::*;

    /// A future that is done at once, and whose drop takes its time.
    struct SlowToDrop {
        is_alive: Arc<AtomicBool>,
        next_has_started: Arc<AtomicBool>,
    }

    impl Future for SlowToDrop {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }

    impl Drop for SlowToDrop {
        fn drop(&mut self) {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(20) && !self.next_has_started.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            self.is_alive.store(false, Ordering::SeqCst);
        }
    }

    #[test]
    fn are_released_after_the_future_was_dropped() {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let one = || TaskRegistry::builder().limit_by_name("one", 1);
            for registry in [one().build().unwrap(), one().max_concurrent(1).build().unwrap()] {
                let (is_alive, next_has_started) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
                let first =
                    SlowToDrop { is_alive: Arc::clone(&is_alive), next_has_started: Arc::clone(&next_has_started) };
                registry.spawn(Task::new(first).named("one"));
                let next = async move {
                    next_has_started.store(true, Ordering::SeqCst);
                    if is_alive.load(Ordering::SeqCst) { Err("the first future is alive") } else { Ok(()) }
                };
                let outcome = registry.spawn(Task::new(next).named("one")).await;
                assert!(outcome.is_completed(), "{outcome}");
            }
        });
    }
}
