//! The end of a service, from the signal to the report.

use std::{future::IntoFuture, io, pin::pin};

use tokio_util::sync::CancellationToken;

use crate::{
    model::{ServePolicy, ShutdownReport},
    registry::{TaskRegistry, signals::SignalWatch},
    util::clock::Timestamp,
};

impl TaskRegistry {
    /// Feature `signal`.
    /// Runs a server until SIGTERM or Ctrl-C, then ends both in order: the server stops accepting and finishes its
    /// connections, and the registry [shuts down](Self::shutdown), all within the grace and the registry's
    /// [settle time](crate::TaskRegistryBuilder::settle).
    ///
    /// `server` makes the server. It is given a token that is cancelled at the first signal: for the server's own graceful
    /// shutdown, and for handlers whose responses would otherwise not end, such as server-sent events and web sockets.
    ///
    /// Connections may use all of the grace but the settle time; a server that has not ended then is dropped. When half
    /// of the grace is over, sets whose response exists drain, whatever their client does, so that a client that does
    /// not read leaves time for the tasks.
    ///
    /// A second signal exits the process at once, with the status that shells use for it (130 for Ctrl-C, 143 for
    /// SIGTERM): live tasks are lost then, as in a crash. The same signal within 500 ms counts once. After this method
    /// has returned, or was dropped, SIGTERM or Ctrl-C exits with the same status. [`ServePolicy`] switches both off.
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
    ///         .serve(Duration::from_secs(20), |stop| {
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
    ///
    /// # Cancel safety
    /// If it is dropped, the server is dropped, and the registry is not shut down.
    pub async fn serve<S, E>(
        &self,
        policy: impl Into<ServePolicy>,
        server: impl FnOnce(CancellationToken) -> S,
    ) -> Result<ShutdownReport, E>
    where
        S: IntoFuture<Output = Result<(), E>>,
        E: From<io::Error>,
    {
        let policy = policy.into();
        let stop = CancellationToken::new();
        // Dropped last, so that a second signal is heard until the registry has shut down.
        let _watch = SignalWatch::start(policy, stop.clone()).await?;
        let mut start = None;
        let ended = {
            let mut server = pin!(server(stop.clone()).into_future());
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    start = Some(Timestamp::now());
                    // Before the server goes on, so that what it ends from here on is in the report.
                    self.count_before().await;
                    tokio::select! {
                        biased;
                        ended = &mut server => ended,
                        () = self.time_of_server(policy) => {
                            tracing::warn!(target: "postlude", "the server has not ended in its time, and is dropped");
                            Ok(())
                        }
                    }
                }
                ended = &mut server => ended,
            }
        };
        let (now, since) = (Timestamp::now(), start.unwrap_or_else(Timestamp::now));
        let report = self.shutdown_since(since, policy.grace.saturating_sub(now.since(since))).await;
        if ended.is_err() {
            tracing::error!(target: "postlude", "the server failed; {report}");
        }
        ended.map(|()| report)
    }

    /// Waits as long as the server may take after the first signal, and begins the shutdown meanwhile.
    async fn time_of_server(&self, policy: ServePolicy) {
        let shared = &self.shared;
        let in_all = policy.grace.saturating_sub(shared.settle_time).max(policy.grace / 2);
        let half = policy.grace / 2;
        shared.timer.sleep(half).await;
        self.drain_answered_sets().await;
        shared.timer.sleep(in_all - half).await;
    }
}
