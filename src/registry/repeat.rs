//! Repeating tasks.

use std::{panic::Location, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    model::{RepeatPolicy, TaskId},
    registry::TaskRegistry,
    task::{IntoTask, Task},
    util::{
        loom::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
        panic::catch_panic,
    },
};

impl TaskRegistry {
    /// Spawns a task repeatedly: `factory` makes the task of each run.
    ///
    /// Each run is a task of its own, with its own outcome. A run that fails or panics does not end the repetition.
    /// Neither does a panic of the factory, which is logged and counted. Runs never overlap: starts that come due
    /// during a long run are skipped. (A blocking closure that has timed out may still be running when the next run
    /// starts.) The repetition ends when a shutdown begins, or with [`RepeatHandle::stop`]. The handle is optional.
    ///
    /// Between two runs no task is live: [`wait_idle`](Self::wait_idle) and a shutdown do not wait for the next run.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::{RepeatPolicy, Task, TaskRegistry};
    ///
    /// async fn sweep() -> Result<(), std::io::Error> {
    ///     Ok(()) // remove expired entries
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let registry = TaskRegistry::new();
    /// registry.spawn_every(Duration::from_secs(60), || Task::new(sweep()).named("sweep"));
    ///
    /// // up to a minute late, so that many processes do not sweep at the same moment
    /// let policy = RepeatPolicy::every(Duration::from_secs(3600)).jitter(Duration::from_secs(60));
    /// let hourly = registry.spawn_every(policy, sweep);
    ///
    /// tokio::time::sleep(Duration::from_secs(150)).await;
    /// assert_eq!(registry.metrics().completed, 3 + 1);
    /// hourly.stop();
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_every<F, T>(&self, policy: impl Into<RepeatPolicy>, factory: F) -> RepeatHandle
    where
        F: FnMut() -> T + Send + 'static,
        T: IntoTask + 'static,
    {
        let (repetition, stopped) = Repetition::begin(self, factory, Location::caller());
        let run = Arc::clone(&repetition.run);
        self.shared.spawn(repeat(policy.into(), repetition, stopped));
        RepeatHandle { run }
    }
}

/// The handle of a [repeating task](TaskRegistry::spawn_every), also of one with a `Schedule`. Dropping it does not end
/// the repetition.
#[derive(Clone, Debug)]
pub struct RepeatHandle {
    pub(crate) run: Arc<Run>,
}

impl RepeatHandle {
    /// Starts no further run. The current run is not stopped.
    pub fn stop(&self) {
        self.run.stop.cancel();
    }

    /// Starts no further run, and [aborts](TaskRegistry::abort) the current one.
    pub fn abort(&self) {
        self.stop();
        // SeqCst, here and in `repeat`: either the new run's id is seen here, or this store is seen there.
        self.run.aborted.store(true, Ordering::SeqCst);
        self.run.abort_current();
    }

    /// Whether no further run will start.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.run.stop.is_cancelled()
    }
}

/// The state that a repetition and its handles share.
#[derive(Debug)]
pub(crate) struct Run {
    registry: TaskRegistry,
    stop: CancellationToken,
    aborted: AtomicBool,
    current: Mutex<Option<TaskId>>,
}

impl Run {
    #[cfg(feature = "cron")]
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until the next run; `false` if the repetition is stopped before.
    pub(crate) async fn wait(&self, duration: Duration) -> bool {
        let sleep = self.registry.shared.timer.sleep(duration);
        self.stop.run_until_cancelled(sleep).await.is_some()
    }

    pub(crate) fn log(&self, event: impl FnOnce()) {
        self.registry.shared.telemetry.log(event);
    }

    fn abort_current(&self) {
        let current = *self.current.lock();
        if let Some(id) = current {
            self.registry.abort(id);
        }
    }
}

/// What a repetition runs.
pub(crate) struct Repetition<F> {
    pub(crate) run: Arc<Run>,
    pub(crate) location: &'static Location<'static>,
    factory: F,
}

impl<F, T> Repetition<F>
where
    F: FnMut() -> T,
    T: IntoTask,
{
    /// The guard is to be dropped at any end of the repetition, also with its runtime, so that the handle is up to
    /// date.
    pub(crate) fn begin(
        registry: &TaskRegistry,
        factory: F,
        location: &'static Location<'static>,
    ) -> (Self, DropGuard) {
        let run = Arc::new(Run {
            registry: registry.clone(),
            stop: registry.shared.losses.stopping().child_token(),
            aborted: AtomicBool::new(false),
            current: Mutex::default(),
        });
        if run.stop.is_cancelled() {
            run.log(|| {
                tracing::warn!(target: "postlude", %location, "the registry is shut down, so the task will not be repeated");
            });
        }
        let stopped = run.stop.clone().drop_guard();
        (Self { run, location, factory }, stopped)
    }

    /// Runs the task once, to its outcome.
    pub(crate) async fn run_once(&mut self) {
        let Self { run, location, factory } = self;
        let task = match catch_panic(|| Task::made_at(location, factory())) {
            Ok(task) => task,
            Err(panic) => {
                run.registry.shared.telemetry.hook_panicked("the factory of a repeating task", None, &panic);
                return;
            }
        };
        let handle = run.registry.spawn(task);
        *run.current.lock() = Some(handle.id());
        if run.aborted.load(Ordering::SeqCst) {
            run.abort_current();
        }
        handle.await;
    }
}

async fn repeat<F, T>(policy: RepeatPolicy, mut repetition: Repetition<F>, _stopped: DropGuard)
where
    F: FnMut() -> T,
    T: IntoTask,
{
    let start = Instant::now();
    let mut last = None;
    loop {
        let beat = policy.next_beat(last, start.elapsed());
        let due = beat.saturating_add(policy.random_jitter(fastrand::f64()));
        if !repetition.run.wait(due.saturating_sub(start.elapsed())).await {
            return;
        }
        last = Some(beat);
        repetition.run_once().await;
    }
}
