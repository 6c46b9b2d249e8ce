//! What a task may return.

use std::sync::Arc;

use crate::model::{BoxError, Outcome};

/// What a task may return: `()`, `Result<(), E>` of anything that is or becomes an error, and `!`, the type
/// of a loop without end.
///
/// ```
/// use std::time::Duration;
/// use postlude::TaskRegistry;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// registry.spawn(async { /* nothing to tell */ });
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
    note = "a task's result goes nowhere: end it with `Ok(())` or `()`, or drop it with `.map(drop)`; what it has \
            computed goes through a channel",
    note = "its error must be, or become, a `Box<dyn std::error::Error + Send + Sync>`"
)]
pub trait TaskOutput: Send + 'static {
    #[doc(hidden)]
    fn into_outcome(self) -> Outcome;
}

impl TaskOutput for () {
    #[inline]
    fn into_outcome(self) -> Outcome {
        Outcome::Completed
    }
}

impl<E> TaskOutput for Result<(), E>
where
    E: Into<BoxError> + Send + 'static,
{
    #[inline]
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(()) => Outcome::Completed,
            Err(error) => Outcome::Failed(Arc::new(error.into())),
        }
    }
}

impl TaskOutput for <fn() -> ! as never::FnOutput>::Output {
    fn into_outcome(self) -> Outcome {
        self
    }
}

/// Names the type `!` on a stable compiler.
mod never {
    #[expect(unnameable_types, reason = "a detour to a type that has no name of its own")]
    pub trait FnOutput {
        type Output;
    }

    impl<R> FnOutput for fn() -> R {
        type Output = R;
    }
}
