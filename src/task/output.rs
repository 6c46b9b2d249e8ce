//! The output of a task, and how it becomes an `Outcome`.

use std::sync::Arc;

use super::rejected::without_rejected;
use crate::model::{BoxError, Outcome};

/// The output of a task: `()`, `Result<(), E>` with an `E` that converts into [`BoxError`](crate::BoxError), or `!`,
/// the type of an endless loop.
///
/// ```
/// use std::time::Duration;
/// use postlude::TaskRegistry;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// registry.spawn(async { /* returns `()` */ });
/// registry.spawn(async {
///     std::fs::read("/dev/null")?;
///     Ok::<(), std::io::Error>(())
/// });
/// let heartbeat = registry.spawn(async {
///     loop {
///         tokio::time::sleep(Duration::from_secs(1)).await;
///     }
/// });
/// # heartbeat.abort();
/// # registry.wait_idle().await;
/// # assert_eq!(registry.metrics().completed, 2);
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "a task can't return `{Self}`",
    label = "neither `()` nor a `Result<(), E>` with an error",
    note = "if it is a future, an `.await` is missing; what awaits is a `Task::new(async {{ .. }})`, not a closure of \
            `Task::blocking` or `Task::cpu`",
    note = "if nobody needs the value, end the block with `()` or `Ok::<(), postlude::BoxError>(())`; \
            if somebody does, use `spawn_with_output` or a channel",
    note = "of a `Result<T, E>`, `T` must be `()`, because the `Ok(Err(error))` of a timeout would count as completed: \
            end the block with `work().await??; Ok(())`",
    note = "of a `Result<(), E>`, `E` must implement `std::error::Error + Send + Sync`, or be a `String`, a `&str` or \
            a `postlude::BoxError`"
)]
pub trait TaskOutput: IntoOutcome + Send + 'static {}

/// Seals [`TaskOutput`]: this trait can't be named outside the crate.
mod sealed {
    use crate::model::Outcome;

    #[expect(unnameable_types, reason = "seals `TaskOutput`")]
    pub trait IntoOutcome {
        fn into_outcome(self) -> Outcome;
    }
}

pub(crate) use self::sealed::IntoOutcome;

impl TaskOutput for () {}

impl IntoOutcome for () {
    #[inline]
    fn into_outcome(self) -> Outcome {
        Outcome::Completed
    }
}

// The notes above say more than the bounds that are missing.
#[diagnostic::do_not_recommend]
impl<E> TaskOutput for Result<(), E> where E: Into<BoxError> + Send + 'static {}

impl<E> IntoOutcome for Result<(), E>
where
    E: Into<BoxError>,
{
    #[inline]
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(()) => Outcome::Completed,
            Err(error) => Outcome::Failed(Arc::from(without_rejected(error.into()))),
        }
    }
}

// `!` would be shown by this path.
#[diagnostic::do_not_recommend]
impl TaskOutput for <fn() -> ! as never::FnOutput>::Output {}

impl IntoOutcome for <fn() -> ! as never::FnOutput>::Output {
    fn into_outcome(self) -> Outcome {
        self
    }
}

/// Names the type `!` on a stable compiler.
mod never {
    #[expect(unnameable_types, reason = "a way to name a type that has no stable name")]
    pub trait FnOutput {
        type Output;
    }

    impl<R> FnOutput for fn() -> R {
        type Output = R;
    }
}
