//! A job that survives the death of its process, and two processes that share the work.
//!
//! ```sh
//! cargo run --example jobs
//! DATABASE_URL=postgres://user@127.0.0.1/database cargo run --all-features --example jobs
//! REDIS_URL=redis://127.0.0.1/ cargo run --all-features --example jobs
//! ```
//!
//! The first process pushes an export and starts a worker, which kills itself (SIGKILL) in the middle of it. Two other
//! workers are started: one of them runs the export to its end, and they share ten thumbnails.
#![expect(clippy::print_stdout, clippy::exit, reason = "an example prints, and this one kills itself")]

use std::{
    env,
    error::Error,
    io::{self, Read},
    process::{self, Child, Command, Stdio},
    time::Duration,
};

use postlude::TaskRegistry;
use postlude_jobs::{Job, JobId, JobState, Jobs, JobsBuilder, job, sqlite::SqliteQueue};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

/// A short lease, so that nobody has to wait for half a minute.
const LEASE: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize)]
struct Export {
    pages: u32,
}

impl Job for Export {
    const NAME: &'static str = "export";
}

#[derive(Serialize, Deserialize)]
struct Thumbnail {
    image: u32,
}

impl Job for Thumbnail {
    const NAME: &'static str = "thumbnail";
}

async fn export(export: Export) {
    let attempt = job::current().map_or(0, |job| job.attempt());
    for page in 1..=export.pages {
        sleep(Duration::from_millis(300)).await;
        say(&format!("export, attempt {attempt}: page {page} of {}", export.pages));
        if page == 2 && attempt == 1 {
            say("kills itself; the queue is not told");
            kill_myself();
        }
    }
}

async fn thumbnail(thumbnail: Thumbnail) {
    sleep(Duration::from_millis(100)).await;
    say(&format!("thumbnail {}", thumbnail.image));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(flag), Some(address)) if flag == "--worker" => work(&address).await,
        _ => demonstrate().await,
    }
}

/// What a worker process does: works until its standard input ends.
async fn work(address: &str) -> Result<(), Box<dyn Error>> {
    let registry = TaskRegistry::new();
    let builder = connect(address, registry.clone()).await?;
    let _jobs = builder.lease(LEASE).concurrency(2).handle(export).handle(thumbnail).start().await?;
    say("works");
    let end_of_input = || io::stdin().read_to_end(&mut Vec::new()).map(drop);
    registry.spawn_blocking(end_of_input).await;
    registry.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

async fn demonstrate() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let url = env::var("REDIS_URL").or_else(|_| env::var("DATABASE_URL"));
    let address = url.unwrap_or_else(|_| folder.path().join("jobs.db").display().to_string());
    println!("the queue: {address}");
    let jobs = connect(&address, TaskRegistry::new()).await?.producer().await?;

    let id = jobs.push(Export { pages: 4 }).await?;
    println!("pushed the export {id}: it is stored now, whatever happens to this process\n");
    let mut first = start_worker(&address)?;
    // `wait` would close its standard input, and so end it in an orderly way.
    let input = first.stdin.take();
    first.wait()?;
    drop(input);
    println!("\nthe first worker is dead; the export is {}, until its lease runs out", state(&jobs, id).await?);

    let mut workers = [start_worker(&address)?, start_worker(&address)?];
    let images = jobs.push_all((1..=10).map(|image| Thumbnail { image }).collect()).await?;
    for id in images.into_iter().chain([id]) {
        while state(&jobs, id).await? != JobState::Completed {
            sleep(Duration::from_millis(50)).await;
        }
    }
    for worker in &mut workers {
        // Its standard input ends, so it shuts down.
        drop(worker.stdin.take());
        worker.wait()?;
    }
    let info = jobs.find(id).await?.ok_or("the export is not stored")?;
    println!("\nthe export is {}, after {} crash and {} failures", info.state, info.crashes, info.failures);
    Ok(())
}

async fn state(jobs: &Jobs, id: JobId) -> Result<JobState, Box<dyn Error>> {
    Ok(jobs.find(id).await?.ok_or("the job is not stored")?.state)
}

async fn connect(address: &str, registry: TaskRegistry) -> Result<JobsBuilder, Box<dyn Error>> {
    match address.split_once("://").map(|(scheme, _)| scheme) {
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => {
            Ok(Jobs::builder(postlude_jobs::postgres::PostgresQueue::connect(address).await?, registry))
        }
        #[cfg(feature = "redis")]
        Some("redis" | "rediss") => {
            Ok(Jobs::builder(postlude_jobs::redis::RedisQueue::connect(address).await?, registry))
        }
        Some(scheme) => {
            Err(format!("`{scheme}://` needs a feature of its engine: cargo run --all-features --example jobs").into())
        }
        None => Ok(Jobs::builder(SqliteQueue::open(address).await?, registry)),
    }
}

fn start_worker(address: &str) -> io::Result<Child> {
    Command::new(env::current_exe()?).args(["--worker", address]).stdin(Stdio::piped()).spawn()
}

fn say(text: &str) {
    println!("  [process {}] {text}", process::id());
}

fn kill_myself() {
    let killed = Command::new("kill").args(["-9", &process::id().to_string()]).status();
    // Not reached where there are signals.
    process::exit(killed.map_or(1, |_| 1));
}
