//! The processes that the tests start, and what the tests do to them.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    time::Duration,
};

use postlude::TaskRegistry;
use postlude_jobs::{Jobs, JobsBuilder, job};
use serde::{Deserialize, Serialize};

use crate::{
    versions,
    work::{Action, Entry, ToughWork, Work, note},
};

/// A short lease, for workers that die, and where it does no harm if a busy machine loses one.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// A lease that a busy machine does not lose, for tests in which one process dies and others must keep theirs.
pub(crate) const KEPT: Duration = Duration::from_secs(6);

/// A lease that no busy machine loses, for tests in which no process dies.
pub(crate) const NEVER_LOST: Duration = Duration::from_secs(60);

/// How many jobs a worker holds.
pub(crate) const CONCURRENCY: usize = 8;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Worker,
    /// The worker of the version before.
    OldWorker,
    /// A worker whose jobs have changed since.
    NewWorker,
    /// Pushes one job after the other.
    Producer,
    /// A web server with a worker.
    Web,
}

/// How a process is started: it gets this as its argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    role: Role,
    address: String,
    log: PathBuf,
    lease: Duration,
    #[serde(skip)]
    environment: Vec<(&'static str, String)>,
    /// A program that starts the process, with its arguments.
    #[serde(skip)]
    starter: Vec<String>,
}

impl Config {
    pub(crate) fn new(role: Role, address: &str, log: &Path) -> Self {
        let (address, log) = (address.to_owned(), log.to_owned());
        Self { role, address, log, lease: LEASE, environment: Vec::new(), starter: Vec::new() }
    }

