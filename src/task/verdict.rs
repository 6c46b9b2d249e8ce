//! The condition of a retrying task on its own type of error, which is asked before the error is boxed.

use std::{
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;

use crate::util::{
    loom::Mutex,
    panic::{Panic, catch_panic},
};

/// What the condition has said of the error of the latest attempt.
#[derive(Default)]
pub(crate) struct Verdict(Mutex<Latest>);

#[derive(Default)]
struct Latest {
    /// The number of attempts that were made.
    attempt: u64,
    /// `None` until the attempt has returned an error.
    said: Option<Result<bool, Panic>>,
}

impl Verdict {
    /// Begins the next attempt. An earlier one may still run: its error is not asked about any more.
    pub(crate) fn begin(self: &Arc<Self>) -> AttemptVerdict {
        let mut latest = self.0.lock();
        latest.attempt += 1;
        latest.said = None;
        AttemptVerdict { verdict: Arc::clone(self), attempt: latest.attempt }
    }

    /// Whether another attempt may follow. `true` if the attempt has ended without an error of its own.
    ///
    /// # Panics
    /// If the condition has panicked: whoever asks counts its panic.
    pub(crate) fn allows_another(&self) -> bool {
        let said = self.0.lock().said.take();
        match said {
            None => true,
            Some(Ok(allows)) => allows,
            Some(Err(panic)) => resume_unwind(Box::new(panic.message().to_owned())),
        }
    }
}

/// The verdict of one attempt.
pub(crate) struct AttemptVerdict {
    verdict: Arc<Verdict>,
    attempt: u64,
}

impl AttemptVerdict {
    /// Asks the condition about the error, if the attempt has failed.
    pub(crate) fn judge<E>(&self, result: &Result<(), E>, condition: impl Fn(&E) -> bool) {
        let Err(error) = result else { return };
        let said = catch_panic(|| condition(error));
        let mut latest = self.verdict.0.lock();
        if latest.attempt == self.attempt {
            latest.said = Some(said);
        }
    }
}

pin_project! {
    /// One attempt, whose error the condition is asked about.
    pub(crate) struct Judged<F, C> {
        #[pin]
        pub(crate) future: F,
        pub(crate) condition: Arc<C>,
        pub(crate) verdict: AttemptVerdict,
    }
}

impl<F, C, E> Future for Judged<F, C>
where
    F: Future<Output = Result<(), E>>,
    C: Fn(&E) -> bool,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(context));
        this.verdict.judge(&result, &**this.condition);
        Poll::Ready(result)
    }
}

#[cfg(test)]
#[cfg(not(postlude_loom))]
mod tests {
    use super::*;

    /// A closure that has timed out may return while the next attempt runs, or after it.
    #[test]
    fn an_attempt_that_was_given_up_has_no_say() {
        let verdict = Arc::new(Verdict::default());
        let (first, second) = (verdict.begin(), verdict.begin());
        second.judge(&Err("try again"), |_| true);
        first.judge(&Err("never again"), |_| false);
        assert!(verdict.allows_another());
        let third = verdict.begin();
        third.judge(&Err("never again"), |_| false);
        second.judge(&Err("try again"), |_| true);
        assert!(!verdict.allows_another());
    }
}
