//! Notifies observers, subscribers and the log, and calls foreign code safely.

pub(crate) mod figures;
pub(crate) mod hook_panics;
pub(crate) mod log;
pub(crate) mod observer;
pub(crate) mod profiler;
pub(crate) mod span;
pub(crate) mod subscription;
mod watchdog;
pub(crate) mod wrap;

use std::{
    cell::RefCell,
    io,
    sync::{Arc, OnceLock},
    thread::LocalKey,
};

use tracing::Level;

use self::{
    hook_panics::{HookPanics, OfTask},
    observer::TaskObserver,
    profiler::Profiler,
    span::SpanSettings,
    subscription::EventBuffer,
    wrap::{MakeWrapper, StepDone, TaskStep, Wrappers},
};
use crate::{
    model::{BoxError, Profile, TaskId, TaskInfo, TaskName, TaskReport},
    util::panic::{Panic, catch_panic},
};

/// Decides whether a task is accepted.
pub(crate) type AdmissionFilter = dyn Fn(&TaskInfo) -> Result<(), BoxError> + Send + Sync;

/// The observers, the buffer of the subscribers, the admission filter, the wrappers and the log of a registry.
#[derive(Default)]
pub(crate) struct Telemetry {
    observers: Vec<Arc<dyn TaskObserver>>,
    /// Whether an observer wants more than failures.
    observes_all: bool,
    /// Created for the first subscriber.
    buffer: OnceLock<Arc<EventBuffer>>,
    pub(crate) filter: Option<Box<AdmissionFilter>>,
    /// Make the wrappers of each task, the outermost first.
    wrap: Vec<Box<MakeWrapper>>,
    pub(crate) spans: SpanSettings,
    /// Measures the tasks, if that is wanted.
    pub(crate) profiler: Option<Arc<Profiler>>,
    hook_panics: Arc<HookPanics>,
}

