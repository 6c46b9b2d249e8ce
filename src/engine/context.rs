//! The current context: whether the calling code runs in a request, in a task, or in neither.

use std::{cell::Cell, mem, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    engine::{set_queue::SetQueue, shared::Shared},
    ledger::live::LiveTask,
    model::TaskId,
    task::work::{BoxedWork, Permits},
    util::loom::Mutex,
};

/// The context of the calling code.
#[derive(Clone, Default)]
pub(crate) enum TaskContext {
    #[default]
    None,
    /// In the handling of a request.
    Request(Arc<SetQueue>),
    /// In a task of a set.
    InSet(Arc<SetQueue>),
    /// In a spawned task.
    Spawned(Arc<Shared>),
    /// In the closure of a task, on its own thread.
    Closure(Arc<AttemptState>),
}

thread_local! {
    static CURRENT: (Cell<TaskContext>, Cell<TaskId>) =
        const { (Cell::new(TaskContext::None), Cell::new(TaskId::UNASSIGNED)) };
}

/// The current context, and the task that runs in it, if any.
pub(crate) fn current() -> (TaskContext, TaskId) {
    // On a thread that is ending, the thread-local is gone.
    let current = CURRENT.try_with(|(current, task)| {
        let context = current.take();
        let clone = context.clone();
        current.set(context);
        (clone, task.get())
    });
    current.unwrap_or((TaskContext::None, TaskId::UNASSIGNED))
}

impl TaskContext {
    /// The queue of the current set, if there is one.
    pub(crate) fn queue(&self) -> Option<&Arc<SetQueue>> {
        match self {
            Self::Request(queue) | Self::InSet(queue) => Some(queue),
            Self::Closure(state) => state.parent.queue(),
            Self::Spawned(_) | Self::None => None,
        }
    }

    /// Whether the calling code is a part of this registry's requests or tasks.
    pub(crate) fn belongs_to(&self, shared: &Arc<Shared>) -> bool {
        match self {
            Self::Request(queue) | Self::InSet(queue) => Arc::ptr_eq(queue.shared(), shared),
            Self::Spawned(registry) => Arc::ptr_eq(registry, shared),
            Self::Closure(state) => state.parent.belongs_to(shared),
            Self::None => false,
        }
    }

    /// The cancellation token of the current task.
    pub(crate) fn token(&self, task: TaskId) -> CancellationToken {
        match self {
            Self::InSet(queue) => queue.shared().token_of(task),
            Self::Spawned(shared) => shared.token_of(task),
            Self::Closure(state) if state.is_abandoned() => {
                let token = CancellationToken::new();
                token.cancel();
                token
            }
            Self::Closure(state) => state.parent.token(task),
            Self::Request(_) | Self::None => CancellationToken::new(),
        }
    }

    /// Accesses a task that runs in this context, under its lock. `None` if it has ended, and outside a task.
    pub(crate) fn with_live<R>(&self, task: TaskId, access: impl FnOnce(&mut LiveTask) -> R) -> Option<R> {
        match self {
            Self::InSet(queue) => queue.with_live(task, access),
            Self::Spawned(shared) => shared.with_live(task, access),
            Self::Closure(state) if !state.is_abandoned() => state.parent.with_live(task, access),
            Self::Closure(_) | Self::Request(_) | Self::None => None,
        }
    }

    /// The attempt of the current task; 0 outside a task.
    pub(crate) fn attempt(&self, task: TaskId) -> u32 {
        let attempt = match self {
            Self::InSet(queue) => queue.with_live(task, |live| live.attempt()),
            Self::Spawned(shared) => shared.with_live(task, |live| live.attempt()),
            Self::Closure(state) => Some(state.attempt),
            Self::Request(_) | Self::None => None,
        };
        attempt.unwrap_or(0)
    }
}

/// The state that a closure and the task that waits for it share.
pub(crate) struct AttemptState {
    /// The number of the attempt.
    pub(crate) attempt: u32,
    /// The context of its task.
    pub(crate) parent: TaskContext,
    phase: Mutex<ClosurePhase>,
}

enum ClosurePhase {
    /// The closure has no thread yet. The permits are held until the work is dropped.
    Waiting(BoxedWork, Permits),
    /// The closure is running, and its task waits for it.
    Running,
    /// The closure is running, and its task no longer waits for it.
    Abandoned,
    /// The closure has returned, or will never run.
    Over,
}

impl AttemptState {
    pub(crate) fn new(attempt: u32, parent: TaskContext, work: BoxedWork, permits: Permits) -> Self {
        Self { attempt, parent, phase: Mutex::new(ClosurePhase::Waiting(work, permits)) }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(*self.phase.lock(), ClosurePhase::Abandoned)
    }

    /// Takes the work, on the closure's thread. `None` if the closure was abandoned before.
    pub(crate) fn begin(&self) -> Option<(BoxedWork, Permits)> {
        let mut phase = self.phase.lock();
        match mem::replace(&mut *phase, ClosurePhase::Running) {
            ClosurePhase::Waiting(work, permits) => Some((work, permits)),
            other @ (ClosurePhase::Running | ClosurePhase::Abandoned | ClosurePhase::Over) => {
                *phase = other;
                None
            }
        }
    }

    /// Notes that the task no longer waits for the closure. Returns whether the closure is running, and the work if it
    /// never started.
    pub(crate) fn abandon(&self) -> (bool, Option<(BoxedWork, Permits)>) {
        let mut phase = self.phase.lock();
        match mem::replace(&mut *phase, ClosurePhase::Over) {
            ClosurePhase::Waiting(work, permits) => (false, Some((work, permits))),
            ClosurePhase::Running => {
                *phase = ClosurePhase::Abandoned;
                (true, None)
            }
            ClosurePhase::Abandoned | ClosurePhase::Over => (false, None),
        }
    }

    /// Notes that the closure has returned. Returns whether it was abandoned before.
    pub(crate) fn end(&self) -> bool {
        matches!(mem::replace(&mut *self.phase.lock(), ClosurePhase::Over), ClosurePhase::Abandoned)
    }
}

/// Guard that sets the current context and task until dropped. The context is moved in and out instead of cloned,
/// because this happens at every poll.
#[must_use]
pub(crate) struct Entered<'a> {
    context: &'a mut TaskContext,
    outer_task: TaskId,
}

impl<'a> Entered<'a> {
    #[inline]
    pub(crate) fn new(context: &'a mut TaskContext, task: TaskId) -> Self {
        let outer_task = swap(context, task);
        Self { context, outer_task }
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        swap(self.context, self.outer_task);
    }
}

/// Runs `inside` with `context` and `task` as the current ones.
#[inline]
pub(crate) fn enter<R>(context: &mut TaskContext, task: TaskId, inside: impl FnOnce() -> R) -> R {
    let _entered = Entered::new(context, task);
    inside()
}

#[inline]
fn swap(context: &mut TaskContext, task: TaskId) -> TaskId {
    // On a thread that is ending, the thread-local is gone, and both swaps do nothing.
    let swapped = CURRENT.try_with(|(current, current_task)| {
        current.swap(Cell::from_mut(context));
        current_task.replace(task)
    });
    swapped.unwrap_or(task)
}
