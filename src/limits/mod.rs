//! Who may start next: the limits of a registry, and what a task has to wait for.

#[cfg(feature = "rate-limit")]
pub(crate) mod rate;
pub(crate) mod semaphore;

use std::{sync::Arc, thread, time::Duration};

#[cfg(feature = "rate-limit")]
use futures::FutureExt;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::{
    engine::shared::Inner,
    ledger::live::Live,
    limits::semaphore::{Permit, Permits, Waiting},
    model::{BoxError, BuildError, Priority, TaskId, name_or_unnamed},
    task::work::{Kind, Meta},
    util::loom::atomic::{AtomicBool, Ordering},
};
#[cfg(feature = "rate-limit")]
use crate::{limits::rate::Pace, model::RateLimit};

/// The highest limit that makes sense to ask for: what tokio's semaphores count to.
const MOST: usize = usize::MAX >> 3;

/// The limits, as the builder was told them.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) max_concurrent: Option<usize>,
    pub(crate) max_blocking: usize,
    pub(crate) max_cpu: usize,
    pub(crate) promote_after: Duration,
    pub(crate) named: Vec<(&'static str, usize)>,
    #[cfg(feature = "rate-limit")]
    pub(crate) rates: Vec<(&'static str, RateLimit)>,
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
            named: Vec::new(),
            #[cfg(feature = "rate-limit")]
            rates: Vec::new(),
        }
    }
}

/// What the tasks of a registry have to wait for before they start.
pub(crate) struct Admission {
    /// Ranks count from here.
    epoch: Instant,
    promote_after: Duration,
    /// `None`: no limit, and nothing to wait for.
    tasks: Option<Arc<Permits>>,
    blocking: Arc<Permits>,
    cpu: Arc<Permits>,
    /// Looked at only if there are any.
    names: FxHashMap<&'static str, NameLimits>,
    /// Somebody was told that a priority has no effect.
    priority_noted: AtomicBool,
}

/// The limits of the tasks of one name.
#[derive(Default)]
struct NameLimits {
    #[cfg(feature = "rate-limit")]
    pace: Option<Pace>,
    permits: Option<Arc<Permits>>,
}

/// What has to be known of a task that waits.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) id: TaskId,
    pub(crate) kind: Kind,
    name: &'static str,
    priority: Priority,
}

impl Claim {
    pub(crate) const fn of(meta: &Meta) -> Self {
        Self { id: meta.id(), kind: meta.kind, name: meta.name, priority: meta.priority }
    }
}

/// The permits of a task that may run; given back when this is dropped.
pub(crate) struct Pass {
    _of_name: Option<Permit>,
    _of_kind: Option<Permit>,
}

impl Admission {
    /// # Errors
    /// If a limit is nonsense.
    pub(crate) fn new(limits: &Limits) -> Result<Self, BuildError> {
        check("max_concurrent", limits.max_concurrent)?;
        check("max_blocking", Some(limits.max_blocking))?;
        check("max_cpu", Some(limits.max_cpu))?;
        Ok(Self {
            epoch: Instant::now(),
            promote_after: limits.promote_after,
            tasks: limits.max_concurrent.map(Permits::new),
            blocking: Permits::new(limits.max_blocking),
            cpu: Permits::new(limits.max_cpu),
            names: limits.by_name()?,
            priority_noted: AtomicBool::new(false),
        })
    }

    /// Whether such a task starts at once.
    #[inline]
    pub(crate) fn lets_pass(&self, meta: &Meta) -> bool {
        matches!(meta.kind, Kind::Async) && self.tasks.is_none() && self.of_name(meta.name).is_none()
    }

    fn of_name(&self, name: &'static str) -> Option<&NameLimits> {
        if self.names.is_empty() { None } else { self.names.get(name) }
    }

    const fn of_kind(&self, kind: Kind) -> Option<&Arc<Permits>> {
        match kind {
            Kind::Async => self.tasks.as_ref(),
            Kind::Blocking => Some(&self.blocking),
            Kind::Cpu => Some(&self.cpu),
        }
    }

    /// Says once that a priority has no effect, if that is so.
    pub(crate) fn note_priority(&self, meta: &Meta) {
        // Relaxed: at worst it is said twice.
        if meta.priority == Priority::default() || !self.lets_pass(meta) || self.priority_noted.load(Ordering::Relaxed)
        {
            return;
        }
        self.priority_noted.store(true, Ordering::Relaxed);
        tracing::debug!(
            target: "postlude",
            name = meta.name,
            priority = ?meta.priority,
            "a priority has no effect where nothing waits: set `max_concurrent`, or a `limit` for this name, on the registry's builder"
        );
    }

