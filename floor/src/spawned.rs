//! The tokio task of a spawned task.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::{
    registry::catch_panic,
    state::{Outcome, Shard},
};

pin_project! {
    /// Three words for an empty task, which fit the smaller of the cells that tokio makes.
    pub(crate) struct Spawned<F> {
        // Taken at its end.
        shard: Option<Arc<Shard>>,
        number: u64,
        started: bool,
        #[pin]
        work: Option<F>,
    }

    impl<F> PinnedDrop for Spawned<F> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(shard) = this.shard.take() {
                shard.end(*this.number, Outcome::Aborted);
            }
        }
    }
}

impl<F> Spawned<F> {
    pub(crate) const fn new(shard: Arc<Shard>, number: u64, work: F) -> Self {
        Self { shard: Some(shard), number, started: false, work: Some(work) }
    }
}

impl<F: Future<Output = ()>> Future for Spawned<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let (Some(shard), number) = (this.shard.as_ref(), *this.number) else {
            return Poll::Ready(());
        };
        let was_started = mem::replace(this.started, true);
        let goes_on = if was_started { shard.is_live(number) } else { shard.start(number) };
        let polled = goes_on.then(|| {
            catch_panic(|| {
                let polled = this.work.as_mut().as_pin_mut().map_or(Poll::Ready(()), |work| work.poll(context));
                // Before its end is counted: who waits for that finds its captures dropped.
                if polled.is_ready() {
                    this.work.set(None);
                }
                polled
            })
        });
        match polled {
            Some(Poll::Pending) if shard.insert_waker(number, context.waker()) => return Poll::Pending,
            Some(Poll::Ready(outcome)) => drop(shard.end(number, outcome)),
            // Aborted, and counted by the abort. The runtime drops the work.
            Some(Poll::Pending) | None => {}
        }
        *this.shard = None;
        Poll::Ready(())
    }
}
