//! Limits: decides when tasks may start.
//!
//! Who is first among those that wait, and when a task is promoted, is decided by `Priority::rank` in `model`.

#[cfg(feature = "rate-limit")]
mod rate;
pub(crate) mod unique;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    thread,
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::time::Instant;

#[cfg(feature = "rate-limit")]
use self::rate::RateGate;
use self::unique::UniqueKeys;
#[cfg(feature = "rate-limit")]
use crate::model::RateLimit;
use crate::{
    model::{BuildError, KeyOfName, Priority, TaskId, TaskName},
    task::work::{Kind, Meta, Permits},
    telemetry::log::emit,
    util::{
        clock::Timestamp,
        keyed_semaphore::{KeyedAcquire, KeyedSemaphores},
        loom::atomic::{AtomicBool, Ordering},
        semaphore::{Acquire, Permit, PrioritySemaphore, Watch},
    },
};

/// For how long no permit must be given out, while tasks wait, before the log warns of it for the first time.
const FIRST_WARNING_AFTER: Duration = Duration::from_secs(60);

/// The highest limit: the maximum of tokio's semaphores.
const MAX_LIMIT: usize = usize::MAX >> 3;

/// The limits set on the builder.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) max_concurrent: Option<usize>,
    pub(crate) max_blocking: usize,
    pub(crate) max_cpu: usize,
    pub(crate) promote_after: Duration,
    pub(crate) by_name: Vec<(TaskName, usize)>,
    pub(crate) by_key: Vec<(TaskName, usize)>,
    #[cfg(feature = "rate-limit")]
    pub(crate) rates: Vec<(TaskName, RateLimit)>,
}

/// The number of cores, or 1 if it is unknown.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_concurrent: None,
            max_blocking: 64,
            max_cpu: cores(),
            promote_after: Duration::from_secs(10),
            by_name: Vec::new(),
            by_key: Vec::new(),
            #[cfg(feature = "rate-limit")]
            rates: Vec::new(),
        }
    }
}

/// Decides when the tasks of a registry start.
///
/// A task waits for the rate of its name, then for a permit of its name, then for a permit of its kind. It keeps its
/// rank from one queue to the next, so that tasks of one priority start in order of arrival. Before that, a task with a
/// limited key waits for a permit of its key. It gets its rank when it has that permit: if the rank were that of its
/// arrival, a key with many tasks would delay all others.
pub(crate) struct AdmissionControl {
    /// The origin of all ranks.
    epoch: Instant,
    promote_after: Duration,
    /// The permits of async tasks; `None` without a limit.
    tasks: Option<Arc<PrioritySemaphore>>,
    blocking: Arc<PrioritySemaphore>,
    cpu: Arc<PrioritySemaphore>,
    names: FxHashMap<TaskName, NameLimits>,
    /// How many tasks of a name may run for each key.
    limits_by_key: FxHashMap<TaskName, usize>,
    pub(crate) keys: Arc<KeyedSemaphores<KeyOfName>>,
    pub(crate) unique: UniqueKeys,
    /// Whether it was logged that a priority has no effect.
    priority_noted: AtomicBool,
}

/// The limits of the tasks of one name.
#[derive(Default)]
struct NameLimits {
    #[cfg(feature = "rate-limit")]
    rate: Option<RateGate>,
    permits: Option<Arc<PrioritySemaphore>>,
}

/// The properties of a task that decide when it may start.
#[derive(Clone, Copy)]
pub(crate) struct AdmitRequest {
    pub(crate) id: TaskId,
    pub(crate) kind: Kind,
    name: TaskName,
    priority: Priority,
    /// Since when the first of the tasks that replaced one another waits. Only the first attempt has its place.
    pub(crate) place: Option<Timestamp>,
}

impl AdmitRequest {
    pub(crate) fn of(meta: &Meta) -> Self {
        // A task that is delayed has no place: its delay was started again.
        let is_delayed = meta.policy.as_ref().is_some_and(|policy| policy.delay.is_some());
        let place = meta.held().and_then(|held| held.place).filter(|_| !is_delayed);
        Self { id: meta.id(), kind: meta.kind, name: meta.name, priority: meta.priority, place }
    }
}

/// The position of a task in the first queue in which it may have to wait.
pub(crate) enum Entered {
    /// It has entered none yet, or need not wait.
    None,
    /// In the queue of its key.
    OfKey(KeyedAcquire<KeyOfName>),
    /// In the queue of its name or of its kind.
    Queue(Acquire),
}

