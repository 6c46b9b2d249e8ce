//! Hearing that there is something to reserve.

use std::{future::poll_fn, pin::pin, time::Duration};

use futures_core::Stream as _;
use redis::Value;
use tokio::time::{sleep, timeout};

use super::{
    ENGINE,
    connect::Shared,
    connection::CONNECT_LIMIT,
    error::{not_sent, sent},
};
use crate::model::error::QueueError;

/// After how long a connection that was lost is made again.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How often a connection on which nothing comes is tried.
const TRY_EVERY: Duration = Duration::from_secs(5);

impl Shared {
    /// Wakes the workers of this process. Those of others are told by the script that has made jobs wait.
    pub(super) fn announce(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }

    /// Listens for what the scripts publish, on a connection of its own.
    pub(super) async fn watch(&self) {
        let mut has_warned = false;
        loop {
            if let Err(error @ QueueError::Refused { .. }) = self.listen().await
                && !has_warned
            {
                has_warned = true;
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    target: "postlude_jobs", engine = ENGINE, error,
                    "the worker can't hear of new jobs, and looks for them once a second"
                );
            }
            // The worker polls meanwhile.
            sleep(LISTEN_AGAIN_AFTER.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// Wakes the worker at each message, until the connection is lost.
    async fn listen(&self) -> Result<(), QueueError> {
        let client = self.source.client().await.map_err(not_sent)?;
        let Ok(connected) = timeout(CONNECT_LIMIT, client.get_async_pubsub()).await else { return Ok(()) };
        let mut connection = connected.map_err(not_sent)?;
        let subscription = connection.subscribe(format!("{}changed", self.prefix));
        let Ok(subscribed) = timeout(CONNECT_LIMIT, subscription).await else { return Ok(()) };
        subscribed.map_err(sent)?;
        self.announce();
        let (mut sink, stream) = connection.split();
        let mut stream = pin!(stream);
        loop {
            match timeout(TRY_EVERY, poll_fn(|context| stream.as_mut().poll_next(context))).await {
                Ok(Some(_)) => self.announce(),
                // The connection was lost.
                Ok(None) => return Ok(()),
                Err(_) => match timeout(CONNECT_LIMIT, sink.ping::<Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return Ok(()),
                },
            }
        }
    }
}
