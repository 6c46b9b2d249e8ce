//! The builder of a registry.

use std::{fmt, sync::Arc, time::Duration};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::{
    engine::{
        abandoned::Abandoned,
        drain::Drain,
        guards::Guards,
        name_policies::NamePolicies,
        requests::Requests,
        set_queue::SetQueue,
        shared::{FLUSH_DELAY, Shared, Timer},
        stuck_watch::StuckWatch,
        time_limit,
    },
    ledger::{
        Ledger,
        dead_letters::{DeadLetterHook, DeadLetterStore},
        losses::Losses,
    },
    limits::{self, AdmissionControl, Limits},
    model::{BoxError, BuildError, DeadLetter, NamePolicy, Profile, TaskInfo, TaskName, TaskReport},
    registry::{
        TaskRegistry,
        watch::{self, WatchLimits},
    },
    telemetry::{
        Telemetry,
        observer::{OnFailure, TaskObserver},
        span::SpanRelation,
        wrap::{StepDone, TaskStep},
    },
    util::loom::atomic::AtomicU64,
};

/// Builds a [`TaskRegistry`].
///
/// # Default
/// - [`capacity`](Self::capacity): none; a warning is logged at 10,000 live tasks and at each doubling
/// - [`max_concurrent`](Self::max_concurrent): none
/// - [`max_blocking`](Self::max_blocking): 64
/// - [`max_cpu`](Self::max_cpu): the number of cores
/// - [`limit_by_name`](Self::limit_by_name), [`limit_by_key`](Self::limit_by_key), `rate_limit`: none for any name
/// - [`promote_after`](Self::promote_after): 10 s
/// - [`default_timeout`](Self::default_timeout): none; [`policy`](Self::policy): none for any name
/// - [`settle`](Self::settle): 1 s
/// - [`warn_running_after`](Self::warn_running_after), [`warn_open_after`](Self::warn_open_after): never
/// - [`profile`](Self::profile): none
/// - [`admit`](Self::admit): every task; [`wrap`](Self::wrap): none
/// - [`on_failure`](Self::on_failure), [`observe`](Self::observe): none; failures are always logged
/// - [`history`](Self::history): the last 1,024 outcomes
/// - [`spans`](Self::spans): [`SpanRelation::FollowsFrom`]
/// - [`span_level`](Self::span_level): `DEBUG`
/// - [`dead_letters`](Self::dead_letters): 1,000; [`on_dead_letter`](Self::on_dead_letter): none
/// - [`handle`](Self::handle): the runtime in which [`build`](Self::build) is called
///
/// What concerns requests, such as `drain_within`, is set on `TaskLayer`.
///
/// ```
/// use std::time::Duration;
/// use postlude::TaskRegistry;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), postlude::BuildError> {
/// let registry = TaskRegistry::builder()
///     .capacity(10_000)
///     .max_concurrent(200)
///     .default_timeout(Duration::from_secs(300))
///     .on_failure(|report| eprintln!("{} {}", report.name, report.outcome))
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct TaskRegistryBuilder {
    capacity: Option<usize>,
    pub(crate) limits: Limits,
    default_timeout: Option<Duration>,
    name_policies: Vec<(TaskName, NamePolicy)>,
    settle: Duration,
    telemetry: Telemetry,
    history: usize,
    dead_letters: usize,
    on_dead_letter: Option<Box<DeadLetterHook>>,
    watch: WatchLimits,
    profile: Option<Profile>,
    handle: Option<Handle>,
    pub(crate) spawn_drain: fn(&Arc<SetQueue>),
}

impl TaskRegistryBuilder {
    /// The highest number of live tasks, pending and running together. Further tasks are discarded, or handed back by
    /// the `try_` methods.
    pub fn capacity(mut self, tasks: usize) -> Self {
        self.capacity = Some(tasks);
        self
    }

