//! The end of a service, from the signal to the report.

use std::{future::IntoFuture, io, pin::pin, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{model::ShutdownReport, registry::TaskRegistry};

impl TaskRegistry {
    /// Runs a server until SIGTERM or Ctrl-C, then ends both in order: the server stops accepting and finishes
    /// its connections, and the registry [shuts down](Self::shutdown), all within `grace` and the registry's
    /// [settle time](crate::TaskRegistryBuilder::settle).
    ///
    /// `server` makes the server. It is given a token that is cancelled when the first signal comes: for the
    /// server's own graceful shutdown, and for handlers whose responses would otherwise not end, such as
    /// server-sent events and web sockets. A server that has not ended when half of the grace is over is
    /// dropped, so that a client that does not read leaves time for the tasks.
    ///
    /// A second signal exits the process at once, with the status that shells use for it (130 for Ctrl-C, 143
    /// for SIGTERM): what lives then is lost, as in a crash.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use axum::Router;
    /// use postlude::{TaskLayer, TaskRegistry};
    ///
    /// #[tokio::main]
    /// async fn main() -> std::io::Result<()> {
    ///     let registry = TaskRegistry::new();
    ///     let app = Router::new().layer(TaskLayer::new(registry.clone()));
    ///     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    ///     let report = registry
    ///         .serve(Duration::from_secs(30), |stop| {
    ///             axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned())
    ///         })
    ///         .await?;
    ///     println!("{report}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// If the signals can't be listened to, before the server is made; or the server's own error, after the
    /// registry was shut down, with the report in the log.
    pub async fn serve<S, E>(
        &self,
        grace: Duration,
        server: impl FnOnce(CancellationToken) -> S,
    ) -> Result<ShutdownReport, E>
    where
        S: IntoFuture<Output = Result<(), E>>,
        E: From<io::Error>,
    {
        let stop = CancellationToken::new();
        let watch = Signals::listen()?.watch(stop.clone());
        let _watching = Watching { task: self.shared.spawn(watch), stop: stop.clone() };
        let (start, ended) = {
            let mut server = pin!(server(stop.clone()).into_future());
            tokio::select! {
                biased;
                ended = &mut server => (Instant::now(), ended),
                () = stop.cancelled() => {
                    let start = Instant::now();
                    tokio::select! {
                        biased;
                        ended = &mut server => (start, ended),
                        () = self.shared.timer.sleep(grace / 2) => {
                            tracing::warn!(target: "postlude", "the server has not ended in half of the grace, and is dropped");
                            (start, Ok(()))
                        }
                    }
                }
            }
        };
        let report = self.shutdown(grace.saturating_sub(start.elapsed())).await;
        if ended.is_err() {
            tracing::error!(target: "postlude", "the server failed; {report}");
        }
        ended.map(|()| report)
    }
}

/// Ends the watch for signals with the server that it was for. After a signal it goes on: until the process
/// has ended, a second one shall be heard.
struct Watching {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            self.task.abort();
        }
    }
}

/// A signal that ends the service.
#[derive(Clone, Copy)]
struct Signal {
    name: &'static str,
    exit_status: i32,
}

const INTERRUPT: Signal = Signal { name: "SIGINT", exit_status: 130 };

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
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
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        INTERRUPT
    }
}

impl Signals {
    /// Cancels `stop` at the first signal, and exits at the second.
    async fn watch(mut self, stop: CancellationToken) {
        let signal = self.next().await;
        tracing::info!(target: "postlude", signal = signal.name, "stopping; a second signal exits at once");
        stop.cancel();
        let signal = self.next().await;
        tracing::error!(target: "postlude", signal = signal.name, "a second signal: exiting at once");
        std::process::exit(signal.exit_status);
    }
}
