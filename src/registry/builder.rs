//! Limits and hooks of a registry.

use std::{fmt, sync::Arc, time::Duration};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{
        abandoned::Abandoned,
        drain::Drain,
        limit,
        queue::SetQueue,
        requests::Requests,
        shared::{FLUSH_DELAY, Shared, Timer},
    },
    ledger::{
        Ledger,
        dead_letters::{DeadLetterHook, DeadLetterStore},
        losses::Losses,
    },
    limits::{self, AdmissionControl, Limits},
    model::{BoxError, BuildError, DeadLetter, TaskInfo, TaskName, TaskReport},
    registry::TaskRegistry,
    telemetry::{
        Telemetry,
        observer::{OnFailure, TaskObserver},
        span::SpanRelation,
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
/// - [`limit_by_name`](Self::limit_by_name), `rate_limit`: none for any name
/// - [`promote_after`](Self::promote_after): 10 s
/// - [`default_timeout`](Self::default_timeout): none
/// - [`settle`](Self::settle): 1 s
/// - [`admit`](Self::admit): every task
/// - [`on_failure`](Self::on_failure), [`observe`](Self::observe): none; failures are logged all the same
/// - [`history`](Self::history): the last 1,024 outcomes
/// - [`spans`](Self::spans): follow from the request's
/// - [`dead_letters`](Self::dead_letters): 1,000; [`on_dead_letter`](Self::on_dead_letter): none
/// - [`handle`](Self::handle): the runtime in which [`build`](Self::build) is called
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
    limits: Limits,
    default_timeout: Option<Duration>,
    settle: Duration,
    telemetry: Telemetry,
    history: usize,
    dead_letters: usize,
    on_dead_letter: Option<Box<DeadLetterHook>>,
    handle: Option<Handle>,
    pub(crate) spawn_drain: fn(Arc<SetQueue>),
}

impl TaskRegistryBuilder {
    /// How many tasks may be live, pending and running together. What comes on top is discarded, or handed
    /// back by the `try_` methods.
    pub fn capacity(mut self, tasks: usize) -> Self {
        self.capacity = Some(tasks);
        self
    }

    /// How many async tasks may run at a time. The others wait for their turn: by [priority](crate::Priority), then
    /// first in, first out.
    pub fn max_concurrent(mut self, tasks: usize) -> Self {
        self.limits.max_concurrent = Some(tasks);
        self
    }

    /// How many blocking tasks may run at a time, apart from the async ones. Each takes one of the runtime's
    /// threads for blocking work (512 unless its builder says otherwise), so a limit above that number waits
    /// there.
    pub fn max_blocking(mut self, tasks: usize) -> Self {
        self.limits.max_blocking = tasks;
        self
    }

    /// How many [CPU tasks](crate::Task::cpu) may run at a time, apart from the async and the blocking ones. Each takes
    /// one of the runtime's threads for blocking work while it runs.
    pub fn max_cpu(mut self, tasks: usize) -> Self {
        self.limits.max_cpu = tasks;
        self
    }

