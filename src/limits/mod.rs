//! Limits: decides when tasks may start.
//!
//! Who is first among those that wait, and when a task is promoted, is decided by `Priority::rank` in `model`.

mod names;
#[cfg(feature = "rate-limit")]
mod rate;
pub(crate) mod unique;

use std::{
    collections::HashMap,
    fmt,
    future::{Future, poll_fn},
    mem,
    pin::pin,
    sync::Arc,
    thread,
    time::Duration,
};

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::watch;

use self::names::LimitedNames;
pub(crate) use self::names::NameLimits;
#[cfg(feature = "rate-limit")]
use self::rate::RateGate;
use self::unique::UniqueKeys;
#[cfg(feature = "rate-limit")]
use crate::model::RateLimit;
use crate::{
    model::{BuildError, KeyOfName, MAX_LIMIT, Priority, TaskId, TaskInfo, TaskName, TaskState},
    task::work::{Kind, Meta, PermitPair, Permits},
    telemetry::log::emit,
    util::{
        clock::Timestamp,
        keyed_semaphore::{KeyedAcquire, KeyedSemaphores},
        loom::atomic::{AtomicBool, AtomicUsize, Ordering},
        semaphore::{Acquire, Permit, PrioritySemaphore, Reservation, Usage, Watch},
    },
};

/// For how long no permit must be given out, while tasks wait, before the log warns of it for the first time.
const FIRST_WARNING_AFTER: Duration = Duration::from_secs(60);

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
    epoch: Timestamp,
    promote_after: Duration,
    /// The permits of async tasks; `None` without a limit.
    tasks: Option<Arc<PrioritySemaphore>>,
    blocking: Arc<PrioritySemaphore>,
    cpu: Arc<PrioritySemaphore>,
    names: LimitedNames,
    /// How many tasks of a name may run for each key.
    limits_by_key: FxHashMap<TaskName, usize>,
    pub(crate) keys: Arc<KeyedSemaphores<KeyOfName>>,
    pub(crate) unique: UniqueKeys,
    /// How many names are paused.
    paused: AtomicUsize,
    /// Sent to when a name is paused, resumed, or given another limit.
    changes: watch::Sender<()>,
    /// Whether it was logged that a priority has no effect.
    priority_noted: AtomicBool,
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
#[derive(Default)]
pub(crate) enum Entered {
    /// It has entered none yet, or need not wait.
    #[default]
    None,
    /// In the queue of its key.
    Key(KeyedAcquire<KeyOfName>),
    /// In the queue for the rate of its name.
    #[cfg(feature = "rate-limit")]
    Rate(Acquire),
    /// In the queue of its name.
    Name(Acquire),
    /// In the queue of its kind.
    Kind(Acquire),
    /// It was given a permit of its name, with which it may no longer start.
    Stopped(Permit, Duration),
}

impl Entered {
    fn rank(&self) -> Option<Duration> {
        match self {
            Self::None | Self::Key(_) => None,
            #[cfg(feature = "rate-limit")]
            Self::Rate(acquire) => Some(acquire.rank()),
            Self::Name(acquire) | Self::Kind(acquire) => Some(acquire.rank()),
            Self::Stopped(_, rank) => Some(*rank),
        }
    }
}

/// What a task has of the limit of its name.
enum OfName {
    Nothing,
    Entered(Acquire),
    Permit(Permit),
    Reserved(Reservation),
}

/// Which names are paused.
#[derive(Default)]
pub(crate) struct PausedNames(FxHashSet<TaskName>);

/// The names, separated by commas.
impl fmt::Display for PausedNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.0.iter().collect();
        names.sort_unstable();
        names.iter().enumerate().try_for_each(|(index, name)| write!(f, "{}{name}", if index > 0 { ", " } else { "" }))
    }
}

impl PausedNames {
    /// Whether a task of this name, in this state, waits until the name is resumed.
    pub(crate) fn stop(&self, name: TaskName, state: TaskState) -> bool {
        waits_for_start(state) && !self.0.is_empty() && self.0.contains(&name)
    }

    /// The info of a task, with whether it is paused.
    pub(crate) fn marked(&self, info: TaskInfo) -> TaskInfo {
        TaskInfo { paused: self.stop(info.name, info.state), ..info }
    }
}

/// Whether a task in this state waits for the start of an attempt.
const fn waits_for_start(state: TaskState) -> bool {
    matches!(state, TaskState::Pending | TaskState::Retrying)
}

