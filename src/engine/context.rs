//! Where the calling code runs: in a request, in a task of a set, in a spawned task, or in none of them.

use std::{cell::Cell, mem, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    engine::{attempt::AttemptState, queue::SetQueue},
    model::TaskId,
    registry::TaskRegistry,
};

/// What the calling code belongs to.
#[derive(Clone, Default)]
pub(crate) enum TaskContext {
    #[default]
    None,
    /// The handling of a request.
    Request(Arc<SetQueue>),
    /// A task of a set.
    InSet(Arc<SetQueue>),
    /// A spawned task.
    Spawned(TaskRegistry),
    /// Work of a task that runs apart from it.
    AttemptState(Arc<AttemptState>),
}

/// A scope, and the task that runs in it, if one does.
#[derive(Clone)]
pub(crate) struct Here {
    pub(crate) scope: TaskContext,
    pub(crate) task: TaskId,
}

thread_local! {
    static CURRENT: (Cell<TaskContext>, Cell<TaskId>) = const { (Cell::new(TaskContext::None), Cell::new(TaskId::UNASSIGNED)) };
}

impl Here {
    pub(crate) fn current() -> Self {
        // A thread that is ending has no current scope any more.
        let current = CURRENT.try_with(|(current, task)| {
            let scope = current.take();
            let clone = scope.clone();
            current.set(scope);
            Self { scope: clone, task: task.get() }
        });
        current.unwrap_or(Self { scope: TaskContext::None, task: TaskId::UNASSIGNED })
    }

    /// The line to which is added here.
    pub(crate) fn into_line(self) -> Option<Arc<SetQueue>> {
        match self.scope {
            TaskContext::Request(line) | TaskContext::InSet(line) => Some(line),
            TaskContext::AttemptState(apart) => apart.here.clone().into_line(),
            TaskContext::Spawned(_) | TaskContext::None => None,
        }
    }

    pub(crate) fn token(&self) -> CancellationToken {
        match &self.scope {
            TaskContext::InSet(line) => line.registry.shared.token_of(self.task),
            TaskContext::Spawned(registry) => registry.shared.token_of(self.task),
            TaskContext::AttemptState(apart) if apart.is_given_up() => {
                let token = CancellationToken::new();
                token.cancel();
                token
            }
            TaskContext::AttemptState(apart) => apart.here.token(),
            TaskContext::Request(_) | TaskContext::None => CancellationToken::new(),
        }
    }
}

/// Makes a scope the current one, and a task the one that runs, for as long as it lives. The scope is moved there and
/// back, not cloned: this is done at every poll.
#[must_use]
pub(crate) struct Entered<'a> {
    scope: &'a mut TaskContext,
    outer_task: TaskId,
}

impl<'a> Entered<'a> {
    #[inline]
    pub(crate) fn new(scope: &'a mut TaskContext, task: TaskId) -> Self {
        let outer_task = swap(scope, task);
        Self { scope, outer_task }
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        swap(self.scope, self.outer_task);
    }
}

/// Runs `inside` with `scope` as the current one, and `task` as the task that runs.
#[inline]
pub(crate) fn enter<R>(scope: &mut TaskContext, task: TaskId, inside: impl FnOnce() -> R) -> R {
    let _entered = Entered::new(scope, task);
    inside()
}

#[inline]
fn swap(scope: &mut TaskContext, task: TaskId) -> TaskId {
    // On a thread that is ending there is nothing to swap with, both times.
    let swapped = CURRENT.try_with(|(current, current_task)| {
        *scope = current.replace(mem::take(scope));
        current_task.replace(task)
    });
    swapped.unwrap_or(task)
}