impl AdmissionControl {
    /// # Errors
    /// If a limit is zero or too high, or a name has two limits of the same kind.
    pub(crate) fn new(limits: &Limits) -> Result<Self, BuildError> {
        check("max_concurrent", limits.max_concurrent)?;
        check("max_blocking", Some(limits.max_blocking))?;
        check("max_cpu", Some(limits.max_cpu))?;
        Ok(Self {
            epoch: Instant::now(),
            promote_after: limits.promote_after,
            tasks: limits.max_concurrent.map(PrioritySemaphore::new),
            blocking: PrioritySemaphore::new(limits.max_blocking),
            cpu: PrioritySemaphore::new(limits.max_cpu),
            names: limits.of_names()?,
            limits_by_key: limits.of_keys()?,
            keys: KeyedSemaphores::new(),
            unique: UniqueKeys::new(),
            priority_noted: AtomicBool::new(false),
        })
    }

    /// Whether the task starts without waiting.
    #[inline]
    pub(crate) fn is_unlimited(&self, meta: &Meta) -> bool {
        matches!(meta.kind, Kind::Async) && self.tasks.is_none() && self.of_name(meta.name).is_none()
    }

    /// The permits of an async task that need not wait; `None` if it has to.
    pub(crate) fn try_admit(&self, meta: &Meta) -> Option<Permits> {
        let limits = self.of_name(meta.name);
        #[cfg(feature = "rate-limit")]
        if limits.is_some_and(|limits| limits.rate.is_some()) {
            return None;
        }
        let mut permits = Permits::default();
        let of_name = limits.and_then(|limits| limits.permits.as_ref());
        for (slot, semaphore) in permits.permits.iter_mut().zip([of_name, self.of_kind(meta.kind)]) {
            if let Some(semaphore) = semaphore {
                *slot = Some(semaphore.try_acquire()?);
            }
        }
        Some(permits)
    }

    /// How many async tasks of this name would start without waiting; `usize::MAX` if nothing limits them.
    pub(crate) fn may_start(&self, name: TaskName) -> usize {
        let of_kind = self.tasks.as_ref().map_or(usize::MAX, |permits| permits.free());
        self.of_name(name).map_or(of_kind, |limits| limits.may_start().min(of_kind))
    }

    /// Takes all free permits of all kinds, so that nothing starts that needs one.
    #[cfg(feature = "testing")]
    pub(crate) fn take_free_permits(&self) -> Vec<Permit> {
        let kinds = [self.tasks.as_ref(), Some(&self.blocking), Some(&self.cpu)];
        kinds.into_iter().flatten().flat_map(|kind| std::iter::from_fn(|| kind.try_acquire())).collect()
    }

    /// Logs, once, if the priority of a task has no effect.
    pub(crate) fn note_priority(&self, meta: &Meta) {
        if meta.priority == Priority::default() || !self.is_unlimited(meta) {
            return;
        }
        // Relaxed: nothing else depends on it.
        if self.priority_noted.swap(true, Ordering::Relaxed) {
            return;
        }
        let _panicked = emit(|| {
            tracing::debug!(
                target: "postlude",
                name = meta.name.as_str(),
                priority = ?meta.priority,
                "a priority has no effect on tasks that do not wait: \
                 set `max_concurrent`, or `limit_by_name` for this name, on the registry's builder"
            );
        });
    }

    /// Enters the first queue in which the task may have to wait. The spawning code calls this, because the runtime
    /// does not first poll tasks in the order in which they were spawned.
    pub(crate) fn enqueue(&self, meta: &Meta) -> Entered {
        let request = AdmitRequest::of(meta);
        if let Some(of_key) = self.limited_key(meta).and_then(|key| self.enqueue_key(request, &key)) {
            return Entered::OfKey(of_key);
        }
        let of_name = self.of_name(request.name).and_then(NameLimits::first_queue);
        match of_name.or_else(|| self.of_kind(request.kind)) {
            Some(queue) => Entered::Queue(queue.enqueue(self.rank(request))),
            None => Entered::None,
        }
    }

    /// The key of a task, if the tasks of its name are limited by key.
    pub(crate) fn limited_key(&self, meta: &Meta) -> Option<KeyOfName> {
        if self.limits_by_key.contains_key(&meta.name) { meta.key_of_name() } else { None }
    }

    fn enqueue_key(&self, request: AdmitRequest, key: &KeyOfName) -> Option<KeyedAcquire<KeyOfName>> {
        let limit = *self.limits_by_key.get(&key.name)?;
        Some(self.keys.enqueue(key.clone(), limit, self.rank(request)))
    }

