//! The profile of tasks: its settings, and its figures.

use std::{fmt, sync::Arc, time::Duration};

use crate::util::histogram::DurationHistogram;

/// The default of [`Profile::slow_poll`].
const SLOW_POLL: Duration = Duration::from_millis(100);

/// Tells how many bytes the calling thread has allocated so far.
pub(crate) type AllocationProbe = dyn Fn() -> u64 + Send + Sync;

/// The settings of the profile of a registry's tasks: see
/// [`TaskRegistryBuilder::profile`](crate::TaskRegistryBuilder::profile).
///
/// ```
/// use std::time::Duration;
/// use postlude::{Profile, Task, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), postlude::BuildError> {
/// let profile = Profile::default().slow_poll(Duration::from_millis(20));
/// let registry = TaskRegistry::builder().profile(profile).build()?;
/// registry.spawn(Task::new(async { tokio::task::yield_now().await }).named("report")).await;
///
/// let metrics = registry.metrics();
/// let report = metrics.by_name()["report"].profile.as_ref().unwrap();
/// assert_eq!((report.polls, report.poll_times().count()), (2, 2));
/// # Ok(())
/// # }
/// ```
///
/// # Default
/// - [`slow_poll`](Self::slow_poll): 100 ms
/// - [`allocations`](Self::allocations): not measured
#[derive(Clone)]
#[must_use = "a profile does nothing until it is given to the builder of a registry"]
pub struct Profile {
    pub(crate) slow_poll: Duration,
    pub(crate) allocations: Option<Arc<AllocationProbe>>,
}

impl Profile {
    /// A poll that takes this long is slow: it is counted, and logged as a warning.
    ///
    /// Tokio recommends that a future yields within 10 to 100 µs. The default of 100 ms is a thousand times that, so
    /// that a warning is always worth a look.
    pub fn slow_poll(mut self, time: Duration) -> Self {
        self.slow_poll = time;
        self
    }

    /// Measures what tasks allocate. `probe` returns how many bytes the calling thread has allocated since it started.
    /// It is called before and after each poll and each closure, and the difference is the task's.
    ///
    /// The figure is bytes allocated, not bytes held: what a task frees is not subtracted. Allocations of other threads
    /// for a task are not a part of it.
    ///
    /// The probe must be quick, and must not block. If it panics, the panic is caught and counted, and that poll counts
    /// as one that has allocated nothing. The package `examples/allocations` measures with jemalloc.
    ///
    /// ```
    /// use std::cell::Cell;
    /// use postlude::{Profile, Task, TaskRegistry};
    ///
    /// thread_local! {
    ///     // In a service, the allocator counts.
    ///     static ALLOCATED: Cell<u64> = const { Cell::new(0) };
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), postlude::BuildError> {
    /// let profile = Profile::default().allocations(|| ALLOCATED.get());
    /// let registry = TaskRegistry::builder().profile(profile).build()?;
    /// let report = Task::new(async { ALLOCATED.set(ALLOCATED.get() + 4096) }).named("report");
    /// registry.spawn(report).await;
    /// assert_eq!(registry.metrics().by_name()["report"].profile.as_ref().unwrap().allocated, Some(4096));
    /// # Ok(())
    /// # }
    /// ```
    pub fn allocations(mut self, probe: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.allocations = Some(Arc::new(probe));
        self
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self { slow_poll: SLOW_POLL, allocations: None }
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("slow_poll", &self.slow_poll).finish_non_exhaustive()
    }
}

/// The profile of one task: of its current attempt and those before, up to now.
///
/// All times are of the real clock, also if tokio's clock is paused. The wait for a permit, and the time between two
/// attempts, are in none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskProfile {
    /// How often the task was polled. A closure is not polled.
    pub polls: u64,
    /// The polls that took [`slow_poll`](Profile::slow_poll) or longer.
    pub slow_polls: u64,
    /// The time inside polls, or inside the closure.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub busy: Duration,
    /// The time from the end of a poll until the task was woken: it waited for something.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub idle: Duration,
    /// The time from a wake-up to the poll that followed: the runtime was late. A first poll has no wake-up.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub scheduled: Duration,
    /// The longest poll that has returned.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub longest_poll: Duration,
    /// Bytes allocated, not bytes held; `None` without a [probe](Profile::allocations).
    pub allocated: Option<u64>,
    /// The processor time of a closure; `None` for a future, and on platforms that do not tell it.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::optional_seconds"))]
    pub cpu: Option<Duration>,
    /// How long the task has been inside a poll that has not returned; `None` if it is in none.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::optional_seconds"))]
    pub polling_for: Option<Duration>,
}

/// The profile of all tasks of one name: see [`NameMetrics::profile`](crate::NameMetrics::profile).
///
/// A poll is a part of it when it has returned, and a closure when it has.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NameProfile {
    /// As [`TaskProfile::polls`].
    pub polls: u64,
    /// As [`TaskProfile::slow_polls`]. A poll that does not return is counted when the watchdog has found it.
    pub slow_polls: u64,
    /// As [`TaskProfile::busy`].
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub busy: Duration,
    /// As [`TaskProfile::idle`].
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub idle: Duration,
    /// As [`TaskProfile::scheduled`].
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub scheduled: Duration,
    /// As [`TaskProfile::longest_poll`].
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::seconds"))]
    pub longest_poll: Duration,
    /// As [`TaskProfile::allocated`].
    pub allocated: Option<u64>,
    /// As [`TaskProfile::cpu`]; `None` if no closure of the name has run.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::util::serialize::optional_seconds"))]
    pub cpu: Option<Duration>,
    #[cfg_attr(feature = "serde", serde(rename = "poll"))]
    pub(crate) poll_times: DurationHistogram,
    #[cfg_attr(feature = "serde", serde(rename = "schedule_delay"))]
    pub(crate) schedule_delays: DurationHistogram,
}

impl NameProfile {
    /// The durations of the polls that have returned.
    #[must_use]
    pub const fn poll_times(&self) -> &DurationHistogram {
        &self.poll_times
    }

    /// The times from a wake-up to the poll that followed.
    #[must_use]
    pub const fn schedule_delays(&self) -> &DurationHistogram {
        &self.schedule_delays
    }

    pub(crate) fn add_busy(&mut self, time: Duration, allocated: Option<u64>) {
        self.busy = self.busy.saturating_add(time);
        add(&mut self.allocated, allocated, u64::saturating_add);
    }

    pub(crate) fn add_cpu(&mut self, time: Option<Duration>) {
        add(&mut self.cpu, time, Duration::saturating_add);
    }

    pub(crate) fn add_wait(&mut self, idle: Duration, scheduled: Duration) {
        self.idle = self.idle.saturating_add(idle);
        self.scheduled = self.scheduled.saturating_add(scheduled);
    }

    /// Adds the figures of other tasks of the name.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.polls += other.polls;
        self.slow_polls += other.slow_polls;
        self.add_busy(other.busy, other.allocated);
        self.add_wait(other.idle, other.scheduled);
        self.add_cpu(other.cpu);
        self.longest_poll = self.longest_poll.max(other.longest_poll);
        self.poll_times.absorb(&other.poll_times);
        self.schedule_delays.absorb(&other.schedule_delays);
    }
}

fn add<T: Copy + Default>(sum: &mut Option<T>, more: Option<T>, plus: impl FnOnce(T, T) -> T) {
    if let Some(more) = more {
        *sum = Some(plus(sum.unwrap_or_default(), more));
    }
}
