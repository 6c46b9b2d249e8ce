//! The work of a task: one allocation for the future and its metadata; and how work is polled.

use std::{
    future::Future,
    mem,
    panic::Location,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tracing::Span;

use crate::{
    model::{Ending, Identity, KeyOfName, NamePolicy, Outcome, Priority, RetryPolicy, TaskId, TaskName},
    task::{
        IntoOutcome,
        batch_signal::BatchGuard,
        keyed::{Claim, Held, Keyed},
    },
    telemetry::{Telemetry, span::task_span, wrap::Wrappers},
    util::{
        clock::Timestamp,
        delay_queue::EntryGuard,
        keyed_semaphore::KeyedPermit,
        panic::{Panic, catch_panic, drop_catching},
        rare::Rare,
        semaphore::Permit,
    },
};

/// The kind of a task, which decides where its work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Async,
    Blocking,
    Cpu,
}

pub(crate) type Condition = Box<dyn Fn(&Ending) -> bool + Send>;

/// The settings that few tasks have. Boxed, so that the others only pay for a pointer.
#[derive(Default)]
pub(crate) struct Policy {
    pub(crate) timeout: Option<Duration>,
    pub(crate) when: Option<Condition>,
    pub(crate) delay: Option<Duration>,
    pub(crate) expires_after: Option<Duration>,
    pub(crate) keyed: Option<Box<Keyed>>,
    /// Until when it must start, from its add to its start.
    pub(crate) start_by: Option<StartBy>,
    /// Ends the delay early when the batch is ready.
    pub(crate) batched: Option<BatchGuard>,
    pub(crate) retry: Option<Box<RetryPolicy>>,
    /// What holds for its name, from its add on.
    pub(crate) of_name: Option<Arc<NamePolicy>>,
    /// The dead letter of which the task is a replay.
    pub(crate) replay_of: Option<TaskId>,
    /// Foreign code around each step of the work.
    pub(crate) wrappers: Option<Wrappers>,
}

impl Policy {
    /// The time limit of each attempt, if the task or its name has one.
    #[inline]
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        self.timeout.or_else(|| self.of_name.as_ref()?.timeout)
    }

    /// The time within which the task must start, if it or its name has one. That of the name is not for batches: their
    /// items were accepted, and wait for others by the policy of the batcher.
    #[inline]
    pub(crate) fn start_limit(&self) -> Option<Duration> {
        let of_name = || self.of_name.as_ref().filter(|_| self.batched.is_none())?.expires_after;
        self.expires_after.or_else(of_name)
    }

    /// Takes the policy by which the task is retried, if it is.
    pub(crate) fn take_retry(&mut self) -> Option<Box<RetryPolicy>> {
        let mut retry = self.retry.take()?;
        if let Some(of_name) = &self.of_name {
            *retry = mem::take(&mut *retry).or_of_name(of_name.retry.as_ref());
        }
        Some(retry)
    }

    /// Whether a task with this policy can be polled directly, if its key is not limited: it needs permits and a time
    /// limit at most.
    pub(crate) fn has_only_limits(&self) -> bool {
        let Self {
            timeout,
            when,
            delay,
            batched,
            retry,
            replay_of,
            keyed,
            expires_after: _,
            of_name: _,
            start_by: _,
            wrappers: _,
        } = self;
        let may_run = timeout.is_none_or(|limit| !limit.is_zero());
        let is_unique = keyed.as_ref().is_some_and(|keyed| keyed.unique.is_some());
        let waits = when.is_some() || delay.is_some() || batched.is_some() || is_unique;
        may_run && !waits && retry.is_none() && replay_of.is_none()
    }
}

/// The permits with which a task runs. Released when dropped.
#[derive(Default)]
pub(crate) struct Permits {
    pub(crate) pair: PermitPair,
    pub(crate) of_key: Option<Box<KeyedPermit<KeyOfName>>>,
}

impl Permits {
    pub(crate) const fn of_name_and_kind(of_name: Option<Permit>, of_kind: Option<Permit>) -> Self {
        Self { pair: PermitPair::new(of_name, of_kind), of_key: None }
    }
}

/// The permits of the name and of the kind of a task.
#[derive(Default)]
pub(crate) struct PermitPair {
    pub(crate) of_name: Option<Permit>,
    _of_kind: Option<Permit>,
}

impl PermitPair {
    pub(crate) const NONE: Self = Self::new(None, None);

    pub(crate) const fn new(of_name: Option<Permit>, of_kind: Option<Permit>) -> Self {
        Self { of_name, _of_kind: of_kind }
    }
}