    /// Waits until the task may start. `key` is its [limited key](Self::limited_key), and `entered` its position in the
    /// first queue, if it has [entered](Self::enqueue) one. If the task has to wait for a time, `note_due` is called
    /// with that time, and `sleep` waits for it.
    ///
    /// # Cancel safety
    /// Dropped, it leaves the queues and releases the permits.
    pub(crate) async fn admit<F>(
        &self,
        request: AdmitRequest,
        key: Option<&KeyOfName>,
        entered: Entered,
        note_due: impl Fn(Duration),
        sleep: impl Fn(Duration) -> F,
    ) -> Permits
    where
        F: Future<Output = ()>,
    {
        let (of_key, entered) = match entered {
            Entered::OfKey(of_key) => (Some(of_key), None),
            Entered::Queue(queue) => (None, Some(queue)),
            Entered::None => (key.and_then(|key| self.enqueue_key(request, key)), None),
        };
        if let Some(of_key) = of_key {
            // Boxed, so that it does not enlarge the future of tasks without a key.
            return Box::pin(self.admit_by_key(of_key, request, note_due, sleep)).await;
        }
        self.admit_by_name(request, entered, note_due, sleep).await
    }

    /// Like [`admit`](Self::admit), with a permit of the task's key first.
    async fn admit_by_key<F>(
        &self,
        of_key: KeyedAcquire<KeyOfName>,
        mut request: AdmitRequest,
        note_due: impl Fn(Duration),
        sleep: impl Fn(Duration) -> F,
    ) -> Permits
    where
        F: Future<Output = ()>,
    {
        let (acquire, with_key) = of_key.into_parts();
        let permit = with_key(acquired(acquire, request, &sleep).await);
        request.place = None;
        let permits = self.admit_by_name(request, None, note_due, sleep).await;
        Permits { _of_key: Some(Box::new(permit)), ..permits }
    }

    /// Like [`admit`](Self::admit), without a key.
    #[cfg_attr(not(feature = "rate-limit"), expect(unused_variables, reason = "only a rate notes when a task is due"))]
    async fn admit_by_name<F>(
        &self,
        request: AdmitRequest,
        entered: Option<Acquire>,
        note_due: impl Fn(Duration),
        sleep: impl Fn(Duration) -> F,
    ) -> Permits
    where
        F: Future<Output = ()>,
    {
        #[cfg(feature = "rate-limit")]
        if let Some(rate) = self.of_name(request.name).and_then(|limits| limits.rate.as_ref()) {
            // Boxed, so that it does not enlarge the future of tasks without a rate.
            return Box::pin(self.admit_at(rate, request, entered, note_due, sleep)).await;
        }
        let rank = entered.as_ref().map_or_else(|| self.rank(request), Acquire::rank);
        self.permits(request, rank, entered, &sleep).await
    }

    /// Like [`admit`](Self::admit), at a rate. Only the first of the tasks that wait for the rate acquires permits, and
    /// the rate is checked while it holds them. This keeps the order, and tasks that have waited for permits do not all
    /// start at once. A task that is too early waits without permits.
    #[cfg(feature = "rate-limit")]
    async fn admit_at<F>(
        &self,
        rate: &RateGate,
        request: AdmitRequest,
        entered: Option<Acquire>,
        note_due: impl Fn(Duration),
        sleep: impl Fn(Duration) -> F,
    ) -> Permits
    where
        F: Future<Output = ()>,
    {
        let entered = entered.unwrap_or_else(|| rate.queue().enqueue(self.rank(request)));
        let rank = entered.rank();
        let _first = rate.first(entered, &note_due).await;
        loop {
            rate.until_ready(&note_due, &sleep).await;
            let permits = self.permits(request, rank, None, &sleep).await;
            if rate.check() {
                return permits;
            }
        }
    }

    /// Waits for a permit of the task's name, then for one of its kind.
    async fn permits<F>(
        &self,
        request: AdmitRequest,
        rank: Duration,
        mut entered: Option<Acquire>,
        sleep: &impl Fn(Duration) -> F,
    ) -> Permits
    where
        F: Future<Output = ()>,
    {
        let mut permits = [None, None];
        let of_name = self.of_name(request.name).and_then(|limits| limits.permits.as_ref());
        for (slot, semaphore) in permits.iter_mut().zip([of_name, self.of_kind(request.kind)]) {
            if let Some(semaphore) = semaphore {
                let acquire = entered.take().unwrap_or_else(|| semaphore.acquire(rank));
                *slot = Some(acquired(acquire, request, sleep).await);
            }
        }
        Permits { permits, _of_key: None }
    }

    fn rank(&self, request: AdmitRequest) -> Duration {
        let place = request.place.and_then(Timestamp::to_instant);
        let arrival = place.map_or_else(|| self.epoch.elapsed(), |place| place.saturating_duration_since(self.epoch));
        request.priority.rank(arrival, self.promote_after)
    }

