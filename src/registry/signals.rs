//! The signals that end a service, heard on a thread of their own.
//!
//! The thread has a runtime of its own, because that of the service may be busy, or waiting for a closure, when a
//! signal has to be handled. The thread outlives the service: tokio never restores the default action of a signal.

use std::{
    io,
    process::exit,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{model::ServePolicy, telemetry::log::emit};

/// The same signal within this time is the same stop.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

/// How long an exit waits for its line in the log, whose writer may be blocked.
const LOGGED_WITHIN: Duration = Duration::from_millis(100);

/// How many services the process has. While there is one, no thread of an earlier one exits the process.
static SERVING: AtomicUsize = AtomicUsize::new(0);

/// The signal that has stopped the latest service, and when. The thread of an earlier service hears it, too.
static LATEST_STOP: Mutex<Option<Stop>> = Mutex::new(None);

/// Ends the thread that has remained of an earlier service, because the policy of the latest one counts.
static REMAINING: Mutex<Option<CancellationToken>> = Mutex::new(None);

/// Hears signals for a service until dropped.
pub(crate) struct SignalWatch {
    served: CancellationToken,
}

impl SignalWatch {
    /// Listens on a new thread. The first signal cancels `stop`.
    ///
    /// # Errors
    /// If there can be no such thread, or the signals can't be listened to.
    pub(crate) async fn start(policy: ServePolicy, stop: CancellationToken) -> io::Result<Self> {
        let served = CancellationToken::new();
        let watch = Self { served: served.clone() };
        SERVING.fetch_add(1, Ordering::SeqCst);
        let (ready, is_ready) = oneshot::channel();
        thread::Builder::new().name("postlude-signals".to_owned()).spawn(move || {
            let listening = Listener::new();
            match listening {
                Err(error) => _ = ready.send(Err(error)),
                Ok((runtime, listener)) => {
                    // If the service was dropped meanwhile, nobody receives this.
                    let _unheard = ready.send(Ok(()));
                    runtime.block_on(listener.watch(policy, stop, served));
                }
            }
        })?;
        match is_ready.await {
            Ok(result) => result.map(|()| watch),
            Err(_) => Err(io::Error::other("the thread that listens for signals has panicked")),
        }
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        SERVING.fetch_sub(1, Ordering::SeqCst);
        self.served.cancel();
    }
}

/// A signal that ends the service.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Signal {
    name: &'static str,
    exit_status: i32,
}

/// The first signal of a service, and when it was heard.
type Stop = (Signal, Instant);

const INTERRUPT: Signal = Signal { name: "SIGINT", exit_status: 130 };

#[cfg(unix)]
struct Listener {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Listener {
    fn new() -> io::Result<(Runtime, Self)> {
        use tokio::signal::unix::{SignalKind, signal};

        let runtime = Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let listener =
            Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? };
        drop(entered);
        Ok((runtime, listener))
    }

    async fn next(&mut self) -> Signal {
        const TERMINATE: Signal = Signal { name: "SIGTERM", exit_status: 143 };

        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPT,
            _ = self.terminate.recv() => TERMINATE,
        }
    }
}

#[cfg(not(unix))]
struct Listener;

#[cfg(not(unix))]
impl Listener {
    fn new() -> io::Result<(Runtime, Self)> {
        Ok((Builder::new_current_thread().enable_all().build()?, Self))
    }

    async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        INTERRUPT
    }
}

impl Listener {
    async fn watch(mut self, policy: ServePolicy, stop: CancellationToken, served: CancellationToken) {
        let mut first = None;
        while !served.is_cancelled() {
            let signal = tokio::select! {
                biased;
                signal = self.next() => signal,
                () = served.cancelled() => break,
            };
            match first {
                None => {
                    first = Some((signal, Instant::now()));
                    *LATEST_STOP.lock() = first;
                    let next = if policy.exits_on_second { "; a second signal exits at once" } else { "" };
                    log(move || tracing::info!(target: "postlude", signal = signal.name, "stopping{next}"));
                    stop.cancel();
                }
                Some(first) if policy.exits_on_second && !is_the_same(first, signal) => {
                    exit_at_once(signal, "a second signal: exiting at once");
                }
                Some(_) => {}
            }
        }
        let replaced = CancellationToken::new();
        if let Some(earlier) = REMAINING.lock().replace(replaced.clone()) {
            earlier.cancel();
        }
        if policy.exits_after {
            self.exit_after(replaced).await;
        }
    }

    /// Exits at a signal after the service has ended, while there is no other service, and until another one has ended.
    async fn exit_after(&mut self, replaced: CancellationToken) {
        loop {
            let signal = tokio::select! {
                biased;
                () = replaced.cancelled() => return,
                signal = self.next() => signal,
            };
            // In this order: a service that has ended has stored its stop before.
            let is_serving = SERVING.load(Ordering::SeqCst) > 0;
            let stop = *LATEST_STOP.lock();
            if !is_serving && stop.is_none_or(|stop| !is_the_same(stop, signal)) {
                exit_at_once(signal, "a signal after the service has ended: exiting");
            }
        }
    }
}

/// Whether a signal is the first one again, delivered twice.
fn is_the_same((first, at): Stop, signal: Signal) -> bool {
    signal == first && at.elapsed() < ONE_SIGNAL
}

#[expect(clippy::exit, reason = "asked for by a signal, documented, and can be switched off")]
fn exit_at_once(signal: Signal, why: &'static str) {
    log(move || tracing::error!(target: "postlude", signal = signal.name, "{why}"));
    exit(signal.exit_status);
}

/// Emits a line on another thread, and waits for it, but not for long: the writer of the log may be blocked.
fn log(line: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let emitting = thread::Builder::new().spawn(move || {
        let _panicked = emit(line);
        // Nobody waits any more if it took too long.
        let _unheard = done.send(());
    });
    if emitting.is_ok() {
        let _too_late = is_done.recv_timeout(LOGGED_WITHIN);
    }
}
