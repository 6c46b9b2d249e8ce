//! A worker process, and what the tests do to it.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    time::Duration,
};

use postlude::TaskRegistry;
use postlude_jobs::{Jobs, JobsBuilder, job};

use crate::work::{Action, Entry, Work, note};

/// The lease of the workers, so that the tests need not wait for long.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

pub(crate) struct Worker {
    process: Child,
    /// What it printed when it was ready.
    ready: String,
}

impl Worker {
    /// Starts a worker, and waits until it works.
    pub(crate) fn start(address: &str, log: &Path, lease: Duration) -> Self {
        let worker = Self::start_as("--child", address, log, lease);
        assert_eq!(worker.ready, "ready", "the worker has started");
        worker
    }

    /// Starts a web server with a worker, and waits until it serves. Returns its port, too.
    #[cfg(feature = "axum")]
    pub(crate) fn start_web(address: &str, log: &Path, lease: Duration) -> (Self, u16) {
        let worker = Self::start_as("--web", address, log, lease);
        let port = worker.ready.parse().unwrap();
        (worker, port)
    }

    fn start_as(role: &str, address: &str, log: &Path, lease: Duration) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args([role, address])
            .arg(log)
            .arg(lease.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, ready: line.trim().to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn stop(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Ends the worker in an orderly way.
    pub(crate) fn shut_down(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success(), "the worker ends in an orderly way");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A test that has failed leaves nothing running.
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }
}

/// A builder for the queue at an address.
pub(crate) async fn builder(address: &str, registry: TaskRegistry) -> JobsBuilder {
    #[cfg(feature = "postgres")]
    if address.starts_with("postgres://") {
        return Jobs::builder(postlude_jobs::postgres::PostgresQueue::connect(address).await.unwrap(), registry);
    }
    #[cfg(feature = "sqlite")]
    return Jobs::builder(postlude_jobs::sqlite::SqliteQueue::open(address).await.unwrap(), registry);
    #[cfg(not(feature = "sqlite"))]
    unreachable!("no engine for {address} with {registry:?}")
}

/// The worker process: works until its standard input ends.
pub(crate) fn run(arguments: &[String]) {
    let [address, log, lease] = arguments else { unreachable!("the address, the log and the lease") };
    let (log, lease) = (PathBuf::from(log), Duration::from_millis(lease.parse().unwrap()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let registry = TaskRegistry::new();
        let noted = log.clone();
        let builder = builder(address, registry.clone()).await.concurrency(8).lease(lease);
        let jobs = builder.handle(move |work: Work| act(work, noted.clone())).start().await.unwrap();
        std::io::stdout().write_all(b"ready\n").unwrap();
        end_of_input().await;
        registry.shutdown(Duration::from_millis(300)).await;
        let metrics = jobs.metrics();
        let (completed, lost, refused) = (metrics.completed, metrics.lost, metrics.refused);
        note(&log, &Entry::Metrics { pid: process::id(), completed, lost, refused });
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

/// The standard input ends when the test drops its end, or has failed.
pub(crate) async fn end_of_input() {
    let (sender, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        sender.send(()).unwrap();
    });
    ended.await.unwrap();
}

pub(crate) async fn act(work: Work, log: PathBuf) {
    let (number, attempt, pid) = (work.number, job::current().unwrap().attempt(), process::id());
    note(&log, &Entry::Start { number, attempt, pid });
    match work.action {
        Action::Take(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        Action::TakeAnHourOnce if attempt == 1 => tokio::time::sleep(Duration::from_secs(3600)).await,
        Action::Abort => process::abort(),
        Action::AbortAfter(millis) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            process::abort();
        }
        Action::TakeAnHourOnce | Action::DoAndAbortOnce => {}
    }
    note(&log, &Entry::End { number, attempt, pid });
    if work.action == Action::DoAndAbortOnce && attempt == 1 {
        process::abort();
    }
}