/// Something that happened to a task.
#[derive(Clone, Copy)]
pub(crate) enum EventRef<'a> {
    Added(&'a TaskInfo),
    Started(&'a TaskInfo),
    AttemptFailed(&'a TaskReport),
    Finished(&'a TaskReport),
}

impl EventRef<'_> {
    const fn task(self) -> (TaskId, TaskName) {
        match self {
            Self::Added(task) | Self::Started(task) => (task.id, task.name),
            Self::AttemptFailed(report) | Self::Finished(report) => (report.id, report.name),
        }
    }
}

/// The registries whose foreign code a thread is running.
type Inside = LocalKey<RefCell<Vec<usize>>>;

impl Telemetry {
    /// Adds an observer. `observes_all`: it wants more than failures.
    pub(crate) fn push(&mut self, observer: Arc<dyn TaskObserver>, observes_all: bool) {
        self.observers.push(observer);
        self.observes_all |= observes_all;
    }

    /// Adds a wrapper, inside those that were added before.
    pub(crate) fn push_wrapper<W>(&mut self, make: impl Fn(&TaskInfo) -> W + Send + Sync + 'static)
    where
        W: Fn(TaskStep<'_>) -> StepDone + Send + Sync + 'static,
    {
        self.wrap.push(Box::new(move |task| Box::new(make(task))));
    }

    /// Starts the profiler.
    ///
    /// # Errors
    /// If the operating system gives no thread for its watchdog.
    pub(crate) fn start_profiler(&mut self, profile: &Profile) -> io::Result<()> {
        self.profiler = Some(Profiler::start(profile, &self.hook_panics)?);
        Ok(())
    }

    /// Whether each task is shown to foreign code before it is accepted.
    #[inline]
    pub(crate) fn considers_tasks(&self) -> bool {
        self.filter.is_some() || !self.wrap.is_empty()
    }

    /// Whether an observer or subscriber wants more than failures.
    #[inline]
    pub(crate) fn has_observers(&self) -> bool {
        self.observes_all || self.read_buffer().is_some()
    }

    /// Whether an observer, a subscriber or the log wants tasks that completed. Never call this under a lock, because
    /// it calls the `tracing` subscriber.
    #[inline]
    pub(crate) fn observes_completed(&self) -> bool {
        self.has_observers() || log::is_enabled(Level::DEBUG)
    }

    /// The buffer of the subscribers.
    pub(crate) fn buffer(&self) -> &Arc<EventBuffer> {
        self.buffer.get_or_init(Arc::default)
    }

    /// The buffer, if it has readers.
    #[inline]
    fn read_buffer(&self) -> Option<&Arc<EventBuffer>> {
        self.buffer.get().filter(|buffer| buffer.has_readers())
    }

    /// Notifies the subscribers and the observers. Never call this under a lock.
    #[cold]
    pub(crate) fn notify(&self, event: EventRef<'_>) {
        if let Some(buffer) = self.read_buffer() {
            buffer.push(event);
        }
        for observer in &self.observers {
            self.call("an observer or failure hook", event.task(), || match event {
                EventRef::Added(task) => observer.added(task),
                EventRef::Started(task) => observer.started(task),
                EventRef::AttemptFailed(report) => observer.attempt_failed(report),
                EventRef::Finished(report) => observer.finished(report),
            });
        }
    }

    /// Emits a log event. A panic of the `tracing` subscriber is counted.
    pub(crate) fn log(&self, event: impl FnOnce()) {
        if let Err(panic) = log::emit(event) {
            self.hook_panicked("the log", None, &panic);
        }
    }

    /// Calls a hook, unless a hook of this registry is already running on this thread. Otherwise a hook that spawns on
    /// a registry that refuses tasks would cause endless recursion.
    pub(crate) fn call(&self, whose: &'static str, task: (TaskId, TaskName), hook: impl FnOnce()) {
        thread_local! {
            static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }

        if let Some(Err(panic)) = self.call_outermost(&INSIDE, hook) {
            self.hook_panicked(whose, Some(task), &panic);
        }
    }

    /// Asks the admission filter whether a task is accepted. If it panics, the panic is counted and the task is
    /// accepted. Tasks that the filter itself adds are accepted without calling it, which prevents endless recursion.
    pub(crate) fn ask_filter(&self, task: &TaskInfo) -> Result<(), BoxError> {
        thread_local! {
            static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }

        let Some(filter) = &self.filter else { return Ok(()) };
        match self.call_outermost(&INSIDE, || filter(task)) {
            Some(Ok(answer)) => answer,
            Some(Err(panic)) => {
                self.hook_panicked("the filter of `admit`", Some((task.id, task.name)), &panic);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Makes the wrappers of a task; `None` if there are none. One whose making panics is left out. Tasks that are
    /// added meanwhile have none, which prevents endless recursion.
    pub(crate) fn wrappers(&self, task: &TaskInfo) -> Option<Wrappers> {
        thread_local! {
            static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }

        if self.wrap.is_empty() {
            return None;
        }
        let make = |make: &MakeWrapper| match self.call_outermost(&INSIDE, || make(task))? {
            Ok(wrapper) => Some(wrapper),
            Err(panic) => {
                self.hook_panicked("a hook of `wrap`", Some((task.id, task.name)), &panic);
                None
            }
        };
        let wrappers = self.wrap.iter().map(|make| &**make).filter_map(make);
        Some(Wrappers::new(wrappers, (task.id, task.name), &self.hook_panics))
    }

    /// Evaluates a user condition. If it panics, the panic is counted and the condition is treated as true, so that no
    /// task is discarded by mistake.
    pub(crate) fn ask(&self, whose: &'static str, task: OfTask, condition: impl FnOnce() -> bool) -> bool {
        catch_panic(condition).unwrap_or_else(|panic| {
            self.hook_panicked(whose, task, &panic);
            true
        })
    }

    /// Calls other foreign code, such as a waker. A panic is counted.
    pub(crate) fn run_foreign(&self, whose: &'static str, foreign: impl FnOnce()) {
        if let Err(panic) = catch_panic(foreign) {
            self.hook_panicked(whose, None, &panic);
        }
    }

    /// Counts and logs a panic that was caught.
    pub(crate) fn hook_panicked(&self, whose: &'static str, task: OfTask, panic: &Panic) {
        self.hook_panics.count(whose, task, panic);
    }

    /// The number of caught panics of hooks, conditions and other foreign code.
    pub(crate) fn hook_panics(&self) -> u64 {
        self.hook_panics.total()
    }

    /// Calls foreign code that may call back into this function. Returns `None` for such an inner call.
    fn call_outermost<R>(&self, inside: &'static Inside, foreign: impl FnOnce() -> R) -> Option<Result<R, Panic>> {
        let own = std::ptr::from_ref(self).addr();
        let enter = |inside: &RefCell<Vec<usize>>| {
            let mut inside = inside.borrow_mut();
            let is_within = inside.contains(&own);
            if !is_within {
                inside.push(own);
            }
            is_within
        };
        // On a thread that is ending, the thread-local is gone.
        if inside.try_with(enter).unwrap_or(false) {
            return None;
        }
        let result = catch_panic(foreign);
        let _left = inside.try_with(|inside| inside.borrow_mut().pop());
        Some(result)
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.get() {
            buffer.close();
        }
    }
}
