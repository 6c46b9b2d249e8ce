//! Durable jobs of the service: some that die, and some that wait.

use std::{error::Error, path::Path, time::Duration};

use axum::Router;
use postlude::TaskRegistry;
use postlude_jobs::{Job, JobPolicy, Jobs, JobsRouter, PushOptions, sqlite::SqliteQueue};
use serde::{Deserialize, Serialize};

/// Fails at each attempt, and has one.
#[derive(Serialize, Deserialize)]
struct Webhook {
    error: String,
}

impl Job for Webhook {
    const NAME: &'static str = "webhook<b>";

    fn policy() -> JobPolicy {
        JobPolicy::default().max_attempts(1)
    }
}

#[derive(Serialize, Deserialize)]
struct Report {}

impl Job for Report {
    const NAME: &'static str = "report";
}

pub(crate) async fn start(registry: &TaskRegistry, folder: &Path) -> Result<Jobs, Box<dyn Error>> {
    let queue = SqliteQueue::open(folder.join("jobs.db")).await?;
    let jobs = Jobs::builder(queue, registry.clone())
        .handle(async |webhook: Webhook| Err::<(), _>(webhook.error))
        .handle(async |_: Report| {})
        .start()
        .await?;
    for number in 0..3 {
        jobs.push(Webhook { error: format!("the receiver answered 50{number} <script>\u{202e}") }).await?;
    }
    jobs.push_with(Report {}, PushOptions::default().delay(Duration::from_secs(3600))).await?;
    while jobs.stats().await?.get(Webhook::NAME).dead < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(jobs)
}

pub(crate) fn routes(jobs: Jobs, is_acting: bool) -> Router {
    let routes = JobsRouter::new(jobs);
    let routes = if is_acting { routes.allow_actions() } else { routes };
    Router::new().nest("/some/jobs", routes.build())
}