/// Until when a task must start. Its entry in the registry's timer is removed when this is dropped.
pub(crate) struct StartBy {
    pub(crate) until: Timestamp,
    _entry: Option<EntryGuard>,
}

impl StartBy {
    pub(crate) const fn new(until: Timestamp, entry: Option<EntryGuard>) -> Self {
        Self { until, _entry: entry }
    }
}

/// The metadata of a task.
pub(crate) struct Meta {
    id: TaskId,
    pub(crate) name: TaskName,
    pub(crate) location: &'static Location<'static>,
    pub(crate) added: Option<Timestamp>,
    pub(crate) span: Rare<Span>,
    pub(crate) policy: Rare<Policy>,
    /// The permits of its name and of its kind, if it is polled directly. Stored inline, because an allocation would cost
    /// more than all the rest of a limit that is not met.
    pub(crate) permits: PermitPair,
    /// Keeps its time limit in the registry's timer, if it is polled directly.
    pub(crate) time_limit: Rare<EntryGuard>,
    pub(crate) kind: Kind,
    pub(crate) priority: Priority,
    pub(crate) started: bool,
    /// Whether the waker of the tokio task that runs it is stored with the live task.
    pub(crate) parked: bool,
}

impl Meta {
    #[track_caller]
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            id: TaskId::UNASSIGNED,
            name: TaskName::UNNAMED,
            location: Location::caller(),
            added: None,
            span: Rare::NONE,
            policy: Rare::NONE,
            permits: PermitPair::NONE,
            time_limit: Rare::NONE,
            kind,
            priority: Priority::Normal,
            started: false,
            parked: false,
        }
    }

    pub(crate) const fn id(&self) -> TaskId {
        self.id
    }

    /// The key of the task, if it has one.
    pub(crate) fn keyed(&self) -> Option<&Keyed> {
        self.policy.as_ref()?.keyed.as_deref()
    }

    /// The key of the task, and its name.
    pub(crate) fn key_of_name(&self) -> Option<KeyOfName> {
        Some(KeyOfName { name: self.name, key: self.keyed()?.key.clone() })
    }

    /// Whether no other live task may have its key.
    #[inline]
    pub(crate) fn is_unique(&self) -> bool {
        self.keyed().is_some_and(|keyed| keyed.unique.is_some())
    }

    /// The unique key that it has claimed.
    pub(crate) fn held(&self) -> Option<Held> {
        match self.keyed()?.claim {
            Claim::Held(held) => Some(held),
            Claim::None | Claim::Duplicate(_) | Claim::Refused => None,
        }
    }

    /// The task of which it is a duplicate, so that it must not start.
    #[inline]
    pub(crate) fn duplicate_of(&self) -> Option<TaskId> {
        match self.keyed()?.claim {
            Claim::Duplicate(of) => Some(of),
            Claim::None | Claim::Held(_) | Claim::Refused => None,
        }
    }

    /// Notes the task because of which it is discarded.
    pub(crate) fn note_duplicate(&mut self, other: TaskId) {
        if let Some(keyed) = self.policy.as_mut().and_then(|policy| policy.keyed.as_deref_mut()) {
            keyed.claim = Claim::Duplicate(other);
        }
    }

    /// Until when the task must start, if it has not started and must start in time.
    #[inline]
    pub(crate) fn start_by(&self) -> Option<Timestamp> {
        Some(self.policy.as_ref()?.start_by.as_ref()?.until)
    }

    /// Whether the task has not started in time.
    #[inline]
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.start_by().is_some_and(|until| now >= until)
    }

    /// Removes the limit for the start, because the task has started or was not accepted.
    #[inline]
    pub(crate) fn end_start_limit(&mut self) {
        if let Some(policy) = &mut *self.policy {
            policy.start_by = None;
        }
    }

    pub(crate) fn set_wrappers(&mut self, wrappers: Wrappers) {
        self.policy.get_or_insert_default().wrappers = Some(wrappers);
    }

    /// Whether its policy requires more of an add than to count and list the task: it has to start in time, or has a key.
    #[inline]
    pub(crate) fn has_extras_at_add(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.start_limit().is_some() || policy.keyed.is_some())
    }

    /// Whether the steps of its work run inside nothing: it has no span and no wrappers.
    #[inline]
    fn has_no_surroundings(&self) -> bool {
        self.span.is_none() && self.policy.as_ref().is_none_or(|policy| policy.wrappers.is_none())
    }

    /// The wrappers of the task, if it has any.
    #[inline]
    fn wrappers(&self) -> Option<Wrappers> {
        self.policy.as_ref()?.wrappers.clone()
    }

    /// Removes what a registry has given to a task that it does not accept.
    pub(crate) fn leave_registry(&mut self) {
        self.remove_wrappers();
        if let Some(policy) = &mut *self.policy {
            policy.of_name = None;
        }
    }

    pub(crate) fn remove_wrappers(&mut self) {
        drop_catching(self.policy.as_mut().and_then(|policy| policy.wrappers.take()));
    }

    /// Gives the task its id and, if a subscriber is interested, its span. The span is made here, because the request's
    /// span is open now.
    #[inline]
    pub(crate) fn accept(&mut self, id: TaskId, now: Timestamp, telemetry: &Telemetry) {
        self.id = id;
        self.added = Some(now);
        if telemetry.spans.may_be_enabled() {
            self.open_span(telemetry);
        }
    }

    #[inline(never)]
    fn open_span(&mut self, telemetry: &Telemetry) {
        *self.span = task_span(self.id, self.name, telemetry.spans).unwrap_or_else(|panic| {
            telemetry.hook_panicked("the log", Some((self.id, self.name)), &panic);
            None
        });
    }

    /// The metadata for other work of the same task: a wrapper, or one attempt.
    pub(crate) fn on_behalf(&self, kind: Kind) -> Self {
        Self {
            id: self.id,
            name: self.name,
            location: self.location,
            added: self.added,
            // The clone calls the subscriber, which may panic.
            span: catch_panic(|| self.span.clone()).unwrap_or_default(),
            policy: Rare::NONE,
            permits: PermitPair::NONE,
            time_limit: Rare::NONE,
            kind,
            priority: self.priority,
            started: true,
            parked: false,
        }
    }

    #[inline]
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            id: self.id(),
            name: self.name,
            location: self.location,
            added: self.added.unwrap_or_else(Timestamp::now),
        }
    }
}