impl AdmissionControl {
    /// # Errors
    /// If a limit is zero or too high, or a name has two limits of the same kind.
    pub(crate) fn new(limits: &Limits) -> Result<Self, BuildError> {
        check("max_concurrent", limits.max_concurrent)?;
        check("max_blocking", Some(limits.max_blocking))?;
        check("max_cpu", Some(limits.max_cpu))?;
        Ok(Self {
            epoch: Timestamp::now(),
            promote_after: limits.promote_after,
            tasks: limits.max_concurrent.map(PrioritySemaphore::new),
            blocking: PrioritySemaphore::new(limits.max_blocking),
            cpu: PrioritySemaphore::new(limits.max_cpu),
            names: limits.of_names()?,
            limits_by_key: limits.of_keys()?,
            keys: KeyedSemaphores::new(),
            unique: UniqueKeys::new(),
            paused: AtomicUsize::new(0),
            changes: watch::Sender::new(()),
            priority_noted: AtomicBool::new(false),
        })
    }

    /// Whether the task starts without waiting.
    #[inline(always)]
    pub(crate) fn is_unlimited(&self, meta: &Meta) -> bool {
        matches!(meta.kind, Kind::Async) && self.tasks.is_none() && self.names.get(meta.name).is_none()
    }

    /// The permits of an async task that need not wait, of its name and of its kind; `None` if it has to.
    #[inline]
    pub(crate) fn try_admit(&self, meta: &Meta) -> Option<PermitPair> {
        let limits = self.names.get(meta.name);
        #[cfg(feature = "rate-limit")]
        if limits.is_some_and(|limits| limits.rate.is_some()) {
            return None;
        }
        let of_name = match limits {
            Some(limits) => Some(limits.permits.try_acquire()?),
            None => None,
        };
        let of_kind = match self.of_kind(meta.kind) {
            Some(permits) => Some(permits.try_acquire()?),
            None => None,
        };
        Some(PermitPair::new(of_name, of_kind))
    }

    /// How many async tasks of this name would start without waiting; `usize::MAX` if nothing limits them.
    pub(crate) fn may_start(&self, name: TaskName) -> usize {
        let of_kind = self.tasks.as_ref().map_or(usize::MAX, |permits| permits.free());
        self.names.get(name).map_or(of_kind, |limits| limits.may_start().min(of_kind))
    }

    /// Takes all free permits of all kinds, so that nothing starts that needs one.
    #[cfg(feature = "testing")]
    pub(crate) fn take_free_permits(&self) -> Vec<Permit> {
        let kinds = [self.tasks.as_ref(), Some(&self.blocking), Some(&self.cpu)];
        kinds.into_iter().flatten().flat_map(|kind| std::iter::from_fn(|| kind.try_acquire())).collect()
    }

    /// Logs, once, if the priority of a task has no effect.
    #[inline]
    pub(crate) fn note_priority(&self, meta: &Meta) {
        if meta.priority != Priority::default() && self.is_unlimited(meta) {
            self.log_priority(meta);
        }
    }

