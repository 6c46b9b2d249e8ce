//! Real brokers, with real Celery workers.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use postlude_jobs::{
    JobId,
    celery::{CeleryProducer, CeleryProducerBuilder, CeleryResult, CeleryState},
};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::Instant};

use crate::common::{rabbitmq, redis, until};

/// A kind of broker.
pub(crate) trait Broker: 'static {
    const NAME: &'static str;

    fn is_installed() -> bool;

    /// The broker with its workers, which all tests share.
    fn fleet() -> Arc<Fleet>;
}

pub(crate) struct Redis;

impl Broker for Redis {
    const NAME: &'static str = "redis";

    fn is_installed() -> bool {
        redis::is_installed()
    }

    fn fleet() -> Arc<Fleet> {
        static SHARED: OnceLock<Arc<Fleet>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| {
            let results = redis::Server::create();
            let url = format!("{}0", results.url());
            remember(Fleet::start(url, results))
        }))
    }
}

pub(crate) struct Rabbit;

impl Broker for Rabbit {
    const NAME: &'static str = "rabbitmq";

    fn is_installed() -> bool {
        rabbitmq::is_installed() && redis::is_installed()
    }

    fn fleet() -> Arc<Fleet> {
        static SHARED: OnceLock<Arc<Fleet>> = OnceLock::new();
        Arc::clone(
            SHARED.get_or_init(|| {
                remember(Fleet::start(format!("{}/", rabbitmq::shared().url()), redis::Server::create()))
            }),
        )
    }
}

static FLEETS: Mutex<Vec<Arc<Fleet>>> = Mutex::new(Vec::new());

fn remember(fleet: Fleet) -> Arc<Fleet> {
    let fleet = Arc::new(fleet);
    FLEETS.lock().push(Arc::clone(&fleet));
    fleet
}

/// Ends all workers and servers: statics are not dropped.
pub(crate) fn stop() {
    for fleet in FLEETS.lock().drain(..) {
        fleet.workers.lock().clear();
        fleet.results.kill();
    }
    rabbitmq::stop();
}

pub(crate) struct Fleet {
    pub(crate) url: String,
    pub(crate) results: redis::Server,
    workers: Mutex<Vec<Worker>>,
    folder: TempDir,
}

impl Fleet {
    fn start(url: String, results: redis::Server) -> Self {
        let fleet = Self { url, results, workers: Mutex::default(), folder: tempfile::tempdir().unwrap() };
        // Tests that wait for a file hold a process each.
        let general = fleet.worker(&["-Q", "celery,other", "--concurrency", "4"], &[]);
        // One after the other, in the order in which the broker gives them.
        let ranked = fleet.worker(&["-Q", "ranked", "--pool", "solo", "--concurrency", "1"], &[]);
        general.until_ready();
        ranked.until_ready();
        fleet.workers.lock().extend([general, ranked]);
        fleet
    }

    pub(crate) fn worker(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Worker {
        let results = format!("{}1", self.results.url());
        let mut environment = environment.to_vec();
        environment.extend([("BROKER_URL", self.url.as_str()), ("RESULT_URL", results.as_str())]);
        Worker::start(arguments, &environment)
    }

    pub(crate) fn builder(&self) -> CeleryProducerBuilder {
        CeleryProducer::builder(&self.url).result_backend(format!("{}1", self.results.url()))
    }

    pub(crate) async fn producer(&self) -> CeleryProducer {
        self.builder().connect().await.unwrap()
    }

    /// A path that no other test has.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}-{}", JobId::generate()))
    }

    /// What the workers have logged.
    pub(crate) fn log(&self) -> String {
        self.workers.lock().iter().map(Worker::log).collect()
    }
}

/// A worker process.
pub(crate) struct Worker {
    process: Mutex<Child>,
    log: PathBuf,
    _folder: TempDir,
}

impl Worker {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let file = fs::File::create(&log).unwrap();
        let name = format!("test-{}@%h", JobId::generate());
        let quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO", "-n", &name];
        let process = Command::new(python().expect("Celery is installed"))
            .args(["-m", "celery", "-A", "worker", "worker"])
            .args(quiet)
            .args(arguments)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/celery"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { process: Mutex::new(process), log, _folder: folder }
    }

    pub(crate) fn until_ready(&self) {
        let start = Instant::now();
        while !self.log().contains(" ready.") {
            let has_ended = self.process.lock().try_wait().unwrap().is_some();
            let is_late = start.elapsed() > Duration::from_secs(120);
            assert!(!has_ended && !is_late, "the worker does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Worker {
    /// A cold shutdown, which ends the processes of its pool, too.
    fn drop(&mut self) {
        let process = self.process.get_mut();
        let pid = process.id().to_string();
        let told = Command::new("kill").args(["-QUIT", &pid]).status();
        let start = Instant::now();
        while told.as_ref().is_ok_and(|status| status.success()) && start.elapsed() < Duration::from_secs(10) {
            if matches!(process.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _is_gone = process.kill();
        let _is_gone = process.wait();
    }
}

/// The Python that has Celery: `CELERY_PYTHON`, or that of the environment that `scripts/celery-python` makes.
fn python() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let made = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/celery/bin/python");
        let python = env::var_os("CELERY_PYTHON").map_or_else(|| Path::new(made).to_owned(), PathBuf::from);
        let imports = Command::new(&python).args(["-c", "import celery, redis"]).stderr(Stdio::null()).status();
        imports.is_ok_and(|status| status.success()).then_some(python)
    };
    FOUND.get_or_init(find).clone()
}

pub(crate) fn has_celery() -> bool {
    python().is_some()
}

/// Waits for the state of a task.
pub(crate) async fn until_state(producer: &CeleryProducer, id: JobId, state: &CeleryState) {
    until(&format!("task {id} is {state}"), async || producer.state(id).await.unwrap() == *state).await;
}

/// Waits until a task has ended, and returns its result.
pub(crate) async fn ended<T: DeserializeOwned>(producer: &CeleryProducer, id: JobId) -> CeleryResult<T> {
    let has_ended = async || {
        let state = producer.state(id).await.unwrap();
        matches!(state, CeleryState::Success | CeleryState::Failure | CeleryState::Revoked)
    };
    until(&format!("task {id} has ended"), has_ended).await;
    producer.result(id).await.unwrap()
}

/// Waits until a task has succeeded, and returns what it returned.
pub(crate) async fn returned<T: DeserializeOwned>(producer: &CeleryProducer, id: JobId) -> T {
    match ended(producer, id).await {
        CeleryResult::Success(value) => value,
        CeleryResult::Failure(failure) => unreachable!("task {id} has failed: {failure}"),
        _ => unreachable!("task {id} was revoked"),
    }
}

#[expect(clippy::disallowed_methods, reason = "a test needs many tasks, and no registry")]
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(future)
}