    fn of_name(&self, name: TaskName) -> Option<&NameLimits> {
        if self.names.is_empty() { None } else { self.names.get(&name) }
    }

    const fn of_kind(&self, kind: Kind) -> Option<&Arc<PrioritySemaphore>> {
        match kind {
            Kind::Async => self.tasks.as_ref(),
            Kind::Blocking => Some(&self.blocking),
            Kind::Cpu => Some(&self.cpu),
        }
    }
}

/// Waits for a permit.
async fn acquired<F>(mut acquire: Acquire, request: AdmitRequest, sleep: &impl Fn(Duration) -> F) -> Permit
where
    F: Future<Output = ()>,
{
    match poll_fn(|context| acquire.poll_permit_or_watch(context)).await {
        Ok(permit) => permit,
        // Boxed, so that tasks that do not watch have no room for it.
        Err(watch) => Box::pin(warn_while_waiting(acquire, watch, request, sleep)).await,
    }
}

/// Waits for a permit, and warns each time that no task was given one for a long time. Tasks that hold permits while
/// they wait for tasks that need one would wait for ever.
async fn warn_while_waiting<F>(
    acquire: Acquire,
    watch: Watch,
    request: AdmitRequest,
    sleep: &impl Fn(Duration) -> F,
) -> Permit
where
    F: Future<Output = ()>,
{
    let (mut acquire, mut period) = (pin!(acquire), FIRST_WARNING_AFTER);
    loop {
        let granted = watch.0.granted();
        tokio::select! {
            biased;
            permit = &mut acquire => return permit,
            () = sleep(period) => {}
        }
        if watch.0.granted() == granted {
            let waiting = watch.0.waiting();
            let _panicked = emit(|| {
                tracing::warn!(
                    target: "postlude",
                    name = request.name.as_str(),
                    kind = ?request.kind,
                    waiting,
                    "no task was given a permit for {period:?}, although tasks wait: those that hold the permits may wait \
                     for tasks that need one"
                );
            });
            period = period.saturating_mul(2);
        }
    }
}

impl NameLimits {
    fn may_start(&self) -> usize {
        #[cfg(feature = "rate-limit")]
        if let Some(rate) = &self.rate {
            if !rate.is_ready() {
                return 0;
            }
            return self.permits.as_ref().map_or(1, |permits| permits.free().min(1));
        }
        self.permits.as_ref().map_or(usize::MAX, |permits| permits.free())
    }

    const fn first_queue(&self) -> Option<&Arc<PrioritySemaphore>> {
        #[cfg(feature = "rate-limit")]
        if let Some(rate) = &self.rate {
            return Some(rate.queue());
        }
        self.permits.as_ref()
    }
}

impl Limits {
    fn of_names(&self) -> Result<FxHashMap<TaskName, NameLimits>, BuildError> {
        let mut names = FxHashMap::<_, NameLimits>::default();
        for &(name, limit) in &self.by_name {
            if limit == 0 {
                return Err(BuildError::ZeroLimitOfName { setting: "limit_by_name", name });
            }
            let permits = PrioritySemaphore::new(limit.min(MAX_LIMIT));
            if names.entry(name).or_default().permits.replace(permits).is_some() {
                return Err(BuildError::TwoLimitsOfName { setting: "limit_by_name", name });
            }
        }
        #[cfg(feature = "rate-limit")]
        for &(name, limit) in &self.rates {
            if limit.is_zero() {
                return Err(BuildError::ZeroLimitOfName { setting: "rate_limit", name });
            }
            if names.entry(name).or_default().rate.replace(RateGate::new(limit)).is_some() {
                return Err(BuildError::TwoLimitsOfName { setting: "rate_limit", name });
            }
        }
        Ok(names)
    }

    fn of_keys(&self) -> Result<FxHashMap<TaskName, usize>, BuildError> {
        let (mut limits, setting) = (FxHashMap::default(), "limit_by_key");
        for &(name, limit) in &self.by_key {
            if limit == 0 {
                return Err(BuildError::ZeroLimitOfName { setting, name });
            }
            if limits.insert(name, limit.min(MAX_LIMIT)).is_some() {
                return Err(BuildError::TwoLimitsOfName { setting, name });
            }
        }
        Ok(limits)
    }
}

/// # Errors
/// If the limit is zero or too high.
pub(crate) const fn check(name: &'static str, limit: Option<usize>) -> Result<(), BuildError> {
    match limit {
        Some(0) => Err(BuildError::ZeroLimit { name }),
        Some(limit) if limit > MAX_LIMIT => Err(BuildError::HugeLimit { name, limit }),
        Some(_) | None => Ok(()),
    }
}
