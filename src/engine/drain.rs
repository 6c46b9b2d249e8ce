//! Running a set: one task after another, in one tokio task.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tracing::Span;

use crate::{
    engine::{
        context::{self, TaskContext},
        queue::SetQueue,
    },
    model::TaskId,
    task::work::{BoxedWork, End, drop_work, poll_to_end},
    telemetry::span::inside,
};

/// How many tasks one poll may finish before the runtime gets to do something else.
const TASKS_PER_POLL: usize = 64;

/// The tokio task that drains a line. Kept at three words, which fit the smaller of the cells that tokio
/// makes for its tasks.
pub(crate) struct Drain {
    /// Taken at the end, so that `Drop` knows an end from a runtime that goes down.
    line: Option<Arc<SetQueue>>,
    work: Option<BoxedWork>,
}

impl Drain {
    pub(crate) const fn new(line: Arc<SetQueue>) -> Self {
        Self { line: Some(line), work: None }
    }

    /// Polls the work in hand as a part of its line.
    #[inline]
    fn poll_in_scope(&mut self, id: TaskId, span: &mut Option<Box<Span>>, context: &mut Context<'_>) -> Poll<End> {
        let mut scope = self.line.take().map_or(TaskContext::None, TaskContext::InSet);
        let polled = context::enter(&mut scope, id, || poll_to_end(&mut self.work, span, context));
        if let TaskContext::InSet(line) = scope {
            self.line = Some(line);
        }
        polled
    }

    /// Whether the task in hand was ended from outside.
    fn was_cut(&self) -> bool {
        let (Some(line), Some(work)) = (&self.line, &self.work) else {
            return false;
        };
        line.registry.shared.stuck.was_cut(work.meta().id())
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
            let mut scope = TaskContext::InSet(Arc::clone(&line));
            // A panic in here has nobody to go to: the work is given up.
            let _given_up = context::enter(&mut scope, id, || drop_work(&mut self.work));
        }
        if let (false, Some(id)) = (line.abandon(id), id) {
            line.registry.shared.stuck.remove_cut(id);
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