    /// How many tasks of this name may run at a time, of whatever kind, within the limits for all. The others wait
    /// for their turn, and hold no other permit while they do.
    ///
    /// ```
    /// use postlude::TaskRegistry;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// // One thumbnail at a time, and two reports, whatever else is going on.
    /// let registry = TaskRegistry::builder().limit_by_name("thumbnail", 1).limit_by_name("report", 2).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit_by_name(mut self, name: impl Into<TaskName>, tasks: usize) -> Self {
        self.limits.by_name.push((name.into(), tasks));
        self
    }

    /// How often tasks of this name may start. Those that come faster wait for their turn, without a permit.
    ///
    /// ```
    /// use postlude::{RateLimit, TaskRegistry};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// let registry = TaskRegistry::builder().rate_limit("webhook", RateLimit::per_minute(100).burst(10)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "rate-limit")]
    pub fn rate_limit(mut self, name: impl Into<TaskName>, limit: crate::model::RateLimit) -> Self {
        self.limits.rates.push((name.into(), limit));
        self
    }

    /// After what time of waiting a task is promoted by one [priority](crate::Priority), so that none starves.
    ///
    /// By default 10 s: much longer than most tasks, so that a priority is felt, and shorter than the patience of
    /// whoever waits for the result. Zero promotes at once, so that priorities have no effect; `Duration::MAX` never
    /// does, and under constant load tasks of low priority may then wait for ever.
    pub fn promote_after(mut self, wait: Duration) -> Self {
        self.limits.promote_after = wait;
        self
    }

    /// How long an attempt of a task may take that has no [`timeout`](crate::Task::timeout) of its own.
    pub fn default_timeout(mut self, limit: Duration) -> Self {
        self.default_timeout = Some(limit);
        self
    }

    /// How long a shutdown that has run out of time waits between cancelling tasks and having aborted them.
    /// Meanwhile what waits in line goes on. A tenth of it, and 50 ms if there is that much, is kept for aborted
    /// tasks to be dropped: those that are not by then are reported as stuck. Zero aborts and reports at once.
    pub fn settle(mut self, duration: Duration) -> Self {
        self.settle = duration;
        self
    }

    /// Asks `filter`, the admission filter, about every task before it is accepted, and refuses those for which it returns an
    /// error.
    ///
    /// A refused task ends as [`DiscardReason::Refused`](crate::DiscardReason::Refused), or is handed back by the
    /// `try_` methods. The error is kept: in the log, in the [`TaskReport`] and as the source of
    /// [`Rejected`](crate::Rejected).
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
    ///         "report" if is_on.load(Ordering::Relaxed) => Err("no reports during maintenance".into()),
    ///         _ => Ok(()),
    ///     })
    ///     .build()?;
    ///
    /// let outcome = registry.spawn(Task::new(async {}).named("report")).await;
    /// assert!(matches!(outcome, Outcome::Discarded(DiscardReason::Refused)));
    /// let refused = registry.try_spawn(Task::new(async {}).named("report")).unwrap_err();
    /// assert_eq!(std::error::Error::source(&refused).unwrap().to_string(), "no reports during maintenance");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It is called on the thread that adds, in the handler: it must not block. It is asked before the
    /// [capacity](Self::capacity), so a task that the filter accepts may still be refused. If the filter panics, that is
    /// caught and counted, and the task is accepted. Tasks that the filter itself adds are accepted without a question.
    pub fn admit(mut self, filter: impl Fn(&TaskInfo) -> Result<(), BoxError> + Send + Sync + 'static) -> Self {
        self.telemetry.filter = Some(Box::new(filter));
        self
    }

    /// Calls `hook` with the report of every task whose outcome is not [`Completed`](crate::Outcome), after
    /// it was counted. That includes tasks that somebody took back: a hook that wakes people
    /// [leaves them out](crate::Outcome::is_loss).
    ///
    /// ```
    /// use postlude::{TaskRegistry, TaskReport};
    ///
    /// fn alert(report: &TaskReport) {
    ///     eprintln!("task {} `{}` {}", report.id, report.name, report.outcome);
    /// }
    ///
    /// let builder = TaskRegistry::builder().on_failure(|report| if report.outcome.is_loss() { alert(report) });
    /// # drop(builder);
    /// ```
    ///
    /// It is an [observer](Self::observe) that hears of failures alone, and is called like one: it must not block, a
    /// panic is caught and counted, and it is not told of what ends because of it, on its thread, while it runs: a
    /// hook may spawn. Each call of this adds another hook.
    ///
    /// A hook that holds a clone of the registry keeps the registry's memory for as long as the process lives;
    /// nothing else depends on it.
    pub fn on_failure(mut self, hook: impl Fn(&TaskReport) + Send + Sync + 'static) -> Self {
        self.telemetry.push(Arc::new(OnFailure(hook)), false);
        self
    }

    /// Tells `observer` of every task as it comes and goes: see [`TaskObserver`]. Any number of them, called in the
    /// order in which they were given.
    ///
    /// ```
    /// use postlude::{TaskRegistry, TaskReport};
    ///
    /// let builder = TaskRegistry::builder().observe(|report: &TaskReport| println!("{} {}", report.id, report.outcome));
    /// # drop(builder);
    /// ```
    pub fn observe(mut self, observer: impl TaskObserver) -> Self {
        self.telemetry.push(Arc::new(observer), true);
        self
    }

    /// How the `tracing` span of a task is related to the one in which it was added, mostly the request's: see
    /// [`SpanRelation`].
    pub fn spans(mut self, relation: SpanRelation) -> Self {
        self.telemetry.spans = relation;
        self
    }

    /// How many outcomes are remembered, for [`TaskRegistry::get`] and [`TaskRegistry::history`]. Zero remembers
    /// none.
    ///
    /// Each takes about two hundred bytes, and keeps the error of a task that failed. Threads remember apart from
    /// each other, so there may be as many in each of the registry's shards: twice as many as the machine has cores.
    pub fn history(mut self, outcomes: usize) -> Self {
        self.history = outcomes;
        self
    }

    /// How many tasks that did not get done are kept, to be looked at and [replayed](crate::DeadLetters). Zero keeps none.
    ///
    /// A [retrying](crate::Task::retrying) task is kept with everything that its factory has captured.
    pub fn dead_letters(mut self, letters: usize) -> Self {
        self.dead_letters = letters;
        self
    }

    /// Calls `hook` with each dead letter, once it can be found in the [list](crate::TaskRegistry::dead_letters), and after
    /// [`on_failure`](Self::on_failure). What holds for that hook holds for this one. Never called if none are kept.
    pub fn on_dead_letter(mut self, hook: impl Fn(&DeadLetter) + Send + Sync + 'static) -> Self {
        self.on_dead_letter = Some(Box::new(hook));
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
    /// If a limit or the default timeout is zero, a limit is beyond counting, or a name has two limits of one
    /// sort; if there is no runtime: call it inside one, or give its [`handle`](Self::handle); or if the runtime has no
    /// timer: build it with `enable_time()`.
    pub fn build(self) -> Result<TaskRegistry, BuildError> {
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
        let shared = Shared {
            ledger: Ledger::new(self.capacity.map(|capacity| capacity as u64), self.history),
            admission: AdmissionControl::new(&self.limits)?,
            timer: Timer::new(handle.clone(), FLUSH_DELAY, limit::expire),
            handle,
            spawn_drain: self.spawn_drain,
            abandoned: Abandoned::default(),
            requests: Requests::default(),
            default_timeout: self.default_timeout,
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
        Ok(TaskRegistry { shared })
    }
}

impl Default for TaskRegistryBuilder {
    fn default() -> Self {
        Self {
            capacity: None,
            limits: Limits::default(),
            default_timeout: None,
            settle: Duration::from_secs(1),
            telemetry: Telemetry::default(),
            history: 1024,
            dead_letters: 1_000,
            on_dead_letter: None,
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
