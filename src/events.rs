//! What is told of a task: its span, the log lines of its attempts and its end, and who else hears of it.

use std::{cell::RefCell, fmt, thread::LocalKey, time::Duration};

use tracing::{Level, Span, field, level_filters::LevelFilter};

use crate::{
    BoxError, DiscardReason, Outcome, Panic, TaskId, TaskInfo, TaskReport,
    inner::Inner,
    live::Ended,
    observer::News,
    outcome::{Chain, drop_quietly, guarded},
    sync::atomic::Ordering,
};

/// How the span of a task is related to the span in which it was added, mostly the request's.
///
/// What a task logs, and the line that says how it ended, stand in a span of its own: `task{id, name, set}`.
///
/// ```
/// use postlude::{SpanRelation, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), postlude::BuildError> {
/// let registry = TaskRegistry::builder().spans(SpanRelation::ChildOf).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpanRelation {
    /// It follows from that span, which is closed with the response, whatever the task takes: a trace shows a request of
    /// the length that the client saw, and a link from the task to it. A log line of the task does not show the fields of
    /// the request.
    #[default]
    FollowsFrom,
    /// It is a child of that span, which stays open until its last task has ended: a log line of the task shows the fields
    /// of the request, such as its id, and a trace shows one tree. A span that measures the request measures its tasks, too.
    ChildOf,
}

/// Whether anybody may want a task's span.
pub(crate) fn may_have_spans() -> bool {
    LevelFilter::current() >= Level::INFO
}

/// The span in which the task's work runs.
pub(crate) fn task_span(id: TaskId, name: &'static str, relation: SpanRelation) -> Option<Box<Span>> {
    if !may_have_spans() {
        return None;
    }
    let set = field::Empty;
    let span = match relation {
        SpanRelation::FollowsFrom => tracing::info_span!(target: "postlude", parent: None, "task", %id, name, set),
        SpanRelation::ChildOf => tracing::info_span!(target: "postlude", "task", %id, name, set),
    };
    if span.is_disabled() {
        return None;
    }
    if let Some(set) = id.set() {
        span.record("set", set.0);
    }
    if relation == SpanRelation::FollowsFrom {
        span.follows_from(Span::current());
    }
    Some(Box::new(span))
}

/// Runs our own code inside a task's span, and then lets go of the span.
#[inline]
pub(crate) fn inside<R>(span: Option<Box<Span>>, then: impl FnOnce() -> R) -> R {
    let Some(span) = span else {
        return then();
    };
    // The subscriber is the user's code: a panic of it goes no further.
    let entered = guarded(|| span.enter()).ok();
    let result = then();
    drop_quietly(entered);
    drop_quietly(span);
    result
}

/// Logs how a task ended: an error for what went wrong, a warning for what somebody asked for, and nothing above
/// `debug` for a task that completed. The task's span has been closed with its work.
pub(crate) fn log(report: &TaskReport) {
    macro_rules! event {
        ($level:ident, $($field:tt)*) => {
            tracing::$level!(
                target: "postlude",
                id = %report.id,
                name = report.name,
                location = %report.location,
                set = report.set.map(|set| set.0),
                attempt = report.attempt,
                replay_of = report.replay_of.map(tracing::field::display),
                queued_for = ?report.queued_for,
                ran_for = ?report.ran_for,
                $($field)*
            )
        };
    }

    match &report.outcome {
        Outcome::Completed => event!(debug, "task completed"),
        Outcome::Failed(error) => event!(error, error = %Chain(error), "task failed"),
        Outcome::Panicked(panic) => event!(error, error = %panic, "task panicked"),
        Outcome::TimedOut(limit) => event!(error, ?limit, "task timed out"),
        Outcome::Aborted => event!(warn, "task aborted"),
        Outcome::Discarded(reason @ (DiscardReason::Capacity | DiscardReason::Closed)) => {
            event!(error, %reason, "task discarded");
        }
        Outcome::Discarded(reason) => {
            let error = report.refusal.as_deref().map(|refusal| field::display(Chain(refusal)));
            event!(warn, %reason, error, "task discarded");
        }
    }
}

/// Why an attempt failed, in the words in which it is logged.
struct Cause<'a>(&'a Outcome);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Failed(error) => Chain(error).fmt(f),
            outcome => outcome.fmt(f),
        }
    }
}

/// The registries whose foreign code a thread is in.
type Inside = LocalKey<RefCell<Vec<usize>>>;

impl Inner {
    /// Calls foreign code that may come back here on its own thread: `None` if this comes from within it.
    fn outermost<R>(&self, inside: &'static Inside, foreign: impl FnOnce() -> R) -> Option<Result<R, Panic>> {
        let own = std::ptr::from_ref(self).addr();
        let enter = |inside: &RefCell<Vec<usize>>| {
            let mut inside = inside.borrow_mut();
            let is_within = inside.contains(&own);
            if !is_within {
                inside.push(own);
            }
            is_within
        };
        // On a thread that is ending there is nothing to remember, both times.
        if inside.try_with(enter).unwrap_or(false) {
            return None;
        }
        let result = guarded(foreign);
        let _forgotten = inside.try_with(|inside| inside.borrow_mut().pop());
        Some(result)
    }