    /// Joins the first queue in which a task has to wait. Tasks are not first polled in the order in which they were
    /// spawned: this keeps it.
    pub(crate) fn join(&self, claim: Claim) -> Option<Waiting> {
        let limits = self.of_name(claim.name);
        #[cfg(feature = "rate-limit")]
        if limits.is_some_and(|limits| limits.pace.is_some()) {
            return None;
        }
        let of_name = limits.and_then(|limits| limits.permits.as_ref());
        let permits = of_name.or_else(|| self.of_kind(claim.kind))?;
        Some(permits.join(claim.priority.rank(self.epoch.elapsed(), self.promote_after)))
    }

    /// Waits for a permit of the task's name, then for one of its kind. Cancel safe.
    async fn permits(&self, claim: Claim, mut joined: Option<Waiting>, mut rank: impl FnMut() -> Duration) -> Pass {
        let of_name = match self.of_name(claim.name).and_then(|limits| limits.permits.as_ref()) {
            Some(permits) => Some(permits.acquire(joined.take(), &mut rank).await),
            None => None,
        };
        let of_kind = match self.of_kind(claim.kind) {
            Some(permits) => Some(permits.acquire(joined.take(), rank).await),
            None => None,
        };
        Pass { _of_name: of_name, _of_kind: of_kind }
    }
}

impl Inner {
    /// Looks at a task before it is accepted. Never under a lock.
    ///
    /// # Errors
    /// If the rule of the user's says no.
    #[inline]
    pub(crate) fn consider(&self, meta: &Meta) -> Result<(), BoxError> {
        self.admission.note_priority(meta);
        self.ask_rule(|| {
            let identity = meta.identity();
            Live::new(identity).info(identity.added)
        })
    }

    /// Waits for a turn: for the rate of the task's name, then for a permit of its name, then for one of its kind;
    /// in the first of these queues it may have its place. Cancel safe.
    pub(crate) async fn admit(&self, claim: Claim, joined: Option<Waiting>) -> Pass {
        let Admission { epoch, promote_after, .. } = self.admission;
        // Drawn once: a task keeps its rank from one queue to the next.
        let mut rank = joined.as_ref().map(Waiting::rank);
        let rank = || *rank.get_or_insert_with(|| claim.priority.rank(epoch.elapsed(), promote_after));
        #[cfg(feature = "rate-limit")]
        if let Some(pace) = self.admission.of_name(claim.name).and_then(|limits| limits.pace.as_ref()) {
            // Boxed, so that tasks without a rate have no room for it.
            return Box::pin(self.admit_at(pace, claim, rank)).await;
        }
        self.admission.permits(claim, joined, rank).await
    }

    /// The same at a pace. A start is taken only with the permits in hand, so that tasks which have waited long for those
    /// do not start all at once; and too early, they are given back.
    #[cfg(feature = "rate-limit")]
    async fn admit_at(&self, pace: &Pace, claim: Claim, mut rank: impl FnMut() -> Duration) -> Pass {
        let mut head = pace.head(self, claim.id, &mut rank).await;
        loop {
            pace.keep(self, claim.id).await;
            if let Some(pass) = self.admission.permits(claim, None, &mut rank).now_or_never() {
                if pace.take() {
                    return pass;
                }
                continue;
            }
            // Others of the name may have their turn meanwhile.
            drop(head);
            let pass = self.admission.permits(claim, None, &mut rank).await;
            if pace.take() {
                return pass;
            }
            drop(pass);
            head = pace.head(self, claim.id, &mut rank).await;
        }
    }
}

impl Limits {
    fn by_name(&self) -> Result<FxHashMap<&'static str, NameLimits>, BuildError> {
        let mut names = FxHashMap::<_, NameLimits>::default();
        for &(name, limit) in &self.named {
            let name = name_or_unnamed(name);
            if limit == 0 {
                return Err(BuildError::ZeroLimitOfName { setting: "limit", name });
            }
            let permits = Permits::new(limit.min(MOST));
            if names.entry(name).or_default().permits.replace(permits).is_some() {
                return Err(BuildError::TwoLimitsOfName { setting: "limit", name });
            }
        }
        #[cfg(feature = "rate-limit")]
        for &(name, limit) in &self.rates {
            let name = name_or_unnamed(name);
            if limit.is_zero() {
                return Err(BuildError::ZeroLimitOfName { setting: "rate_limit", name });
            }
            if names.entry(name).or_default().pace.replace(Pace::new(limit)).is_some() {
                return Err(BuildError::TwoLimitsOfName { setting: "rate_limit", name });
            }
        }
        Ok(names)
    }
}

/// # Errors
/// If the limit is zero, or beyond counting.
pub(crate) const fn check(name: &'static str, limit: Option<usize>) -> Result<(), BuildError> {
    match limit {
        Some(0) => Err(BuildError::ZeroLimit { name }),
        Some(limit) if limit > MOST => Err(BuildError::HugeLimit { name, limit }),
        Some(_) | None => Ok(()),
    }
}
