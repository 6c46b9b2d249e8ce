//! Observers of tasks.

use std::sync::Arc;

use crate::model::{TaskInfo, TaskReport};

/// Is notified of the events in the life of every task. Registered by [`observe`](crate::TaskRegistryBuilder::observe).
///
/// ```
/// use std::sync::atomic::{AtomicI64, Ordering};
/// use postlude::{TaskInfo, TaskObserver, TaskRegistry, TaskReport};
///
/// #[derive(Default)]
/// struct Gauge(AtomicI64);
///
/// impl TaskObserver for Gauge {
///     fn added(&self, _task: &TaskInfo) {
///         self.0.fetch_add(1, Ordering::Relaxed);
///     }
///     fn finished(&self, _report: &TaskReport) {
///         self.0.fetch_sub(1, Ordering::Relaxed);
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), postlude::BuildError> {
/// let live = std::sync::Arc::new(Gauge::default());
/// let registry = TaskRegistry::builder().observe(live.clone()).build()?;
/// registry.spawn(async {});
/// assert_eq!(live.0.load(Ordering::Relaxed), 1);
/// registry.wait_idle().await;
/// assert_eq!(live.0.load(Ordering::Relaxed), 0);
/// # Ok(())
/// # }
/// ```
///
/// A closure `Fn(&TaskReport)` is an observer of [`finished`](Self::finished). An `Arc` or a `Box` of an observer is an
/// observer, too.
///
/// # How it is called
/// - On the thread on which the event happens: a worker of the runtime, the thread that adds a task, or within a
///   `Drop`. An observer **must not block**: send work that takes time through a channel to another task.
/// - Never under a lock of the registry: it may call all methods of the registry.
/// - A panic is caught, logged and counted ([`hook_panics`](crate::TaskMetrics::hook_panics)); the task and
///   the other observers go on.
/// - Events that an observer causes on its own thread, for example by spawning a task, are logged and counted, but no
///   observer is notified of them. This prevents endless recursion. [`subscribe`](crate::TaskRegistry::subscribe)
///   delivers all events.
/// - [`wait_idle`](crate::TaskRegistry::wait_idle) and [`shutdown`](crate::TaskRegistry::shutdown) wait until every
///   observer was notified of every end.
///
/// # Order of calls
/// For one task: `added`, then `started`, then `attempt_failed` and `started` for each retry, then `finished` exactly
/// once. Calls from two threads may overlap, and so be out of order, in two cases: a task is aborted while it is being
/// added or started; or a task is added to a draining set from outside that set's own tasks.
///
/// # Cost
/// Without observers, each of these events costs one branch.
///
/// # With the `metrics` facade
/// ```
/// use metrics::{counter, histogram};
/// use postlude::{TaskRegistry, TaskReport};
///
/// fn record(report: &TaskReport) {
///     let (name, outcome) = (report.name.as_str(), report.outcome.label());
///     counter!("tasks", "name" => name, "outcome" => outcome).increment(1);
///     histogram!("task_seconds", "name" => name).record(report.ran_for);
/// }
///
/// let builder = TaskRegistry::builder().observe(record);
/// # drop(builder);
/// ```
///
/// # With OpenTelemetry's metrics
/// ```
/// use opentelemetry::{KeyValue, global};
/// use postlude::{TaskRegistry, TaskReport};
///
/// let seconds = global::meter("tasks").f64_histogram("task.duration").with_unit("s").build();
/// let builder = TaskRegistry::builder().observe(move |report: &TaskReport| {
///     let name = KeyValue::new("task.name", report.name.as_str());
///     let labels = [name, KeyValue::new("outcome", report.outcome.label())];
///     seconds.record(report.ran_for.as_secs_f64(), &labels);
/// });
/// # drop(builder);
/// ```
#[expect(unused_variables, reason = "the names are for implementors")]
pub trait TaskObserver: Send + Sync + 'static {
    /// A task was added or spawned, even if it is then discarded at once. Not called for a task that a `try_` method
    /// hands back.
    #[inline]
    fn added(&self, task: &TaskInfo) {}

    /// An attempt of a task starts.
    #[inline]
    fn started(&self, task: &TaskInfo) {}

    /// An attempt failed, and another one will follow.
    fn attempt_failed(&self, report: &TaskReport) {}

    /// A task has ended, and its outcome was counted.
    fn finished(&self, report: &TaskReport) {}
}

impl<F> TaskObserver for F
where
    F: Fn(&TaskReport) + Send + Sync + 'static,
{
    fn finished(&self, report: &TaskReport) {
        self(report);
    }
}

/// A pointer forwards every event. The methods have defaults, so the compiler finds none that is missing here.
macro_rules! forward {
    ($($implementation:tt)+) => {
        $($implementation)+ {
            fn added(&self, task: &TaskInfo) {
                (**self).added(task);
            }

            fn started(&self, task: &TaskInfo) {
                (**self).started(task);
            }

            fn attempt_failed(&self, report: &TaskReport) {
                (**self).attempt_failed(report);
            }

            fn finished(&self, report: &TaskReport) {
                (**self).finished(report);
            }
        }
    };
}

forward!(impl<T: TaskObserver + ?Sized> TaskObserver for Arc<T>);
forward!(impl TaskObserver for Box<dyn TaskObserver>);

/// Adapts a failure hook to an observer.
pub(crate) struct OnFailure<F>(pub(crate) F);

impl<F> TaskObserver for OnFailure<F>
where
    F: Fn(&TaskReport) + Send + Sync + 'static,
{
    fn finished(&self, report: &TaskReport) {
        if !report.outcome.is_completed() {
            (self.0)(report);
        }
    }
}