    /// What is left to do when the end of an accepted task has been counted. Never under a lock.
    pub(crate) fn settle(&self, mut ended: Ended) {
        self.ledger.give_back();
        let waker = ended.waker();
        self.tell(ended);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The same for a task that completed and has left nothing, if nobody [wants to hear](Self::wants_completed) of
    /// that.
    #[inline]
    pub(crate) fn settle_quietly(&self, idle: bool) {
        self.ledger.give_back();
        self.ledger.settled(idle);
    }

    /// Whether somebody wants to know of tasks that completed. Not to be asked under a lock: a subscriber of the
    /// user's may have a say in it.
    #[inline]
    pub(crate) fn wants_completed(&self) -> bool {
        self.audience.is_attentive() || tracing::enabled!(target: "postlude", Level::DEBUG)
    }

    /// Tells what has become of a task: the log, a shutdown, the observers, the dead letters, and whoever waits.
    /// Nothing that the user brings into it, be it an error's `Display` or its `Drop`, gets further than this.
    pub(crate) fn tell(&self, mut ended: Ended) {
        let line = ended.live.identity.id.line;
        if ended.quiet {
            drop_quietly(ended);
            let idle = self.ledger.books(line).is_idle();
            return self.ledger.settled(idle);
        }
        let report = ended.report();
        if let Err(panic) = guarded(|| log(&report)) {
            self.hook_panicked("the log", &panic);
        }
        let completed = report.outcome.is_completed();
        if !completed {
            self.progress.note(&ended);
        }
        self.announce(News::Finished(&report));
        if !completed {
            self.bury(&report, ended.trail());
        }
        drop_quietly((report, ended));
        self.ledger.told(line);
    }

    /// Tells of an attempt that has failed and will be followed by another.
    pub(crate) fn attempt_failed(&self, report: &TaskReport, next_in: Duration) {
        let logged = guarded(|| {
            tracing::warn!(
                target: "postlude",
                id = %report.id,
                name = report.name,
                location = %report.location,
                set = report.set.map(|set| set.0),
                attempt = report.attempt,
                ran_for = ?report.ran_for,
                ?next_in,
                error = %Cause(&report.outcome),
                "attempt failed, another will follow"
            );
        });
        if let Err(panic) = logged {
            self.hook_panicked("the log", &panic);
        }
        if self.audience.is_attentive() {
            self.announce(News::AttemptFailed(report));
        }
    }

    /// Calls a hook, unless this comes from within one: a hook that spawns at a registry that refuses would be told of
    /// that for ever.
    pub(crate) fn call(&self, whose: &'static str, hook: impl FnOnce()) {
        thread_local! {
            static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }

        if let Some(Err(panic)) = self.outermost(&INSIDE, hook) {
            self.hook_panicked(whose, &panic);
        }
    }

    /// Asks the rule of the user's whether a task may come in. One that panics is counted, and taken for a yes. What a
    /// rule adds itself is not asked about: it might add one for each that it adds.
    pub(crate) fn ask_rule(&self, task: impl FnOnce() -> TaskInfo) -> Result<(), BoxError> {
        thread_local! {
            static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }

        let Some(rule) = &self.rule else { return Ok(()) };
        let task = task();
        match self.outermost(&INSIDE, || rule(&task)) {
            Some(Ok(answer)) => answer,
            Some(Err(panic)) => {
                self.hook_panicked("the rule of `admit`", &panic);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Asks a condition of the user's. One that panics is counted, and taken for a yes: nothing is dropped
    /// that nobody asked to drop.
    pub(crate) fn ask(&self, whose: &'static str, condition: impl FnOnce() -> bool) -> bool {
        guarded(condition).unwrap_or_else(|panic| {
            self.hook_panicked(whose, &panic);
            true
        })
    }

    pub(crate) fn hook_panicked(&self, whose: &'static str, panic: &Panic) {
        // Relaxed: a statistic.
        self.hook_panics.fetch_add(1, Ordering::Relaxed);
        let _even_the_log = guarded(|| {
            tracing::error!(target: "postlude", error = %panic, "{whose} panicked; it was caught, and the task goes its way");
        });
    }

    pub(crate) fn warn_if_crowded(&self, line: u64) {
        if let Some(live) = self.ledger.crowd(line) {
            tracing::warn!(
                target: "postlude",
                live,
                "many tasks are live; if they come faster than they end, set `capacity` or `max_concurrent` on the registry's builder"
            );
        }
    }
}