    #[cold]
    fn log_priority(&self, meta: &Meta) {
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

    /// The limits of a name, if it has any. If this is called under a lock of the ledger, it finds those of a name
    /// whose running tasks have been counted.
    #[inline]
    pub(crate) fn of_name(&self, name: TaskName) -> Option<&NameLimits> {
        self.names.get(name)
    }

    /// The limits of a name, and whether it had none: the caller must count its running tasks then.
    pub(crate) fn limits_of(&self, name: TaskName) -> (&NameLimits, bool) {
        match self.names.get(name) {
            Some(limits) => (limits, false),
            None => self.names.get_or_insert(name, NameLimits::new(PrioritySemaphore::counting())),
        }
    }

    /// How many tasks of a name may run for each key, of those names that have such a limit.
    pub(crate) fn limits_by_key(&self) -> impl Iterator<Item = (TaskName, usize)> {
        self.limits_by_key.iter().map(|(name, limit)| (*name, *limit))
    }

    /// The names that have limits, or had some.
    pub(crate) fn usage_by_name(&self) -> impl Iterator<Item = (TaskName, Usage)> {
        self.names.iter().map(|(name, limits)| (name, limits.permits.usage()))
    }

    /// Pauses or resumes a name that has limits. Returns whether that is new.
    pub(crate) fn set_paused(&self, limits: &NameLimits, pauses: bool) -> bool {
        // SeqCst, here and below. The name is counted before its first task is stopped, and until its last one is
        // served. So a thread that sees a stopped task also sees the count.
        if pauses {
            self.paused.fetch_add(1, Ordering::SeqCst);
        }
        let is_new = limits.permits.set_paused(pauses);
        if is_new != pauses {
            self.paused.fetch_sub(1, Ordering::SeqCst);
        }
        if is_new {
            self.changes.send_replace(());
        }
        is_new
    }

    /// Sets how many tasks of a name may run at a time.
    pub(crate) fn set_limit(&self, limits: &NameLimits, limit: Option<usize>) {
        limits.permits.set_limit(limit);
        self.changes.send_replace(());
    }

    pub(crate) fn is_paused(&self, name: TaskName) -> bool {
        // SeqCst: see `set_paused`.
        self.paused.load(Ordering::SeqCst) > 0 && self.names.get(name).is_some_and(|limits| limits.permits.is_paused())
    }

    /// Like [`PausedNames::marked`], for one task.
    pub(crate) fn marked(&self, info: TaskInfo) -> TaskInfo {
        TaskInfo { paused: waits_for_start(info.state) && self.is_paused(info.name), ..info }
    }

    pub(crate) fn paused_names(&self) -> PausedNames {
        // SeqCst: see `set_paused`.
        if self.paused.load(Ordering::SeqCst) == 0 {
            return PausedNames(FxHashSet::default());
        }
        let paused = self.names.iter().filter(|(_, limits)| limits.permits.is_paused());
        PausedNames(paused.map(|(name, _)| name).collect())
    }

    /// Changes when a name is paused, resumed, or given another limit.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Enters the first queue in which the task may have to wait. The spawning code calls this, because the runtime
    /// does not first poll tasks in the order in which they were spawned.
    pub(crate) fn enqueue(&self, meta: &Meta) -> Entered {
        let request = &AdmitRequest::of(meta);
        if let Some(of_key) = self.limited_key(meta).and_then(|key| self.enqueue_key(request, &key)) {
            return Entered::Key(of_key);
        }
        let rank = self.rank(request, Timestamp::now());
        let Some(limits) = self.names.get(request.name) else {
            return self.of_kind(request.kind).map_or(Entered::None, |kind| Entered::Kind(kind.enqueue(rank)));
        };
        #[cfg(feature = "rate-limit")]
        if let Some(rate) = &limits.rate {
            return Entered::Rate(rate.queue().enqueue(rank));
        }
        Entered::Name(limits.permits.enqueue(rank))
    }

    /// The same for a spawned task that came at `came` and may not start with what it was given then.
    pub(crate) fn enter_again(&self, request: &AdmitRequest, came: Timestamp, of_name: Option<Permit>) -> Entered {
        let rank = self.rank(request, came);
        match (of_name, self.names.get(request.name)) {
            (Some(permit), _) => Entered::Stopped(permit, rank),
            (None, Some(limits)) => Entered::Name(limits.permits.enqueue(rank)),
            (None, None) => Entered::None,
        }
    }

    /// Whether the tasks of its name are limited by key.
    pub(crate) fn limits_key(&self, meta: &Meta) -> bool {
        self.limits_by_key.contains_key(&meta.name)
    }

    /// The key of a task, if the tasks of its name are limited by key.
    pub(crate) fn limited_key(&self, meta: &Meta) -> Option<KeyOfName> {
        if self.limits_key(meta) { meta.key_of_name() } else { None }
    }

    fn enqueue_key(&self, request: &AdmitRequest, key: &KeyOfName) -> Option<KeyedAcquire<KeyOfName>> {
        let limit = *self.limits_by_key.get(&key.name)?;
        Some(self.keys.enqueue(key.clone(), limit, self.rank(request, Timestamp::now())))
    }

    /// Waits until the task may start. `key` is its [limited key](Self::limited_key), unless it has a permit of that,
    /// and `entered` its position in the first queue, if it has [entered](Self::enqueue) one, which is taken. If the
    /// task has to wait for a time, `note_due` is called with that time, and `sleep` waits for it.
    ///
    /// All arguments of this, and of what it calls, are references: each of these futures would have room for what it
    /// is given twice, and there is one for each task that waits.
    ///
    /// # Cancel safety
    /// Dropped, it leaves the queues and releases the permits.
    pub(crate) async fn admit<F>(
        &self,
        request: &AdmitRequest,
        key: Option<&KeyOfName>,
        entered: &mut Entered,
        note_due: &impl Fn(Duration),
        sleep: &impl Fn(Duration) -> F,
    ) -> Permits
    where
        F: Future<Output = ()>,
    {
        if let Some(of_key) = self.take_key(request, key, entered) {
            // Boxed, so that it does not enlarge the future of tasks without a key.
            return Box::pin(self.admit_by_key(of_key, request, note_due, sleep)).await;
        }
        self.admit_by_name(request, entered, note_due, sleep).await
    }

    /// The position in the queue of the task's key, if it has to wait for that.
    fn take_key(
        &self,
        request: &AdmitRequest,
        key: Option<&KeyOfName>,
        entered: &mut Entered,
    ) -> Option<KeyedAcquire<KeyOfName>> {
        match mem::take(entered) {
            Entered::Key(of_key) => Some(of_key),
            Entered::None => self.enqueue_key(request, key?),
            other => {
                *entered = other;
                None
            }
        }
    }

    /// Like [`admit`](Self::admit), with a permit of the task's key first.
    async fn admit_by_key<F>(
        &self,
        of_key: KeyedAcquire<KeyOfName>,
        request: &AdmitRequest,
        note_due: &impl Fn(Duration),
        sleep: &impl Fn(Duration) -> F,
    ) -> Permits
    where
        F: Future<Output = ()>,
    {
        let (acquire, with_key) = of_key.into_parts();
        let permit = with_key(acquired(acquire, request, sleep).await);
        let request = AdmitRequest { place: None, ..*request };
        let permits = self.admit_by_name(&request, &mut Entered::None, note_due, sleep).await;
        Permits { of_key: Some(Box::new(permit)), ..permits }
    }

    /// Like [`admit`](Self::admit), without a key.
    #[cfg_attr(not(feature = "rate-limit"), expect(unused_variables, reason = "only a rate notes when a task is due"))]
    async fn admit_by_name<F>(
        &self,
        request: &AdmitRequest,
        entered: &mut Entered,
        note_due: &impl Fn(Duration),
        sleep: &impl Fn(Duration) -> F,
    ) -> Permits
    where
        F: Future<Output = ()>,
    {
        let rank = entered.rank().unwrap_or_else(|| self.rank(request, Timestamp::now()));
        #[cfg(feature = "rate-limit")]
        if let Some(rate) = self.names.get(request.name).and_then(|limits| limits.rate.as_ref()) {
            // Boxed, so that it does not enlarge the future of tasks without a rate.
            return Box::pin(self.admit_at(rate, request, rank, entered, note_due, sleep)).await;
        }
        self.permits(request, rank, entered, sleep).await
    }

    /// Like [`admit`](Self::admit), at a rate. Only the first of the tasks that wait for the rate acquires permits, and
    /// the rate is checked while it holds them. This keeps the order, and tasks that have waited for permits do not all
    /// start at once. A task that is too early waits without permits.
    #[cfg(feature = "rate-limit")]
    async fn admit_at<F>(
        &self,
        rate: &RateGate,
        request: &AdmitRequest,
        rank: Duration,
        entered: &mut Entered,
        note_due: &impl Fn(Duration),
        sleep: &impl Fn(Duration) -> F,
    ) -> Permits
    where
        F: Future<Output = ()>,
    {
        let entered = match mem::take(entered) {
            Entered::Rate(entered) => entered,
            _ => rate.queue().enqueue(rank),
        };
        let _first = rate.first(entered, note_due).await;
        loop {
            rate.until_ready(note_due, sleep).await;
            let permits = self.permits(request, rank, &mut Entered::None, sleep).await;
            if rate.check() {
                return permits;
            }
        }
    }

    /// Waits for a permit of the task's name, then for one of its kind. While it waits for that of its kind, and while
    /// the limit of its name has become too low, it keeps its place within its name, and has no permit.
    async fn permits<F>(
        &self,
        request: &AdmitRequest,
        rank: Duration,
        entered: &mut Entered,
        sleep: &impl Fn(Duration) -> F,
    ) -> Permits
    where
        F: Future<Output = ()>,
    {
        let (mut of_name, mut of_kind) = match mem::take(entered) {
            Entered::Name(acquire) => (OfName::Entered(acquire), None),
            Entered::Kind(acquire) => (OfName::Nothing, Some(acquire)),
            Entered::Stopped(permit, rank) => (OfName::Reserved(permit.reserve(rank)), None),
            _ => (OfName::Nothing, None),
        };
        loop {
            if let (OfName::Nothing, Some(limits)) = (&of_name, self.names.get(request.name)) {
                of_name = OfName::Entered(limits.permits.acquire(rank));
                // It may have been given one meanwhile, which it must not hold while it waits for its name.
                of_kind = None;
            }
            of_name = match of_name {
                OfName::Entered(acquire) => OfName::Permit(acquired(acquire, request, sleep).await),
                OfName::Reserved(reserved) => {
                    reserved.ready().await;
                    OfName::Reserved(reserved)
                }
                other => other,
            };
            let kind = match self.of_kind(request.kind) {
                None => None,
                Some(semaphore) => {
                    let free = if of_kind.is_none() { semaphore.try_acquire() } else { None };
                    if free.is_none() {
                        if let OfName::Permit(permit) = of_name {
                            of_name = OfName::Reserved(permit.reserve(rank));
                        }
                    }
                    let entered = of_kind.take().unwrap_or_else(|| semaphore.acquire(rank));
                    Some(if let Some(permit) = free { permit } else { acquired(entered, request, sleep).await })
                }
            };
            of_name = match of_name {
                OfName::Nothing if self.names.get(request.name).is_none() => {
                    return Permits::of_name_and_kind(None, kind);
                }
                OfName::Permit(permit) if permit.may_start() => return Permits::of_name_and_kind(Some(permit), kind),
                OfName::Permit(permit) => OfName::Reserved(permit.reserve(rank)),
                OfName::Reserved(reserved) => match reserved.try_start() {
                    Ok(permit) => return Permits::of_name_and_kind(Some(permit), kind),
                    Err(reserved) => OfName::Reserved(reserved),
                },
                other => other,
            };
        }
    }

    fn rank(&self, request: &AdmitRequest, came: Timestamp) -> Duration {
        request.priority.rank(request.place.unwrap_or(came).since(self.epoch), self.promote_after)
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
async fn acquired<F>(mut acquire: Acquire, request: &AdmitRequest, sleep: &impl Fn(Duration) -> F) -> Permit
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
    request: &AdmitRequest,
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
        if watch.0.granted() == granted && !watch.0.is_paused() {
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

impl Limits {
    fn of_names(&self) -> Result<LimitedNames, BuildError> {
        let mut permits = HashMap::new();
        for &(name, limit) in &self.by_name {
            check_of_name("limit_by_name", name, limit)?;
            if permits.insert(name, PrioritySemaphore::new(limit)).is_some() {
                return Err(BuildError::TwoLimitsOfName { setting: "limit_by_name", name });
            }
        }
        let names = LimitedNames::default();
        #[cfg(feature = "rate-limit")]
        for &(name, limit) in &self.rates {
            check_name("rate_limit", name)?;
            if limit.is_zero() {
                return Err(BuildError::ZeroLimitOfName { setting: "rate_limit", name });
            }
            if let Some(burst) = limit.huge_burst() {
                return Err(BuildError::HugeBurst { name, burst });
            }
            let permits = permits.remove(&name).unwrap_or_else(|| PrioritySemaphore::new(usize::MAX));
            let limits = NameLimits { rate: Some(RateGate::new(limit)), permits };
            if !names.get_or_insert(name, limits).1 {
                return Err(BuildError::TwoLimitsOfName { setting: "rate_limit", name });
            }
        }
        for (name, permits) in permits {
            names.get_or_insert(name, NameLimits::new(permits));
        }
        Ok(names)
    }

    fn of_keys(&self) -> Result<FxHashMap<TaskName, usize>, BuildError> {
        let (mut limits, setting) = (FxHashMap::default(), "limit_by_key");
        for &(name, limit) in &self.by_key {
            check_of_name(setting, name, limit)?;
            if limits.insert(name, limit).is_some() {
                return Err(BuildError::TwoLimitsOfName { setting, name });
            }
        }
        Ok(limits)
    }
}

/// # Errors
/// If the name stands for many.
pub(crate) fn check_name(setting: &'static str, name: TaskName) -> Result<(), BuildError> {
    if name.is_other() { Err(BuildError::OtherName { setting }) } else { Ok(()) }
}

/// # Errors
/// If the limit of a name is zero or too high, or the name stands for many.
fn check_of_name(setting: &'static str, name: TaskName, limit: usize) -> Result<(), BuildError> {
    check_name(setting, name)?;
    match limit {
        0 => Err(BuildError::ZeroLimitOfName { setting, name }),
        limit if limit > MAX_LIMIT => Err(BuildError::HugeLimitOfName { setting, name, limit }),
        _ => Ok(()),
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
