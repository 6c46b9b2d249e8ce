//! Errors that hand back a task or an item that was not accepted.

use std::{cell::Cell, error::Error, fmt, sync::Arc};

use parking_lot::Mutex;

use crate::{
    model::{BoxError, Outcome, RejectReason, SharedError, TaskName},
    task::Task,
    util::panic::{catch_panic, drop_catching},
};

/// A task that was not accepted, and why.
///
/// It holds the task: [`into_task`](Self::into_task) returns it, so that it can be added again, to this or another
/// registry. The data that the task has captured can't be taken out: to do the work in another way, keep a copy.
///
/// ```
/// use std::time::Duration;
/// use postlude::{RejectReason, Task, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// registry.shutdown(Duration::ZERO).await;
///
/// let rejected = registry.try_spawn(Task::new(async {}).named("mail")).unwrap_err();
/// assert_eq!(rejected.reason(), RejectReason::Closed);
/// assert_eq!(rejected.into_task().name(), "mail");
/// # }
/// ```
pub struct Rejected {
    name: TaskName,
    reason: RejectReason,
    /// The error of the registry's admission filter.
    refusal: Option<SharedError>,
    /// The mutex makes the error `Sync`, which `BoxError` requires.
    task: Mutex<Task>,
}

impl Rejected {
    pub(crate) fn new(mut task: Task, reason: RejectReason) -> Self {
        task.meta_mut().leave_registry();
        Self { name: task.name(), reason, refusal: None, task: Mutex::new(task) }
    }

    pub(crate) fn refused(task: Task, refusal: BoxError) -> Self {
        Self { refusal: Some(Arc::from(refusal)), ..Self::new(task, RejectReason::Refused) }
    }

    /// The name of the task.
    #[must_use]
    pub const fn name(&self) -> TaskName {
        self.name
    }

    /// The outcome of the task if it is not handed back.
    pub(crate) const fn outcome(&self) -> Outcome {
        Outcome::Discarded(self.reason.discard_reason())
    }

    pub(crate) fn into_parts(self) -> (Task, Option<SharedError>) {
        (self.task.into_inner(), self.refusal)
    }

    /// Why it was not accepted.
    #[must_use]
    pub const fn reason(&self) -> RejectReason {
        self.reason
    }

    /// The task, unchanged.
    pub fn into_task(self) -> Task {
        self.task.into_inner()
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task `{}` was not accepted: {}", self.name, self.reason)
    }
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("name", &self.name).field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl Error for Rejected {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        note_rejected();
        self.refusal.as_ref().map(|refusal| &**refusal as _)
    }
}

/// The response 503 (Service Unavailable) with `Retry-After: 1`: the client can retry the request when tasks have
/// ended.
#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for Rejected {
    fn into_response(self) -> axum_core::response::Response {
        use http::{StatusCode, header::RETRY_AFTER};

        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], self.to_string()).into_response()
    }
}

thread_local! {
    /// While an error's sources are being walked: whether a rejected task or item was found among them.
    static FOUND: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Called by the `source` of errors that hold a rejected task or item. This finds such an error in a chain of errors
/// although its type is unknown there.
fn note_rejected() {
    let _on_an_ending_thread = FOUND.try_with(|found| found.set(found.get().map(|_| true)));
}

/// The error that reports keep. If it holds a rejected task or item, this is its text only, because a registry must not
/// keep tasks that it has rejected.
pub(crate) fn without_rejected(error: BoxError) -> BoxError {
    let _on_an_ending_thread = FOUND.try_with(|found| found.set(Some(false)));
    // `source` is foreign code.
    let walked = catch_panic(|| {
        let mut next: Option<&(dyn Error + 'static)> = Some(&*error);
        while let Some(error) = next {
            next = error.source();
        }
    });
    let found = FOUND.try_with(|found| found.replace(None)).ok().flatten();
    if walked.is_err() || found != Some(true) {
        return error;
    }
    match catch_panic(|| ErrorText::of(&*error)) {
        Ok(text) => {
            drop_catching(error);
            Box::new(text)
        }
        Err(_) => error,
    }
}

/// The texts of an error and of its sources.
#[derive(Debug)]
struct ErrorText {
    text: String,
    source: Option<Box<Self>>,
}

impl ErrorText {
    fn of(error: &(dyn Error + 'static)) -> Self {
        Self { text: error.to_string(), source: error.source().map(|source| Box::new(Self::of(source))) }
    }
}

impl fmt::Display for ErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for ErrorText {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// An item that a [`Batcher`](crate::Batcher) did not accept, and why. It holds the item.
pub struct RejectedItem<T> {
    name: TaskName,
    reason: RejectReason,
    refusal: Option<SharedError>,
    item: Mutex<T>,
}

impl<T> RejectedItem<T> {
    pub(crate) const fn new(name: TaskName, reason: RejectReason, item: T) -> Self {
        Self { name, reason, refusal: None, item: Mutex::new(item) }
    }

    /// The item of a new batch whose task was not accepted.
    pub(crate) fn with_task(rejected: Rejected, item: T) -> Self {
        let (name, reason) = (rejected.name, rejected.reason);
        Self { refusal: rejected.refusal, ..Self::new(name, reason, item) }
    }

    /// The name of the batcher.
    #[must_use]
    pub const fn name(&self) -> TaskName {
        self.name
    }

    /// Why it was not accepted.
    #[must_use]
    pub const fn reason(&self) -> RejectReason {
        self.reason
    }

    /// The item.
    pub fn into_item(self) -> T {
        self.item.into_inner()
    }
}

impl<T> fmt::Display for RejectedItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an item was not accepted by the batcher `{}`: {}", self.name, self.reason)
    }
}

impl<T> Error for RejectedItem<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        note_rejected();
        self.refusal.as_ref().map(|refusal| &**refusal as _)
    }
}

impl<T> fmt::Debug for RejectedItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectedItem").field("name", &self.name).field("reason", &self.reason).finish_non_exhaustive()
    }
}
