//! The span of a task.

use tracing::{Level, Span, level_filters::LevelFilter};

use crate::{
    model::{TaskId, TaskName},
    telemetry::log::call_subscriber,
    util::panic::{Panic, catch_panic, drop_catching},
};

/// How the span of a task is related to the span in which it was added, usually the request's.
///
/// Each task has a span of its own, `task{id, name, set}`, if a subscriber is interested in spans of its
/// [level](crate::TaskRegistryBuilder::span_level). The events that the task logs and the event for its end are inside
/// that span.
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
    /// The task's span follows from the request's span, which closes with the response, no matter how long the task
    /// runs. A trace shows the request with the duration that the client saw, and a link from the task to it. Log
    /// events of the task do not show the fields of the request.
    #[default]
    FollowsFrom,
    /// The task's span is a child of the request's span, which stays open until its last task has ended. Log events of
    /// the task show the fields of the request, such as its id, and a trace shows one tree. The duration of the
    /// request's span includes its tasks.
    ChildOf,
}

/// The settings of the spans of a registry's tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpanSettings {
    pub(crate) relation: SpanRelation,
    pub(crate) level: Level,
}

impl Default for SpanSettings {
    fn default() -> Self {
        Self { relation: SpanRelation::default(), level: Level::DEBUG }
    }
}

impl SpanSettings {
    /// Whether a subscriber may be interested in the spans of tasks. Costs one load.
    #[inline]
    pub(crate) fn may_be_enabled(&self) -> bool {
        LevelFilter::current() >= self.level
    }
}

/// The span of a task, if a subscriber is interested in it.
///
/// # Errors
/// The panic of the subscriber.
pub(crate) fn task_span(id: TaskId, name: TaskName, settings: SpanSettings) -> Result<Option<Box<Span>>, Panic> {
    call_subscriber(|| make_span(id, name, settings)).map(Option::flatten)
}

fn make_span(id: TaskId, name: TaskName, settings: SpanSettings) -> Option<Box<Span>> {
    let (name, set) = (name.as_str(), id.set().map(|set| set.0));
    let current = Span::current();
    let parent = match settings.relation {
        SpanRelation::FollowsFrom => None,
        SpanRelation::ChildOf => current.id(),
    };
    // A span's level is a constant of its call site.
    macro_rules! span {
        ($($level:ident),+) => {
            match settings.level {
                $(Level::$level => tracing::span!(target: "postlude", parent: parent, Level::$level, "task", %id, name, set),)+
            }
        };
    }
    let span = span!(TRACE, DEBUG, INFO, WARN, ERROR);
    if span.is_disabled() {
        return None;
    }
    if settings.relation == SpanRelation::FollowsFrom {
        span.follows_from(current);
    }
    Some(Box::new(span))
}

/// Runs code of this crate inside a task's span, and then drops the span.
#[inline]
pub(crate) fn inside<R>(span: Option<Box<Span>>, then: impl FnOnce() -> R) -> R {
    match span {
        None => then(),
        Some(span) => inside_some(span, then),
    }
}

/// Out of line, because most tasks have no span.
#[inline(never)]
fn inside_some<R>(span: Box<Span>, then: impl FnOnce() -> R) -> R {
    // Entering and dropping the span calls the subscriber, which may panic.
    let entered = catch_panic(|| span.enter()).ok();
    let result = then();
    drop_catching(entered);
    drop_catching(span);
    result
}
