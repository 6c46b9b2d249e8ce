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
    label = "neither `()` nor `Result<(), E>`",
    note = "nobody receives the output of a task: end the block with `Ok(())` or `()`, as in \
            `work().await?; Ok::<(), postlude::BoxError>(())`; send results through a channel",
    note = "of a `Result<T, E>`, only `T = ()` is allowed, because the `Ok(Err(error))` of a timeout would count as \
            completed: end it with `work().await??; Ok(())`",
    note = "its error must be, or become, a `Box<dyn std::error::Error + Send + Sync>`"
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