    /// How many async tasks may run at a time. The others wait for a permit, by [priority](crate::Priority), then first
    /// in, first out.
    pub fn max_concurrent(mut self, tasks: usize) -> Self {
        self.limits.max_concurrent = Some(tasks);
        self
    }

    /// How many blocking tasks may run at a time, independent of async ones. Each uses one of the runtime's blocking
    /// threads (512 by default), so a limit above that number has no effect: tasks then wait for a thread.
    pub fn max_blocking(mut self, tasks: usize) -> Self {
        self.limits.max_blocking = tasks;
        self
    }

    /// How many [CPU tasks](crate::Task::cpu) may run at a time, independent of async and blocking ones. Each uses one
    /// of the runtime's blocking threads while it runs.
    pub fn max_cpu(mut self, tasks: usize) -> Self {
        self.limits.max_cpu = tasks;
        self
    }

    /// How many tasks of this name may run at a time, of any kind, in addition to the limit on their kind. The others
    /// wait for a permit, and hold no other permit meanwhile.
    ///
    /// ```
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// // One thumbnail and two reports at a time.
    /// let registry = TaskRegistry::builder()
    ///     .limit_by_name("thumbnail", 1)
    ///     .limit_by_name("report", 2)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit_by_name(mut self, name: impl Into<TaskName>, tasks: usize) -> Self {
        self.limits.by_name.push((name.into(), tasks));
        self
    }

    /// How many tasks of this name may run at a time for each [key](crate::Task::key), of any kind, in addition to the
    /// other limits. Tasks of this name without a key are not limited by it.
    ///
    /// The others wait for a permit of their key, and hold no other permit meanwhile. Within a key and a priority, the
    /// task that came first goes first. A task takes its place among those that wait for the other limits when it has
    /// the permit of its key. So at most this many tasks of each key wait there, and a key with many tasks does not
    /// delay one with few. A permit is held until the work has really returned. The keys may be many: a key uses memory
    /// only while a task of it is live.
    ///
    /// ```
    /// use postlude::{Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// // Eight exports at a time, and two of each customer.
    /// let registry = TaskRegistry::builder()
    ///     .limit_by_name("export", 8)
    ///     .limit_by_key("export", 2)
    ///     .build()?;
    /// registry.spawn(Task::new(async { /* write the file */ }).named("export").key("customer-17"));
    /// # registry.wait_idle().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit_by_key(mut self, name: impl Into<TaskName>, tasks: usize) -> Self {
        self.limits.by_key.push((name.into(), tasks));
        self
    }

    /// Feature `rate-limit`.
    /// How often tasks of this name may start. Tasks that are too early wait, without a permit.
    ///
    /// ```
    /// use postlude::{RateLimit, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// let limit = RateLimit::per_minute(100).burst(10);
    /// let registry = TaskRegistry::builder().rate_limit("webhook", limit).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "rate-limit")]
    pub fn rate_limit(mut self, name: impl Into<TaskName>, limit: crate::model::RateLimit) -> Self {
        self.limits.rates.push((name.into(), limit));
        self
    }

    /// The waiting time after which a task is promoted by one [priority](crate::Priority), so that no task starves.
    ///
    /// The default of 10 s is longer than most tasks run, so that priorities have an effect, and still acceptable for
    /// most tasks of low priority. With zero, priorities have no effect. With `Duration::MAX` tasks are never promoted,
    /// and under constant load tasks of low priority may wait forever.
    pub fn promote_after(mut self, wait: Duration) -> Self {
        self.limits.promote_after = wait;
        self
    }

    /// The time limit for attempts of tasks without a [`timeout`](crate::Task::timeout) of their own.
    pub fn default_timeout(mut self, limit: Duration) -> Self {
        self.default_timeout = Some(limit);
        self
    }

    /// What holds for the tasks of one name that say nothing else: a time limit, a time within which they must start, and
    /// how they are retried. What a task itself sets is used in place of it, and it in place of what the registry sets
    /// for all names.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::{NamePolicy, RetryPolicy, Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// # async fn deliver() -> Result<(), std::io::Error> { Err(std::io::Error::other("receiver is down")) }
    /// let webhook = NamePolicy::default()
    ///     .timeout(Duration::from_secs(10))
    ///     .retry(RetryPolicy::exponential().attempts(8));
    /// let registry = TaskRegistry::builder().policy("webhook", webhook).build()?;
    ///
    /// // `default` is the policy of the name. A policy that a task makes itself is used in place of it.
    /// registry.spawn(Task::retrying(RetryPolicy::default(), deliver).named("webhook")).await;
    /// assert_eq!(registry.metrics().retries, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The policy of a task is looked for when it is added, so it must have its name by then. Each task of a name with
    /// a policy costs one look-up and one allocation more; others, and a registry without policies, nothing. How many
    /// tasks of a name may run, and how often, is set by [`limit_by_name`](Self::limit_by_name), `rate_limit` and
    /// [`limit_by_key`](Self::limit_by_key).
    pub fn policy(mut self, name: impl Into<TaskName>, policy: NamePolicy) -> Self {
        self.name_policies.push((name.into(), policy));
        self
    }

    /// How long a shutdown waits, after its deadline, between cancelling tasks and the report. Tasks that wait for a
    /// permit can still start meanwhile. The last tenth of this time, and at least 50 ms of it, is reserved for aborted
    /// tasks to be dropped: tasks that are not dropped in time are reported as stuck. Zero aborts and reports at once.
    pub fn settle(mut self, duration: Duration) -> Self {
        self.settle = duration;
        self
    }

    /// Sets the admission filter, which is called for every task before it is accepted. A task for which it returns an
    /// error is refused.
    ///
    /// A refused task ends as [`DiscardReason::Refused`](crate::DiscardReason::Refused), or is handed back by the
    /// `try_` methods. The error is in the log, in the [`TaskReport`], and the source of [`Rejected`](crate::Rejected).
    ///
    /// ```
    /// use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
    /// use postlude::{DiscardReason, Outcome, Task, TaskInfo, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// let maintenance = Arc::new(AtomicBool::new(true));
    /// let is_on = Arc::clone(&maintenance);
    /// let registry = TaskRegistry::builder()
    ///     .admit(move |task: &TaskInfo| match task.name.as_str() {
    ///         "report" if is_on.load(Ordering::Relaxed) => Err("maintenance".into()),
    ///         _ => Ok(()),
    ///     })
    ///     .build()?;
    ///
    /// let outcome = registry.spawn(Task::new(async {}).named("report")).await;
    /// assert!(matches!(outcome, Outcome::Discarded(DiscardReason::Refused)));
    /// let refused = registry.try_spawn(Task::new(async {}).named("report")).unwrap_err();
    /// let source = std::error::Error::source(&refused).unwrap();
    /// assert_eq!(source.to_string(), "maintenance");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The filter is called on the thread that adds the task, often in a handler, so it must not block. It is called
    /// before the [capacity](Self::capacity) is checked, so a task that the filter accepts may still be refused. If the
    /// filter panics, the panic is caught and counted, and the task is accepted. Tasks that the filter itself adds are
    /// accepted without calling it.
    pub fn admit(mut self, filter: impl Fn(&TaskInfo) -> Result<(), BoxError> + Send + Sync + 'static) -> Self {
        self.telemetry.filter = Some(Box::new(filter));
        self
    }

    /// Runs the work of every task inside a wrapper, which makes a context current: task-locals, a Sentry hub, an
    /// OpenTelemetry context, a `tracing` span.
    ///
    /// `make` is called for each task when it is added or spawned, on the thread and in the context of the caller, with
    /// the new task. There it takes what it needs, and returns the wrapper of the task. The wrapper is called for each
    /// [step](TaskStep) of the task: it runs the step and returns what that returned.
    ///
    /// ```
    /// use postlude::{TaskInfo, TaskRegistry};
    ///
    /// tokio::task_local! {
    ///     static TENANT: String;
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// // Each task sees the tenant of the code that added it.
    /// let registry = TaskRegistry::builder()
    ///     .wrap(|_task: &TaskInfo| {
    ///         let tenant = TENANT.try_get().unwrap_or_default();
    ///         move |step| TENANT.sync_scope(tenant.clone(), || step.run())
    ///     })
    ///     .build()?;
    ///
    /// let spawn = async { registry.spawn(async { assert_eq!(TENANT.get(), "north") }) };
    /// let task = TENANT.scope("north".into(), spawn).await;
    /// assert!(task.await.is_completed());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The steps are each poll of a future, the call of a closure, the call of the factory of a
    /// [retrying](crate::Task::retrying) task before each attempt, and the drop of work that has started. All attempts
    /// of a task have the same wrapper. A replayed dead letter is added anew. Work that never starts may be dropped
    /// without it, and hooks, conditions and observers are not a part of the work. The `tracing` span of the task, if
    /// there is one, is current outside the wrapper.
    ///
    /// Several wrappers nest: the first that is set is the outermost. A wrapper must not block. It may be called on two
    /// threads at a time, if a closure has been abandoned and the next attempt runs. A panic of `make` or of a wrapper
    /// is caught and counted, and the task runs without that wrapper. Tasks that `make` itself adds have no wrapper.
    /// With a wrapper, each task costs a few more allocations; without one, nothing.
    ///
    /// This is not a `tower::Layer`: a layer wraps a service, of which each request is one call that returns one
    /// future. A task has no request, and its work is a future, a closure, or a factory of either, which is boxed with
    /// the task's data in one allocation. So the wrapper does not change the type of the work; it is called around it.
    pub fn wrap<W>(mut self, make: impl Fn(&TaskInfo) -> W + Send + Sync + 'static) -> Self
    where
        W: Fn(TaskStep<'_>) -> StepDone + Send + Sync + 'static,
    {
        self.telemetry.push_wrapper(make);
        self
    }

    /// Calls `hook` with the report of every task whose outcome is not [`Completed`](crate::Outcome::Completed), after
    /// it was counted. This includes tasks that were discarded on request; a hook that alerts people can
    /// [filter them out](crate::Outcome::is_loss).
    ///
    /// ```
    /// use postlude::{TaskRegistry, TaskReport};
    ///
    /// fn alert(report: &TaskReport) {
    ///     eprintln!("task {} `{}` {}", report.id, report.name, report.outcome);
    /// }
    ///
    /// let builder = TaskRegistry::builder().on_failure(|report| {
    ///     if report.outcome.is_loss() {
    ///         alert(report);
    ///     }
    /// });
    /// # drop(builder);
    /// ```
    ///
    /// The hook is called like an [observer](Self::observe), for failures only. It must not block. A panic is caught
    /// and counted. It may spawn tasks; it is not called for tasks that end on its own thread while it runs. Each call
    /// of this method adds another hook.
    ///
    /// A hook that holds a clone of the registry keeps the registry's memory until the process ends. It has no other
    /// effect.
    pub fn on_failure(mut self, hook: impl Fn(&TaskReport) + Send + Sync + 'static) -> Self {
        self.telemetry.push(Arc::new(OnFailure(hook)), false);
        self
    }

    /// Adds an observer, which is notified of the events of every task: see [`TaskObserver`]. Observers are called in
    /// the order in which they were added.
    ///
    /// ```
    /// use postlude::{TaskRegistry, TaskReport};
    ///
    /// let print = |report: &TaskReport| println!("{} {}", report.id, report.outcome);
    /// let builder = TaskRegistry::builder().observe(print);
    /// # drop(builder);
    /// ```
    pub fn observe(mut self, observer: impl TaskObserver) -> Self {
        self.telemetry.push(Arc::new(observer), true);
        self
    }

    /// How the `tracing` span of a task is related to the span in which the task was added, usually the request's: see
    /// [`SpanRelation`].
    pub fn spans(mut self, relation: SpanRelation) -> Self {
        self.telemetry.spans.relation = relation;
        self
    }

    /// The level of the `tracing` spans of tasks. The default is `DEBUG`, as for the request spans of tower-http.
    ///
    /// A span is made only if a subscriber is interested in its level: a service that logs at `INFO` makes none, and
    /// does not pay for them. The log event of a task that did not complete has the task's id, name, location and set
    /// itself. With `INFO`, what a task itself logs shows its id and name, too, and a trace shows the task.
    ///
    /// ```
    /// use postlude::TaskRegistry;
    /// use tracing::Level;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// let registry = TaskRegistry::builder().span_level(Level::INFO).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn span_level(mut self, level: Level) -> Self {
        self.telemetry.spans.level = level;
        self
    }

    /// The number of remembered outcomes, for [`TaskRegistry::get`] and [`TaskRegistry::history`].
    ///
    /// Each outcome takes about two hundred bytes, and keeps the error of a failed task. Each of the registry's shards,
    /// of which there are about two per core, may hold this number of outcomes.
    pub fn history(mut self, outcomes: usize) -> Self {
        self.history = outcomes;
        self
    }

    /// The number of [dead letters](crate::DeadLetters) that are kept. Zero keeps none.
    ///
    /// The dead letter of a [retrying](crate::Task::retrying) task keeps everything that the task's factory has
    /// captured.
    pub fn dead_letters(mut self, letters: usize) -> Self {
        self.dead_letters = letters;
        self
    }

    /// Calls `hook` with each dead letter, after the letter is in the [list](crate::TaskRegistry::dead_letters) and
    /// after [`on_failure`](Self::on_failure), whose rules also apply to this hook. The hook is not called if no dead
    /// letters are kept.
    pub fn on_dead_letter(mut self, hook: impl Fn(&DeadLetter) + Send + Sync + 'static) -> Self {
        self.on_dead_letter = Some(Box::new(hook));
        self
    }

    /// Logs a warning if an attempt has been running for this long, and again at each doubling: a task that hangs, if
    /// it has no [time limit](Self::default_timeout).
    ///
    /// The age is checked about twice within this time, at most every 100 ms and at least once a minute, by a look at
    /// all live tasks that yields after every hundred. With paused time, the clock may advance by the waits in between.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// let registry = TaskRegistry::builder()
    ///     .warn_running_after(Duration::from_secs(600))
    ///     .warn_open_after(Duration::from_secs(60))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn warn_running_after(mut self, age: Duration) -> Self {
        self.watch.running = Some(age);
        self
    }

    /// The same for a set in which a task has been waiting for this long, because its request is in progress, or its
    /// response is held by a client that does not take it, or by a body that does not end.
    pub fn warn_open_after(mut self, age: Duration) -> Self {
        self.watch.open = Some(age);
        self
    }

    /// Measures what the polls and the closures of the tasks take: see [`TaskProfile`](crate::TaskProfile) for the
    /// figures of a task, [`NameProfile`](crate::NameProfile) for those of a name, and [`Profile`] for the settings.
    ///
    /// It also tells which task blocks the runtime. A poll that takes [`slow_poll`](Profile::slow_poll) or longer is
    /// logged as a warning, with the name and the location of its task. A poll that does not return is logged while it
    /// lasts, once and at each doubling of its time, by a thread that runs as long as the registry. A closure does not
    /// block the runtime, so it is measured, but never slow.
    ///
    /// ```
    /// use std::time::Duration;
    /// use postlude::{Profile, Task, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// let registry = TaskRegistry::builder().profile(Profile::default()).build()?;
    /// let blocks = Task::new(async { std::thread::sleep(Duration::from_millis(150)) });
    /// registry.spawn(blocks.named("report")).await; // logged as a slow poll
    ///
    /// let report = registry.history().remove(0);
    /// let profile = report.profile.unwrap();
    /// assert_eq!((profile.polls, profile.slow_polls), (1, 1));
    /// assert!(profile.longest_poll >= Duration::from_millis(150));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Each attempt then costs some allocations, and each poll some hundred nanoseconds, so it is off by default.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// The runtime on which the tasks run.
    pub fn handle(mut self, handle: Handle) -> Self {
        self.handle = Some(handle);
        self
    }

    /// Builds the registry.
    ///
    /// # Errors
    /// Returns an error if
    /// - a limit, an age, a time limit, the time for a start or the time of a slow poll is zero, a limit is too high, or a
    ///   name has two limits of the same kind or two policies,
    /// - there is no tokio runtime: call this inside one, or pass its [`handle`](Self::handle),
    /// - the runtime has no timer: build it with `enable_time()`,
    /// - there is no thread for the watchdog of [`profile`](Self::profile).
    pub fn build(mut self) -> Result<TaskRegistry, BuildError> {
        let Some(handle) = self.handle.or_else(|| Handle::try_current().ok()) else {
            return Err(BuildError::NoRuntime);
        };
        if !Timer::has_timer(&handle) {
            return Err(BuildError::NoTimer);
        }
        limits::check("capacity", self.capacity)?;
        if self.default_timeout == Some(Duration::ZERO) {
            return Err(BuildError::ZeroTimeout);
        }
        self.watch.check()?;
        if self.profile.as_ref().is_some_and(|profile| profile.slow_poll.is_zero()) {
            return Err(BuildError::ZeroSlowPoll);
        }
        let admission = AdmissionControl::new(&self.limits)?;
        if let Some(profile) = &self.profile {
            self.telemetry.start_profiler(profile).map_err(|_| BuildError::NoThread)?;
        }
        let shared = Shared {
            ledger: Ledger::new(self.capacity.map(|capacity| capacity as u64), self.history),
            admission,
            timer: Timer::new(handle.clone(), FLUSH_DELAY, time_limit::expire),
            handle,
            spawn_drain: self.spawn_drain,
            abandoned: Abandoned::default(),
            stuck_watch: StuckWatch::default(),
            requests: Requests::default(),
            guards: Guards::default(),
            default_timeout: self.default_timeout,
            name_policies: NamePolicies::new(self.name_policies)?,
            settle_time: self.settle,
            telemetry: self.telemetry,
            dead_letters: DeadLetterStore::new(self.dead_letters, self.on_dead_letter),
            losses: Losses::default(),
            shed: AtomicU64::new(0),
            token: CancellationToken::new(),
        };
        let shared = Arc::new(shared);
        #[cfg(not(all(test, postlude_loom)))]
        shared.watch_runtime();
        let registry = TaskRegistry { shared };
        watch::start(&registry, self.watch);
        Ok(registry)
    }
}

impl Default for TaskRegistryBuilder {
    fn default() -> Self {
        Self {
            capacity: None,
            limits: Limits::default(),
            default_timeout: None,
            name_policies: Vec::new(),
            settle: Duration::from_secs(1),
            telemetry: Telemetry::default(),
            history: 1024,
            dead_letters: 1_000,
            on_dead_letter: None,
            watch: WatchLimits::default(),
            profile: None,
            handle: None,
            spawn_drain: Drain::spawn,
        }
    }
}

impl fmt::Debug for TaskRegistryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskRegistryBuilder")
            .field("capacity", &self.capacity)
            .field("limits", &self.limits)
            .field("default_timeout", &self.default_timeout)
            .field("settle", &self.settle)
            .field("history", &self.history)
            .field("dead_letters", &self.dead_letters)
            .finish_non_exhaustive()
    }
}
