//! Waiting for a time, on any runtime.

use std::{future::Future, pin::Pin, thread, time::Duration};

use tokio::{sync::oneshot, time};

use crate::{outcome::guarded, registry::Inner};

/// A wait that owns what it needs.
pub(crate) type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits for `duration`: by tokio's timer, so that tests can pause it, or by a thread where the runtime was
/// built without one.
pub(crate) fn sleep(inner: &Inner, duration: Duration) -> Sleep {
    let has_timer = *inner.has_timer.get_or_init(|| {
        let found = guarded(|| {
            let _runtime = inner.handle.enter();
            drop(time::sleep(Duration::ZERO));
        });
        if found.is_err() {
            tracing::warn!(
                target: "postlude",
                "the runtime has no timer, so a thread waits in its place each time: build the runtime with `enable_time()`"
            );
        }
        found.is_ok()
    });
    if has_timer {
        let _runtime = inner.handle.enter();
        return Box::pin(time::sleep(duration));
    }
    let (wake, woken) = oneshot::channel::<()>();
    let started = thread::Builder::new().name("postlude-timer".to_owned()).spawn(move || {
        thread::sleep(duration);
        drop(wake);
    });
    if let Err(error) = started {
        tracing::error!(target: "postlude", %error, "no thread could be started to wait in the place of the runtime's timer");
    }
    Box::pin(async move {
        let _over = woken.await;
    })
}
