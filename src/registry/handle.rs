//! Handles of a spawned task and of a draining set.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    engine::set_queue::SetQueue,
    model::{DiscardReason, DrainReport, Outcome, TaskId, TaskName},
    registry::TaskRegistry,
    task::work::End,
};

/// The handle of a spawned task. Awaiting it returns the task's [`Outcome`].
///
/// The handle is optional. Dropping it does not affect the task, because the registry owns the task.
///
/// ```
/// use postlude::{Outcome, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let outcome = registry.spawn(async { Err::<(), _>("no such mailbox") }).await;
/// assert!(matches!(outcome, Outcome::Failed(error) if error.to_string() == "no such mailbox"));
/// # }
/// ```
///
/// # Cancel safety
/// The handle is cancel safe: it can be awaited by reference (`&mut handle`), dropped at any time, and awaited again;
/// the task is not affected. After it has resolved, it resolves to the same outcome again.
#[derive(Debug)]
pub struct TaskHandle {
    id: TaskId,
    name: TaskName,
    registry: TaskRegistry,
    state: State,
}

#[derive(Debug)]
enum State {
    Live(JoinHandle<End>),
    Ended(Outcome),
    /// It is a duplicate of this task.
    Joined(Box<TaskId>),
}

impl TaskHandle {
    pub(crate) const fn live(id: TaskId, name: TaskName, registry: TaskRegistry, join: JoinHandle<End>) -> Self {
        Self { id, name, registry, state: State::Live(join) }
    }

    pub(crate) const fn ended(id: TaskId, name: TaskName, registry: TaskRegistry, outcome: Outcome) -> Self {
        Self { id, name, registry, state: State::Ended(outcome) }
    }

    pub(crate) fn joined_to(id: TaskId, name: TaskName, registry: TaskRegistry, other: TaskId) -> Self {
        Self { id, name, registry, state: State::Joined(Box::new(other)) }
    }

    /// The task's id.
    #[must_use]
    pub const fn id(&self) -> TaskId {
        self.id
    }

    /// The task's name.
    #[must_use]
    pub const fn name(&self) -> TaskName {
        self.name
    }

    /// The task that does the work of this one, if this one was a duplicate when it was spawned: see
    /// [`UniquePolicy::join`](crate::UniquePolicy::join). The handle itself resolves to the outcome of its own task,
    /// which is [`DiscardReason::Duplicate`](crate::DiscardReason::Duplicate).
    ///
    /// [`TaskRegistry::get`] tells how far the other task is.
    #[must_use]
    pub fn joined(&self) -> Option<TaskId> {
        match &self.state {
            State::Joined(other) => Some(**other),
            State::Live(_) | State::Ended(_) => None,
        }
    }

    /// Aborts the task: [`TaskRegistry::abort`] with its id. Returns `false` if it had already ended.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn abort(&self) -> bool {
        self.registry.abort(self.id)
    }

    /// Whether the task has its outcome.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match &self.state {
            State::Ended(_) | State::Joined(_) => true,
            State::Live(join) => {
                join.is_finished()
                    || !self.registry.shared.ledger.shard(self.id.number).spawned.contains(self.id.number)
            }
        }
    }
}

impl Future for TaskHandle {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        let outcome = match &mut this.state {
            State::Ended(outcome) => return Poll::Ready(outcome.clone()),
            State::Joined(_) => return Poll::Ready(Outcome::Discarded(DiscardReason::Duplicate)),
            State::Live(join) => match Pin::new(join).poll(context) {
                Poll::Ready(Ok(end)) => end.into_outcome(),
                Poll::Ready(Err(_)) => this.registry.shared.outcome_of_lost(this.id),
                // An aborted task that does not yield does not return, so the handle asks the registry.
                Poll::Pending => match this.registry.shared.outcome_by_caller(this.id, context.waker()) {
                    Some(outcome) => outcome,
                    None => return Poll::Pending,
                },
            },
        };
        this.state = State::Ended(outcome.clone());
        Poll::Ready(outcome)
    }
}

/// The handle of a draining set. Awaiting it returns the outcome counts of the set's tasks.
///
/// The handle is optional. Dropping it does not affect the set.
///
/// # Cancel safety
/// The handle is cancel safe: it can be awaited by reference, dropped at any time, and awaited again; the set is not
/// affected.
#[derive(Debug)]
pub struct DrainHandle {
    queue: Arc<SetQueue>,
    wait: Wait,
}

/// What a handle knows of its set. Nothing is registered for a handle that is not awaited.
#[derive(Debug)]
enum Wait {
    NotAwaited,
    Awaited(oneshot::Receiver<()>),
    Drained,
}

impl DrainHandle {
    pub(crate) const fn new(queue: Arc<SetQueue>) -> Self {
        Self { queue, wait: Wait::NotAwaited }
    }
}

impl Future for DrainHandle {
    type Output = DrainReport;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<DrainReport> {
        let this = self.get_mut();
        if let Wait::NotAwaited = this.wait {
            this.wait = this.queue.wait_drained().map_or(Wait::Drained, Wait::Awaited);
        }
        if let Wait::Awaited(drained) = &mut this.wait {
            // Whether the sender has sent or was dropped, the set has drained.
            let Poll::Ready(_) = Pin::new(drained).poll(context) else {
                return Poll::Pending;
            };
            this.wait = Wait::Drained;
        }
        Poll::Ready(this.queue.report())
    }
}