    pub(crate) fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    pub(crate) fn environment(mut self, environment: &[(&'static str, String)]) -> Self {
        self.environment.extend_from_slice(environment);
        self
    }

    pub(crate) fn started_by(mut self, starter: &[&str]) -> Self {
        self.starter = starter.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts the process, and waits until it works.
    pub(crate) fn start(&self) -> Process {
        let mut words = self.starter.clone();
        words.push(env::current_exe().unwrap().display().to_string());
        let mut process = Command::new(&words[0])
            .args(&words[1..])
            .args(["--child", &serde_json::to_string(self).unwrap()])
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            // In a group of its own: if the shell that has started the tests ends, the system continues the stopped
            // processes of their group.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = line.trim().to_owned();
        Process { process, ready }
    }
}

pub(crate) struct Process {
    process: Child,
    /// What it printed when it was ready: nothing if it has ended before.
    ready: String,
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether it came up.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The port of a web server.
    #[cfg(all(feature = "axum", any(feature = "sqlite", feature = "postgres")))]
    pub(crate) fn port(&self) -> u16 {
        self.ready.parse().unwrap()
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn kill(mut self) {
        self.kill_now();
    }

    /// Kills it, and keeps it.
    pub(crate) fn kill_now(&mut self) {
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

    /// Tells the process to end in an orderly way.
    pub(crate) fn begin_shutdown(&mut self) {
        drop(self.process.stdin.take());
    }

    /// Ends the process in an orderly way.
    pub(crate) fn shut_down(mut self) {
        self.begin_shutdown();
        assert!(self.process.wait().unwrap().success(), "the process ends in an orderly way");
    }
}

impl Drop for Process {
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
    #[cfg(feature = "rabbitmq")]
    if address.starts_with("amqp") {
        // The nodes, and the name of the queue.
        let mut words: Vec<&str> = address.split(' ').collect();
        let queue = words.pop().unwrap();
        let queue = postlude_jobs::rabbitmq::RabbitQueue::connect_to(&words, queue).await.unwrap();
        return Jobs::builder(queue, registry);
    }
    #[cfg(feature = "redis")]
    if let Some(ports) = address.strip_prefix(crate::redis::SENTINELS) {
        return Jobs::builder(crate::redis::by_sentinels(ports), registry);
    }
    #[cfg(feature = "redis")]
    if address.starts_with("redis://") {
        return Jobs::builder(postlude_jobs::redis::RedisQueue::connect(address).await.unwrap(), registry);
    }
    #[cfg(feature = "sqlite")]
    return Jobs::builder(postlude_jobs::sqlite::SqliteQueue::open(address).await.unwrap(), registry);
    #[cfg(not(feature = "sqlite"))]
    unreachable!("no engine for {address} with {registry:?}")
}

/// The process.
pub(crate) fn run(config: &str) {
    let config: Config = serde_json::from_str(config).unwrap();
    if env::var_os("JOBS_FAULTS_LOG").is_some() {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match config.role {
            #[cfg(all(feature = "axum", any(feature = "sqlite", feature = "postgres")))]
            Role::Web => crate::web::run(&config.address, &config.log, config.lease).await,
            #[cfg(not(all(feature = "axum", any(feature = "sqlite", feature = "postgres"))))]
            Role::Web => unreachable!("it needs the feature `axum`, and an engine with transactions"),
            Role::Producer => produce(&config).await,
            Role::Worker | Role::OldWorker | Role::NewWorker => work(&config).await,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

/// Tells the test that the process works.
pub(crate) fn ready(word: &str) {
    std::io::stdout().write_all(format!("{word}\n").as_bytes()).unwrap();
}

/// Works until the standard input ends.
async fn work(config: &Config) {
    // Long enough for a busy machine to settle what a shutdown has aborted.
    let registry = TaskRegistry::builder().settle(KEPT).build().unwrap();
    let builder = builder(&config.address, registry.clone()).await.concurrency(CONCURRENCY);
    // With RabbitMQ, the lease is the connection.
    let builder = if config.address.starts_with("amqp") { builder } else { builder.lease(config.lease) };
    let (log, tough) = (config.log.clone(), config.log.clone());
    let builder = match config.role {
        Role::OldWorker => versions::handle_old(builder, log),
        Role::NewWorker => versions::handle_new(builder, log),
        _ => builder
            .handle(move |work: Work| act(work, log.clone()))
            .handle(move |ToughWork(work)| act(work, tough.clone())),
    };
    let jobs = builder.start().await.unwrap();
    ready("ready");
    end_of_input().await;
    registry.shutdown(Duration::from_millis(300)).await;
    let metrics = jobs.metrics();
    let (completed, lost, refused) = (metrics.completed, metrics.lost, metrics.refused);
    note(&config.log, &Entry::Metrics { pid: process::id(), completed, lost, refused });
}

/// Pushes until it is killed, or the standard input ends.
async fn produce(config: &Config) {
    let jobs = builder(&config.address, TaskRegistry::new()).await.producer().await.unwrap();
    ready("ready");
    let push = async {
        for number in 0.. {
            jobs.push(Work::new(number, Action::Take(0))).await.unwrap();
            note(&config.log, &Entry::Pushed { number });
        }
    };
    tokio::select! {
        () = push => {}
        () = end_of_input() => {}
    }
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

pub(crate) async fn act(work: Work, log: PathBuf) -> Result<(), &'static str> {
    let (number, attempt, pid) = (work.number, job::current().unwrap().attempt(), process::id());
    note(&log, &Entry::Start { number, attempt, pid });
    match work.action {
        Action::Take(0) | Action::DoAndAbortOnce => {}
        Action::Take(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        Action::TakeAnHourOnce if attempt == 1 => tokio::time::sleep(Duration::from_secs(3600)).await,
        Action::FailOnce if attempt == 1 => return Err("the first attempt fails"),
        Action::AbortOnce if attempt == 1 => process::abort(),
        Action::Abort => process::abort(),
        Action::AbortAfter(millis) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            process::abort();
        }
        Action::TakeAnHourOnce | Action::FailOnce | Action::AbortOnce => {}
    }
    note(&log, &Entry::End { number, attempt, pid });
    if work.action == Action::DoAndAbortOnce && attempt == 1 {
        process::abort();
    }
    Ok(())
}
