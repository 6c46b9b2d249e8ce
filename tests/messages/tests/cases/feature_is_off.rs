//! `serve` needs the feature `signal`, which is off here.
use std::time::Duration;

use axum::Router;
use postlude::TaskRegistry;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (registry, app) = (TaskRegistry::new(), Router::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    let report = registry
        .serve(Duration::from_secs(20), |stop| {
            axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned())
        })
        .await?;
    println!("{report}");
    Ok(())
}
