//! Work that is measured: each of its polls, or the call of its closure.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    task::work::{BoxedWork, End, Meta, Work},
    telemetry::{figures::TaskFigures, profiler::Profiler},
    util::panic::Panic,
};

/// The work of one attempt of a profiled task. The metadata is that of the work inside, so it is polled and dropped as
/// that would be.
pub(crate) struct Profiled {
    work: BoxedWork,
    figures: Arc<TaskFigures>,
    profiler: Arc<Profiler>,
}

impl Profiled {
    pub(crate) fn new(work: BoxedWork, figures: Arc<TaskFigures>, profiler: Arc<Profiler>) -> Self {
        Self { work, figures, profiler }
    }
}

impl Work for Profiled {
    fn meta(&self) -> &Meta {
        self.work.meta()
    }

    fn meta_mut(self: Pin<&mut Self>) -> &mut Meta {
        self.get_mut().work.as_mut().meta_mut()
    }

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let Self { work, figures, profiler } = self.get_mut();
        // The end is counted before the panic goes on.
        let polled = if figures.is_closure() {
            profiler.call(figures, || catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))))
        } else {
            let waker = figures.waker(context.waker());
            let mut inner = Context::from_waker(&waker);
            let begun = profiler.begin_poll(figures);
            let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut inner)));
            profiler.end_poll(figures, &begun, matches!(polled, Ok(Poll::Pending)));
            polled
        };
        polled.unwrap_or_else(|payload| resume_unwind(payload))
    }

    fn next_attempt(self: Pin<&mut Self>) -> Result<Option<BoxedWork>, Panic> {
        self.get_mut().work.as_mut().next_attempt()
    }
}

impl Drop for Profiled {
    fn drop(&mut self) {
        self.profiler.end_wait(&self.figures);
    }
}