pin_project! {
    /// The single allocation of a task: its metadata and its future. The future is dropped first, because the permits
    /// of the task are among its metadata.
    pub(crate) struct Record<F> {
        #[pin]
        pub(crate) future: F,
        pub(crate) meta: Meta,
    }
}

impl<F> Work for Record<F>
where
    F: Future + Send,
    F::Output: IntoOutcome,
{
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(self: Pin<&mut Self>) -> &mut Meta {
        self.project().meta
    }

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        self.project().future.poll(context).map(|output| output.into_outcome().into())
    }
}

/// Makes the work of each attempt of a retrying task. It is never polled itself.
pub(crate) struct Source<M> {
    pub(crate) meta: Meta,
    pub(crate) make: M,
}

impl<M> Unpin for Source<M> {}

impl<M> Work for Source<M>
where
    M: FnMut(Meta) -> BoxedWork + Send,
{
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(self: Pin<&mut Self>) -> &mut Meta {
        &mut self.get_mut().meta
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<End> {
        Poll::Ready(Outcome::Aborted.into())
    }

    fn next_attempt(self: Pin<&mut Self>) -> Result<Option<BoxedWork>, Panic> {
        let Self { meta, make, .. } = self.get_mut();
        let (wrappers, mut made) = (meta.wrappers(), None);
        catch_inside(meta.span.as_deref(), wrappers.as_ref(), || made = Some(make(meta.on_behalf(meta.kind))))?;
        if let (Some(work), Some(wrappers)) = (&mut made, wrappers) {
            work.as_mut().meta_mut().set_wrappers(wrappers);
        }
        Ok(made)
    }
}

/// A closure as a future: the first poll calls the closure and returns its result.
pub(crate) struct Call<F>(pub(crate) Option<F>);

impl<F> Unpin for Call<F> {}

impl<F, T> Future for Call<F>
where
    F: FnOnce() -> T,
{
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<T> {
        match self.0.take() {
            Some(closure) => Poll::Ready(closure()),
            None => Poll::Pending,
        }
    }
}

pub(crate) type BoxedWork = Pin<Box<dyn Work>>;

/// The work of a task, as a trait object.
pub(crate) trait Work: Send {
    fn meta(&self) -> &Meta;
    fn meta_mut(self: Pin<&mut Self>) -> &mut Meta;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End>;

    /// The work of the next attempt; `None` for work that has only one.
    ///
    /// # Errors
    /// If the factory panics.
    fn next_attempt(self: Pin<&mut Self>) -> Result<Option<BoxedWork>, Panic> {
        Ok(None)
    }
}

/// Runs one step of a task inside the task's span and its wrappers, and catches its panic. A panic of the subscriber,
/// which is called for that, or of a wrapper is not the task's, and is never a second one while the task's unwinds.
#[inline]
fn catch_inside(span: Option<&Span>, wrappers: Option<&Wrappers>, mut step: impl FnMut()) -> Result<(), Panic> {
    let entered = span.map(|span| catch_panic(|| span.enter()));
    let result = match wrappers {
        None => catch_panic(step),
        Some(wrappers) => {
            let mut result = Ok(());
            wrappers.around(&mut || result = catch_panic(&mut step));
            result
        }
    };
    entered.into_iter().for_each(drop_catching);
    result
}

/// Polls work inside its span and its wrappers, and catches its panics. The work is dropped before its end is returned,
/// and a panic of that drop is caught, too.
#[inline(always)]
fn poll_catching(
    slot: &mut Option<BoxedWork>,
    span: Option<&Span>,
    wrappers: Option<&Wrappers>,
    context: &mut Context<'_>,
) -> Poll<End> {
    let mut end = None;
    // One `catch_panic` for both the poll and the drop.
    let poll = || {
        let Some(work) = slot else { return };
        if let Poll::Ready(ready) = work.as_mut().poll(context) {
            end = Some(ready);
            *slot = None;
        }
    };
    match catch_inside(span, wrappers, poll) {
        Ok(()) => end.map_or(Poll::Pending, Poll::Ready),
        Err(panic) => Poll::Ready(end_of_panic(slot, span, wrappers, end, panic)),
    }
}

/// The end of work of which the poll has panicked, or the drop after it has returned `end`.
#[cold]
fn end_of_panic(
    slot: &mut Option<BoxedWork>,
    span: Option<&Span>,
    wrappers: Option<&Wrappers>,
    end: Option<End>,
    panic: Panic,
) -> End {
    if let Some(end) = end.filter(|end| !end.is_completed()) {
        return end;
    }
    let _caught = catch_inside(span, wrappers, || *slot = None);
    Outcome::Panicked(panic).into()
}

/// Like [`poll_catching`], but takes the span and the wrappers from the work. At the end the span is left in `span`, so
/// that the end is reported inside it.
#[inline]
pub(crate) fn poll_to_end(
    slot: &mut Option<BoxedWork>,
    span: &mut Option<Box<Span>>,
    context: &mut Context<'_>,
) -> Poll<End> {
    let is_plain = slot.as_ref().is_some_and(|work| work.meta().has_no_surroundings());
    if is_plain { poll_catching(slot, None, None, context) } else { poll_inside(slot, span, context) }
}

/// The same for a task that may have a span or wrappers.
fn poll_inside(slot: &mut Option<BoxedWork>, span: &mut Option<Box<Span>>, context: &mut Context<'_>) -> Poll<End> {
    let mut wrappers = None;
    if let Some(work) = slot {
        let meta = work.as_mut().meta_mut();
        *span = meta.span.take();
        wrappers = meta.wrappers();
    }
    let polled = poll_catching(slot, span.as_deref(), wrappers.as_ref(), context);
    // Dropping a wrapper calls foreign code, which may panic.
    wrappers.into_iter().for_each(drop_catching);
    if let (Poll::Pending, Some(work)) = (&polled, slot) {
        *work.as_mut().meta_mut().span = span.take();
    }
    polled
}

/// Like [`poll_to_end`], but drops the span and returns the outcome.
pub(crate) fn poll_work(slot: &mut Option<BoxedWork>, context: &mut Context<'_>) -> Poll<Outcome> {
    let mut span = None;
    let polled = poll_to_end(slot, &mut span, context).map(End::into_outcome);
    // Dropping the span calls the subscriber, which may panic.
    span.into_iter().for_each(drop_catching);
    polled
}

/// Drops work inside its wrappers and catches a panic of the drop.
#[inline]
pub(crate) fn drop_work(slot: &mut Option<BoxedWork>) -> Result<(), Panic> {
    let wrappers = slot.as_ref().and_then(|work| work.meta().wrappers());
    let dropped = catch_inside(None, wrappers.as_ref(), || *slot = None);
    wrappers.into_iter().for_each(drop_catching);
    dropped
}

/// An outcome in transit. Boxed so that it fits one word; `None` means completed.
#[derive(Debug)]
pub(crate) struct End(Option<Box<Outcome>>);

impl End {
    pub(crate) const fn is_completed(&self) -> bool {
        self.0.is_none()
    }

    #[inline]
    pub(crate) fn into_outcome(self) -> Outcome {
        self.0.map_or(Outcome::Completed, |outcome| *outcome)
    }
}

impl From<Outcome> for End {
    #[inline]
    fn from(outcome: Outcome) -> Self {
        Self((!outcome.is_completed()).then(|| Box::new(outcome)))
    }
}
