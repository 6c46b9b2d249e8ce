//! The span of a task.

use tracing::{Level, Span, field, level_filters::LevelFilter};

use crate::{
    model::{TaskId, TaskName},
    telemetry::log::call_subscriber,
    util::panic::{Panic, catch_panic, drop_catching},
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

/// The span in which the task's work runs, if anybody wants it.
///
/// # Errors
/// The panic of the subscriber.
#[inline]
pub(crate) fn task_span(id: TaskId, name: TaskName, relation: SpanRelation) -> Result<Option<Box<Span>>, Panic> {
    if LevelFilter::current() < Level::INFO {
        return Ok(None);
    }
    call_subscriber(|| make_span(id, name, relation)).map(Option::flatten)
}

fn make_span(id: TaskId, name: TaskName, relation: SpanRelation) -> Option<Box<Span>> {
    let (name, set) = (name.as_str(), field::Empty);
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

/// Runs our own code inside a task's span, and then drops the span.
#[inline]
pub(crate) fn inside<R>(span: Option<Box<Span>>, then: impl FnOnce() -> R) -> R {
    let Some(span) = span else {
        return then();
    };
    // The subscriber is foreign code: a panic of it goes no further.
    let entered = catch_panic(|| span.enter()).ok();
    let result = then();
    drop_catching(entered);
    drop_catching(span);
    result
}
