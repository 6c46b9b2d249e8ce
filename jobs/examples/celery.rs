//! Tasks for Celery workers, a chain, and what became of them.
//!
//! ```sh
//! pip install 'celery[redis]'
//! # tasks.py:
//! #     from celery import Celery
//! #     app = Celery("tasks", broker="redis://127.0.0.1/0", backend="redis://127.0.0.1/1")
//! #     @app.task
//! #     def add(x, y): return x + y
//! celery -A tasks worker
//! cargo run --all-features --example celery
//! ```
//!
//! `BROKER_URL` (`redis://127.0.0.1/0`) and `RESULT_URL` (`redis://127.0.0.1/1`) are other addresses.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::{env, error::Error, time::Duration};

use postlude_jobs::{
    JobId,
    celery::{CeleryProducer, CeleryResult, CeleryState, CeleryTask},
};
use tokio::time::{sleep, timeout};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = env::var("BROKER_URL").unwrap_or_else(|_| "redis://127.0.0.1/0".to_owned());
    let results = env::var("RESULT_URL").unwrap_or_else(|_| "redis://127.0.0.1/1".to_owned());
    let celery = CeleryProducer::builder(&broker).result_backend(results).connect().await.inspect_err(|_| {
        println!("this example needs a broker and a Celery worker: see the head of jobs/examples/celery.rs");
    })?;

    let id = celery.send(CeleryTask::new("tasks.add").args((2, 3))).await?;
    println!("sent tasks.add(2, 3) as {id}");
    show(&celery, id).await?;

    let later = CeleryTask::new("tasks.add").arg(40).kwarg("y", 2).countdown(Duration::from_secs(2));
    let id = celery.send(later.expires_after(Duration::from_secs(60))).await?;
    println!("sent tasks.add(40, y=2), due in 2 s, as {id}");
    show(&celery, id).await?;

    let add = |number: u64| CeleryTask::new("tasks.add").arg(number);
    let ids = celery.send_chain([add(1).arg(2), add(3), add(4)]).await?;
    println!("sent a chain of three: 1 + 2, + 3, + 4");
    for id in ids {
        show(&celery, id).await?;
    }

    let id = celery.send(CeleryTask::new("tasks.subtract").args((3, 2))).await?;
    println!("sent tasks.subtract(3, 2), which no worker knows, as {id}");
    show(&celery, id).await
}

/// Waits for the end of a task, and prints its result.
async fn show(celery: &CeleryProducer, id: JobId) -> Result<(), Box<dyn Error>> {
    let ended = timeout(Duration::from_secs(20), async {
        while !matches!(celery.state(id).await?, CeleryState::Success | CeleryState::Failure | CeleryState::Revoked) {
            sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, Box<dyn Error>>(())
    });
    ended.await.map_err(|_| "no worker has run it within 20 s: is one started, with the same broker?")??;
    match celery.result::<i64>(id).await? {
        CeleryResult::Success(sum) => println!("  {sum}\n"),
        CeleryResult::Failure(failure) => println!("  failed: {failure}\n"),
        other => println!("  {other:?}\n"),
    }
    Ok(())
}
