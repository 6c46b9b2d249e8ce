//! Waiting for a time, on any runtime.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use tokio::{sync::oneshot, time};

use crate::{
    engine::shared::Inner,
    util::{loom::atomic::Ordering, panic::guarded},
};

/// A wait that owns what it needs.
pub(crate) type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits for `duration`: by the timer of the runtime in which this is called, so that tests can pause it, or
/// by a thread where there is none.
pub(crate) fn sleep(inner: &Inner, duration: Duration) -> Sleep {
    // Relaxed: a hint, which saves the message of a caught panic each time.
    if inner.no_timer.load(Ordering::Relaxed) {
        return sleep_on_thread(duration);
    }
    // Tokio has no way to ask whether there is a timer but this one.
    guarded(|| Box::pin(time::sleep(duration)) as Sleep).unwrap_or_else(|_| {
        inner.no_timer.store(true, Ordering::Relaxed);
        tracing::warn!(
            target: "postlude",
            "there is no timer here, so a thread waits in its place each time: build the runtime with `enable_time()`"
        );
        sleep_on_thread(duration)
    })
}

fn sleep_on_thread(duration: Duration) -> Sleep {
    let (wake, woken) = oneshot::channel::<()>();
    // Dropped with the wait, which ends the thread: most time limits are not reached.
    let (wait, given_up) = mpsc::channel::<Infallible>();
    let started = thread::Builder::new().name("postlude-timer".to_owned()).spawn(move || {
        if given_up.recv_timeout(duration) == Err(RecvTimeoutError::Timeout) {
            // Whoever has stopped waiting need not be told.
            let _unheard = wake.send(());
        }
    });
    if let Err(error) = started {
        tracing::error!(target: "postlude", %error, "no thread could be started to wait in the place of a timer: a time limit is not kept, and a delay does not end");
    }
    Box::pin(async move {
        let _wait = wait;
        if woken.await.is_err() {
            // No thread: better no limit than one that is over at once.
            std::future::pending::<()>().await;
        }
    })
}
