//! Wrappers of tasks: foreign code around each step of a task's work.

use std::{fmt, sync::Arc};

use crate::{
    model::{TaskId, TaskInfo, TaskName},
    telemetry::hook_panics::HookPanics,
    util::panic::catch_panic,
};

/// Wraps the steps of one task.
pub(crate) type Wrapper = dyn Fn(TaskStep<'_>) -> StepDone + Send + Sync;

/// Makes the wrapper of each task.
pub(crate) type MakeWrapper = dyn Fn(&TaskInfo) -> Box<Wrapper> + Send + Sync;

/// One step of a task's work: a poll of its future, the call of its closure, or the drop of either. Passed to the
/// wrappers that [`TaskRegistryBuilder::wrap`](crate::TaskRegistryBuilder::wrap) sets.
#[must_use = "a wrapper must run the step"]
pub struct TaskStep<'a> {
    work: &'a mut dyn FnMut(),
}

impl TaskStep<'_> {
    /// Runs the step. A panic of the task is caught inside, so this does not panic.
    #[must_use = "a wrapper returns it"]
    pub fn run(self) -> StepDone {
        (self.work)();
        StepDone(())
    }
}

impl fmt::Debug for TaskStep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskStep").finish_non_exhaustive()
    }
}

/// What [`TaskStep::run`] returns. A wrapper has to return it, so that it can't forget to run the step.
#[derive(Debug)]
pub struct StepDone(());

/// The wrappers of one task. One word, and cheap to clone: each attempt of the task has them.
#[derive(Clone)]
pub(crate) struct Wrappers(Arc<Nested>);

struct Nested {
    /// The outermost first.
    wrappers: Vec<Box<Wrapper>>,
    task: (TaskId, TaskName),
    panics: Arc<HookPanics>,
}

impl Wrappers {
    pub(crate) fn new(
        wrappers: impl Iterator<Item = Box<Wrapper>>,
        task: (TaskId, TaskName),
        panics: &Arc<HookPanics>,
    ) -> Self {
        Self(Arc::new(Nested { wrappers: wrappers.collect(), task, panics: Arc::clone(panics) }))
    }

    /// Runs a step, which must not panic, inside all wrappers. Without one that does not run the step, since the task
    /// goes on: it has panicked before, or returned what another step had returned.
    pub(crate) fn around(&self, step: &mut dyn FnMut()) {
        self.0.nest(&self.0.wrappers, step);
    }
}

impl Nested {
    fn nest(&self, wrappers: &[Box<Wrapper>], step: &mut dyn FnMut()) {
        let Some((outer, inner)) = wrappers.split_first() else { return step() };
        let mut is_run = false;
        let mut run = || {
            is_run = true;
            self.nest(inner, step);
        };
        let wrapped = catch_panic(|| outer(TaskStep { work: &mut run }));
        if let Err(panic) = wrapped {
            self.panics.count("a wrapper of a task", Some(self.task), &panic);
        }
        if !is_run {
            self.nest(inner, step);
        }
    }
}
