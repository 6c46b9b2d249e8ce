//! Who is told of tasks as they come and go.

use std::sync::Arc;

use crate::model::{TaskInfo, TaskReport};

/// Is told of every task as it comes and goes. Given to a registry by
/// [`observe`](crate::TaskRegistryBuilder::observe).
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
/// A closure `Fn(&TaskReport)` is an observer of [`finished`](Self::finished); an `Arc` and a
/// `Box` of an observer are observers, too.
///
/// # How it is called
/// - On the thread on which it happens: a worker of the runtime, the thread that adds, or a `Drop`. It **must not
///   block**: what takes time goes through a channel to a task of its own.
/// - Never under a lock of the registry: it may call whatever the registry has.
/// - A panic is caught, logged and counted ([`hook_panics`](crate::TaskMetrics::hook_panics)); the task and
///   the other observers go on.
/// - What happens to its registry because of an observer, while it runs and on its thread, is logged and counted, but told
///   to no observer: one that spawns would be told of that for ever. [`subscribe`](crate::TaskRegistry::subscribe)
///   tells of everything.
/// - [`wait_idle`](crate::TaskRegistry::wait_idle) and [`shutdown`](crate::TaskRegistry::shutdown) wait until it has
///   been told of every end.
///
/// # In which order
/// Of one task: `added`, then `started`, then (for each attempt that another one follows) `attempt_failed` and
/// `started` again, then `finished`, which comes exactly once. Calls that two threads make may overlap, and so change
/// places, in these cases: a task is ended from outside (an abort, a shutdown) while it is just being added or
/// started; or it is added to a set that is draining, by anything but that set's own tasks.
///
/// # What it costs
/// Without observers, one branch at each of these moments.
///
/// # With the `metrics` facade
/// ```
/// use metrics::{counter, histogram};
/// use postlude::{TaskRegistry, TaskReport};
///
/// fn record(report: &TaskReport) {
///     counter!("tasks", "name" => report.name.as_str(), "outcome" => report.outcome.label()).increment(1);
///     histogram!("task_seconds", "name" => report.name.as_str()).record(report.ran_for);
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
///     let labels = [KeyValue::new("task.name", report.name.as_str()), KeyValue::new("outcome", report.outcome.label())];
///     seconds.record(report.ran_for.as_secs_f64(), &labels);
/// });
/// # drop(builder);
/// ```
#[expect(unused_variables, reason = "the names are for whoever implements it")]
pub trait TaskObserver: Send + Sync + 'static {
    /// A task was added or spawned; also one that is then discarded at once. Not one that a `try_` method hands
    /// back.
    #[inline]
    fn added(&self, task: &TaskInfo) {}

    /// An attempt of a task begins.
    #[inline]
    fn started(&self, task: &TaskInfo) {}

    /// An attempt failed, and another one follows.
    fn attempt_failed(&self, report: &TaskReport) {}

    /// A task has its outcome, which has been counted.
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

impl<T: TaskObserver + ?Sized> TaskObserver for Arc<T> {
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

impl TaskObserver for Box<dyn TaskObserver> {
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

/// A failure hook as an observer.
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
