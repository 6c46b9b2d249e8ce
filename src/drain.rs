//! Running a set: one task after another, in one tokio task.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;
use tracing::Span;

use crate::{
    Outcome, TaskId,
    events::inside,
    line::Line,
    outcome::End,
    run::{BoxedWork, drop_work, poll_to_end},
    scope::{self, Scope},
};

/// How many tasks one poll may finish before the runtime gets to do something else.
const TASKS_PER_POLL: usize = 64;

/// The tokio task that drains a line. Kept at three words, which fit the smaller of the cells that tokio
/// makes for its tasks.
pub(crate) struct Drain {
    /// Taken at the end, so that `Drop` knows an end from a runtime that goes down.
    line: Option<Arc<Line>>,
    work: Option<BoxedWork>,
}

impl Drain {
    pub(crate) const fn new(line: Arc<Line>) -> Self {
        Self { line: Some(line), work: None }
    }

    /// Polls the work in hand as a part of its line.
    #[inline]
    fn poll_in_scope(&mut self, id: TaskId, span: &mut Option<Box<Span>>, context: &mut Context<'_>) -> Poll<End> {
        let mut scope = self.line.take().map_or(Scope::None, Scope::InSet);
        let polled = scope::enter(&mut scope, id, || poll_to_end(&mut self.work, span, context));
        if let Scope::InSet(line) = scope {
            self.line = Some(line);
        }
        polled
    }

    /// Whether the task in hand was ended from outside.
    fn was_cut(&self) -> bool {
        let (Some(line), Some(work)) = (&self.line, &self.work) else {
            return false;
        };
        line.registry.inner.stuck.was_cut(work.meta().id())
    }

    /// The task in hand waits: sees to it that an end from outside is told.
    fn park(&mut self, context: &Context<'_>) -> Poll<()> {
        let (Some(line), Some(work)) = (&self.line, &mut self.work) else {
            return Poll::Ready(());
        };
        let meta = work.as_mut().meta_mut();
        let was_parked = mem::replace(&mut meta.parked, true);
        if was_parked || line.park(meta.id(), context.waker().clone()) {
            return Poll::Pending;
        }
        self.give_up();
        Poll::Ready(())
    }

    /// Ends without having come to the end of the line: superseded, or with the runtime.
    fn give_up(&mut self) {
        let Some(line) = self.line.take() else { return };
        let id = self.work.as_ref().map(|work| work.meta().id());
        if let Some(id) = id {
            let mut scope = Scope::InSet(Arc::clone(&line));
            // A panic in here has nobody to go to: the work is given up.
            let _given_up = scope::enter(&mut scope, id, || drop_work(&mut self.work));
        }
        if let (false, Some(id)) = (line.abandon(id), id) {
            line.registry.inner.stuck.remove_cut(id);
        }
    }
}

impl Future for Drain {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.was_cut() {
            this.give_up();
            return Poll::Ready(());
        }
        for _ in 0..TASKS_PER_POLL {
            let in_hand = this.work.as_ref().map(|work| work.meta().id());
            let mut span = None;
            let finished = match in_hand {
                None => None,
                Some(id) => match this.poll_in_scope(id, &mut span, context) {
                    Poll::Ready(end) => Some((id, end)),
                    Poll::Pending => return this.park(context),
                },
            };
            let Some(line) = &this.line else { return Poll::Ready(()) };
            this.work = match finished {
                None => line.next(),
                Some((id, end)) => inside(span, || line.finish(id, end)),
            };
            if this.work.is_none() {
                this.line = None;
                return Poll::Ready(());
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The handle of a set that was told to drain: awaited, it gives what became of the set's tasks.
///
/// It is optional. Dropping it changes nothing.
///
/// # Cancel safety
/// May be given up and taken up again at any time; the set drains on.
#[derive(Debug)]
pub struct DrainHandle {
    pub(crate) line: Arc<Line>,
    pub(crate) drained: Option<oneshot::Receiver<()>>,
}

impl Future for DrainHandle {
    type Output = DrainReport;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<DrainReport> {
        let this = self.get_mut();
        if let Some(drained) = &mut this.drained {
            // The sender speaks or is dropped: both mean that nothing more is to come.
            let Poll::Ready(_) = Pin::new(drained).poll(context) else {
                return Poll::Pending;
            };
            this.drained = None;
        }
        Poll::Ready(this.line.report())
    }
}

/// What became of the tasks of a set, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Tasks that ran to their end without an error.
    pub completed: u64,
    /// Tasks that returned an error.
    pub failed: u64,
    /// Tasks that panicked.
    pub panicked: u64,
    /// Tasks that took longer than their limit.
    pub timed_out: u64,
    /// Tasks that were aborted.
    pub aborted: u64,
    /// Tasks that never started.
    pub discarded: u64,
}

impl DrainReport {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.completed + self.failed + self.panicked + self.timed_out + self.aborted + self.discarded
    }

    /// Whether every task completed.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        self.completed == self.total()
    }

    pub(crate) const fn count(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Completed => &mut self.completed,
            Outcome::Failed(_) => &mut self.failed,
            Outcome::Panicked(_) => &mut self.panicked,
            Outcome::TimedOut(_) => &mut self.timed_out,
            Outcome::Aborted => &mut self.aborted,
            Outcome::Discarded(_) => &mut self.discarded,
        } += 1;
    }
}
