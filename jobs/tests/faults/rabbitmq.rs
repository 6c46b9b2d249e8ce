//! RabbitMQ: the faults of the other engines, and those that only it has: alarms of memory and disk, and a cluster whose
//! nodes are killed and stopped. It can't find a job, so all is read from the log of the workers: each job that was
//! acknowledged is done, and how often.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use lapin::{
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use libtest_mimic::Trial;
use parking_lot::Mutex;
use postlude::TaskRegistry;
use postlude_jobs::{Jobs, PushErrorKind, PushOptions, QueueError, rabbitmq::RabbitQueue};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    certificate,
    child::{CONCURRENCY, Config, Process, Role, builder},
    common::{
        Test,
        rabbitmq::{Server, cluster, free_port, is_installed, new_queue, shared},
        trial, until,
    },
    proxy::{Mode, Proxy},
    work::{Action, Entry, Log, ToughWork, Work},
    workers::{push_surely, setting, until_starts},
};

macro_rules! list {
    ($($name:ident)+) => {
        [$((stringify!($name), (|| Box::pin($name())) as Test)),+]
    };
}

pub(crate) fn all() -> Vec<Trial> {
    let tests = list! {
        killed_in_mid_job killed_in_mid_batch killed_between_work_and_settlement stopped_for_longer_than_its_heartbeat
        a_job_that_aborts_its_process shut_down_in_the_middle four_producers_and_four_workers very_many_scheduled
        killed_while_jobs_wait_for_their_time a_producer_is_killed server_killed_and_started_again server_killed_right_after_pushes
        proxy_cuts_delays_holds_and_half_closes silence_longer_than_workers_wait memory_limit disk_limit
        a_queue_is_deleted_under_a_worker credentials_revoked tls chaos cluster_node_killed cluster_node_stopped
    };
    let can_run = |name| is_installed() && (name != "tls" || certificate::can_create());
    tests.into_iter().map(|(name, test)| trial("rabbitmq", name, can_run(name), test)).collect()
}

/// How many seconds a side may be silent: twice that, and the connection ends.
const HEARTBEAT: u64 = 2;

/// The address of a queue at some nodes.
fn address(nodes: &[&Server], queue: &str) -> String {
    let urls = nodes.iter().map(|node| format!("{}?heartbeat={HEARTBEAT} ", node.url()));
    urls.chain([queue.to_owned()]).collect()
}

/// A queue, a log, and a producer.
struct Case {
    address: String,
    queue: String,
    _folder: TempDir,
    log: Log,
    jobs: Jobs,
}

impl Case {
    async fn create() -> Self {
        let queue = new_queue();
        Self::at(address(&[&shared()], &queue), queue).await
    }

    async fn of(server: &Server) -> Self {
        let queue = new_queue();
        Self::at(address(&[server], &queue), queue).await
    }

    async fn at(address: String, queue: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(folder.path().join("log"));
        let jobs = producer(&address).await;
        Self { address, queue, _folder: folder, log, jobs }
    }

    fn worker(&self) -> Process {
        let worker = Config::new(Role::Worker, &self.address, self.log.path()).start();
        assert!(worker.is_ready(), "the worker has started");
        worker
    }

    async fn push(&self, number: u64, action: Action) {
        self.jobs.push(Work::new(number, action)).await.unwrap();
    }

    /// Waits until the work of each of these numbers is done, however long that takes while there is progress.
    async fn until_done(&self, numbers: &BTreeSet<u64>) {
        until_done(&self.log, numbers, &mut []).await;
    }

    /// How many messages a queue of the broker has, apart from those that are delivered.
    async fn count(&self, kind: &str, name: &str) -> u32 {
        let (_connection, channel) = shared().connect().await;
        let (name, passive) =
            (format!("postlude.{}.{kind}.{name}", self.queue), QueueDeclareOptions::durable().passive());
        channel
            .queue_declare(name.into(), passive, FieldTable::default())
            .await
            .map_or(0, |queue| queue.message_count())
    }
}

async fn producer(address: &str) -> Jobs {
    builder(address, TaskRegistry::new()).await.push_timeout(Duration::from_secs(3)).producer().await.unwrap()
}

/// Waits until all is done. Workers that have ended are started again.
async fn until_done(log: &Log, numbers: &BTreeSet<u64>, workers: &mut [(Process, Config)]) {
    let (mut seen, mut last) = (0, Instant::now());
    loop {
        let ends = log.ends();
        let missing: Vec<_> = numbers.iter().filter(|number| !ends.contains_key(number)).take(5).collect();
        if missing.is_empty() {
            return;
        }
        if log.len() > seen {
            (seen, last) = (log.len(), Instant::now());
        }
        for (worker, config) in &mut *workers {
            if worker.has_ended() {
                *worker = start(config);
            }
        }
        assert!(last.elapsed() < Duration::from_secs(120), "nothing has run for two minutes, and {missing:?} are lost");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Starts a worker, again while the server is away.
fn start(config: &Config) -> Process {
    loop {
        let worker = config.start();
        if worker.is_ready() {
            return worker;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// How many jobs were done more than once, and how often at most.
fn repeated(log: &Log) -> (usize, usize) {
    let ends = log.ends();
    (ends.values().filter(|count| **count > 1).count(), ends.values().max().copied().unwrap_or_default())
}

fn metrics(log: &Log, pid: u32) -> (u64, u64, u64) {
    let all = log.entries();
    let found = all.iter().find_map(|entry| match entry {
        Entry::Metrics { pid: of, completed, lost, refused } if *of == pid => Some((*completed, *lost, *refused)),
        _ => None,
    });
    found.expect("the worker has ended in an orderly way")
}

/// An error with its sources.
fn whole(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

async fn killed_in_mid_job() {
    let case = Case::create().await;
    let first = case.worker();
    case.push(1, Action::TakeAnHourOnce).await;
    until_starts(&case.log, 1).await;
    first.kill();
    let second = case.worker();
    case.until_done(&BTreeSet::from([1])).await;
    second.shut_down();
    let starts = case.log.entries().into_iter().filter_map(|entry| match entry {
        Entry::Start { attempt, .. } => Some(attempt),
        _ => None,
    });
    assert_eq!(starts.collect::<Vec<_>>(), [1, 2], "the crash counts");
    assert_eq!(case.log.ends(), BTreeMap::from([(1, 1)]));
}

async fn killed_in_mid_batch() {
    let case = Case::create().await;
    let first = case.worker();
    case.jobs.push_all((0..200).map(|number| Work::new(number, Action::Take(10))).collect()).await.unwrap();
    until("some have ended", async || case.log.ends().len() >= 40).await;
    first.kill();
    let second = case.worker();
    case.until_done(&(0..200).collect()).await;
    second.shut_down();
    let (twice, most) = repeated(&case.log);
    assert!(twice <= CONCURRENCY && most <= 2, "{twice} were done again: {:?}", case.log.ends());
}

async fn killed_between_work_and_settlement() {
    let case = Case::create().await;
    let mut first = case.worker();
    case.push(1, Action::DoAndAbortOnce).await;
    until("the process has aborted", async || first.has_ended()).await;
    let second = case.worker();
    until("it is done again", async || case.log.ends() == BTreeMap::from([(1, 2)])).await;
    second.shut_down();
}

/// A worker that does not run: the broker hears nothing, takes its jobs back, and its late settlement is refused.
async fn stopped_for_longer_than_its_heartbeat() {
    let case = Case::create().await;
    let first = case.worker();
    case.push(1, Action::TakeAnHourOnce).await;
    until_starts(&case.log, 1).await;
    first.stop();
    let second = case.worker();
    case.until_done(&BTreeSet::from([1])).await;
    first.go_on();
    let (first_pid, second_pid) = (first.pid(), second.pid());
    sleep(Duration::from_secs(1)).await;
    first.shut_down();
    second.shut_down();
    let (completed, lost, refused) = metrics(&case.log, first_pid);
    assert!(completed == 0 && lost + refused >= 1, "its settlement does not count: {completed}, {lost}, {refused}");
    assert_eq!(metrics(&case.log, second_pid), (1, 0, 0));
    assert_eq!(case.log.ends(), BTreeMap::from([(1, 1)]));
}

/// The process comes up again each time. The job takes its neighbours with it once; then it is alone, and then dead.
async fn a_job_that_aborts_its_process() {
    let case = Case::create().await;
    let mut worker = case.worker();
    for number in 1..=4 {
        case.push(number, Action::Take(200)).await;
    }
    case.push(0, Action::Abort).await;
    for number in 5..=20 {
        case.push(number, Action::Take(20)).await;
    }
    let mut deaths = 0;
    while case.count("dead", "work").await == 0 {
        if worker.has_ended() {
            deaths += 1;
            worker = case.worker();
        }
        assert!(deaths <= 2, "the poison is capped");
        sleep(Duration::from_millis(50)).await;
    }
    case.until_done(&(1..=20).collect()).await;
    worker.shut_down();
    assert_eq!((deaths, case.count("dead", "work").await, case.count("waiting", "work").await), (2, 1, 0));
    // In the process of its second crash, nothing else was running when the poison started.
    let log = case.log.entries();
    let is_second = |entry: &Entry| matches!(entry, Entry::Start { number: 0, attempt: 2, .. });
    let second = log.iter().position(is_second).expect("it ran twice");
    let Entry::Start { pid, .. } = log[second] else { unreachable!() };
    let started = log[..second].iter().filter(|entry| matches!(entry, Entry::Start { pid: of, .. } if *of == pid));
    let ended = log[..second].iter().filter(|entry| matches!(entry, Entry::End { pid: of, .. } if *of == pid));
    assert_eq!(started.count(), ended.count(), "it was alone");
}

async fn shut_down_in_the_middle() {
    let case = Case::create().await;
    let first = case.worker();
    for number in 0..3 {
        case.push(number, Action::Take(20_000)).await;
    }
    for number in 3..60 {
        case.push(number, Action::Take(5)).await;
    }
    until_starts(&case.log, 20).await;
    first.shut_down();
    let done = case.log.ends().len();
    let left = usize::try_from(case.count("waiting", "work").await).unwrap();
    assert_eq!(done + left, 60, "what did not finish waits again");
    let second = case.worker();
    case.until_done(&(3..60).collect()).await;
    second.shut_down();
    assert_eq!(repeated(&case.log), (0, 1));
    let entries = case.log.entries();
    let counted = entries.iter().filter(|entry| matches!(entry, Entry::Start { attempt: 2.., .. }));
    assert_eq!(counted.collect::<Vec<_>>(), Vec::<&Entry>::new(), "a release counts as nothing");
}

/// Where nothing fails, each job runs exactly once, over four processes.
async fn four_producers_and_four_workers() {
    let jobs_each = setting("JOBS_FAULTS_JOBS", 1_000);
    let case = Case::create().await;
    let workers: Vec<Process> = (0..4).map(|_| case.worker()).collect();
    let registry = TaskRegistry::new();
    for producer in 0..4 {
        let jobs = builder(&case.address, TaskRegistry::new()).await.producer().await.unwrap();
        registry.spawn(async move {
            let works = (0..jobs_each).map(|number| Work::new(producer * jobs_each + number, Action::Take(0)));
            for some in works.collect::<Vec<_>>().chunks(20) {
                jobs.push_all(some.to_vec()).await.unwrap();
            }
        });
    }
    registry.wait_idle().await;
    assert_eq!(registry.metrics().completed, 4, "all was pushed");
    case.until_done(&(0..4 * jobs_each).collect()).await;
    workers.into_iter().for_each(Process::shut_down);
    assert_eq!(repeated(&case.log), (0, 1), "none ran twice");
    let completed = case.log.entries().into_iter().filter_map(|entry| match entry {
        Entry::Metrics { completed, .. } => Some(completed),
        _ => None,
    });
    assert_eq!(completed.sum::<u64>(), 4 * jobs_each);
    assert_eq!((case.count("waiting", "work").await, case.count("dead", "work").await), (0, 0));
}

/// Of very many scheduled jobs, those run that are due. They wait in the broker.
async fn very_many_scheduled() {
    const DUE: u64 = 300;
    let scheduled = setting("JOBS_FAULTS_SCHEDULED", 10_000).min(20_000);
    let case = Case::create().await;
    let worker = case.worker();
    let registry = TaskRegistry::new();
    for part in 0..50 {
        let jobs = case.jobs.clone();
        registry.spawn(async move {
            let hour = || PushOptions::default().delay(Duration::from_secs(3600));
            for number in (part..scheduled).step_by(50) {
                jobs.push_with(Work::new(1_000_000 + number, Action::Take(0)), hour()).await.unwrap();
            }
        });
    }
    for number in 0..DUE {
        let options = PushOptions::default().delay(Duration::from_millis(500 + 10 * number));
        case.jobs.push_with(Work::new(number, Action::Take(0)), options).await.unwrap();
    }
    registry.wait_idle().await;
    case.until_done(&(0..DUE).collect()).await;
    worker.shut_down();
    let ends = case.log.ends();
    assert_eq!(ends.keys().copied().collect::<Vec<_>>(), (0..DUE).collect::<Vec<_>>(), "what is due, and no other");
    assert_eq!(repeated(&case.log), (0, 1));
    // Those that the worker kept are back.
    until("all others wait", async || u64::from(case.count("delayed", "7200").await) == scheduled).await;
}

/// A worker that keeps jobs until they are due.
async fn killed_while_jobs_wait_for_their_time() {
    let case = Case::create().await;
    let first = case.worker();
    for number in 0..20 {
        let options = PushOptions::default().delay(Duration::from_secs(10));
        case.jobs.push_with(Work::new(number, Action::Take(0)), options).await.unwrap();
    }
    until("the worker keeps them", async || case.count("delayed", "10").await == 0).await;
    first.kill();
    until("they are back", async || case.count("delayed", "10").await == 20).await;
    let second = case.worker();
    case.until_done(&(0..20).collect()).await;
    second.shut_down();
    let attempts = case.log.entries().into_iter().filter_map(|entry| match entry {
        Entry::Start { attempt, .. } => Some(attempt),
        _ => None,
    });
    assert_eq!(attempts.collect::<Vec<_>>(), [1; 20], "it counts as nothing");
}

/// What a producer has noted as pushed is stored when it is killed.
async fn a_producer_is_killed() {
    let case = Case::create().await;
    let producer = Config::new(Role::Producer, &case.address, case.log.path()).start();
    until("some are pushed", async || case.log.len() >= 100).await;
    producer.kill();
    let pushed = case.log.entries().into_iter().filter_map(|entry| match entry {
        Entry::Pushed { number } => Some(number),
        _ => None,
    });
    let worker = case.worker();
    case.until_done(&pushed.collect()).await;
    worker.shut_down();
}

/// Nothing that was acknowledged is lost, workers come back by themselves, and pushes fail with a clear error meanwhile.
async fn server_killed_and_started_again() {
    let server = Server::create();
    let case = Case::of(&server).await;
    let worker = case.worker();
    for number in 0..4 {
        // Running when the server is killed.
        case.push(number, Action::Take(3_000)).await;
    }
    until_starts(&case.log, 4).await;
    for number in 4..8 {
        let options = PushOptions::default().delay(Duration::from_secs(5));
        case.jobs.push_with(Work::new(number, Action::Take(0)), options).await.unwrap();
    }
    // Nobody works these off yet.
    for number in 8..100 {
        case.push(number, Action::Take(500)).await;
    }
    server.until_written(&case.queue, &["waiting.work", "dead.work", "delayed.10"]).await;
    server.kill();
    let error = case.jobs.push(Work::new(100, Action::Take(0))).await.unwrap_err();
    assert!(error.to_string().contains("RabbitMQ"), "{error}");
    // The work of the running jobs ends meanwhile, and can't be settled.
    sleep(Duration::from_secs(1)).await;
    server.start();
    push_surely(&case.jobs, &ToughWork(Work::new(101, Action::Take(0)))).await;
    case.until_done(&(0..100).chain([101]).collect()).await;
    worker.shut_down();
    let (twice, most) = repeated(&case.log);
    assert!(twice <= CONCURRENCY && most <= 2, "{twice} were done again: {:?}", case.log.ends());
}

async fn server_killed_right_after_pushes() {
    let server = Server::create();
    let case = Case::of(&server).await;
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let registry = TaskRegistry::new();
    push_surely(&case.jobs, &ToughWork(Work::new(0, Action::Take(0)))).await;
    case.push(1, Action::Take(0)).await;
    server.until_written(&case.queue, &["waiting.tough", "waiting.work"]).await;
    for round in 1..=setting("JOBS_FAULTS_KILLS", 2) {
        let before = acknowledged.lock().len();
        let is_killed = Arc::new(AtomicBool::new(false));
        for part in 0..4 {
            let (jobs, acknowledged) = (producer(&case.address).await, Arc::clone(&acknowledged));
            let is_killed = Arc::clone(&is_killed);
            registry.spawn(async move {
                for number in (0..).map(|number| round * 1_000_000 + part * 100_000 + number) {
                    match jobs.push(Work::new(number, Action::Take(0))).await {
                        Ok(_) => {
                            acknowledged.lock().insert(number);
                        }
                        // A busy machine may take too long.
                        Err(_) if is_killed.load(Ordering::SeqCst) => break,
                        Err(_) => {}
                    }
                }
            });
        }
        until("some are pushed", async || acknowledged.lock().len() >= before + 100).await;
        is_killed.store(true, Ordering::SeqCst);
        server.kill();
        registry.wait_idle().await;
        server.start();
        // The queues are there a little later than the server.
        push_surely(&case.jobs, &ToughWork(Work::new(0, Action::Take(0)))).await;
    }
    let worker = case.worker();
    let numbers = acknowledged.lock().clone();
    case.until_done(&numbers).await;
    worker.shut_down();
}

/// A queue by way of a proxy, with two workers.
struct ByProxy {
    case: Case,
    proxy: Proxy,
    workers: [Process; 2],
}

impl ByProxy {
    async fn create() -> Self {
        let (server, queue) = (shared(), new_queue());
        let proxy = Proxy::start(server.port()).await;
        let address = proxy.address(&address(&[&server], &queue), server.port());
        let case = Case::at(address, queue).await;
        let workers = [case.worker(), case.worker()];
        Self { case, proxy, workers }
    }
}

/// Connections are cut, delayed, held and half closed while two processes work and one pushes: each job is done.
async fn proxy_cuts_delays_holds_and_half_closes() {
    let ByProxy { case, proxy, workers } = ByProxy::create().await;
    for (round, fault) in
        ["cut", "half-close", "delay", "hold", "hold and cut", "refuse"].into_iter().cycle().take(12).enumerate()
    {
        for number in 0..10 {
            let number = u64::try_from(round * 10 + number).unwrap();
            if number % 10 == 5 {
                match fault {
                    "cut" => proxy.cut(),
                    "half-close" => proxy.half_close(),
                    "delay" => proxy.set(Mode::Delay(Duration::from_millis(30))),
                    "hold" | "hold and cut" => proxy.set(Mode::Hold),
                    _ => {
                        proxy.set(Mode::Refuse);
                        proxy.cut();
                    }
                }
                if matches!(fault, "hold" | "hold and cut" | "refuse") {
                    sleep(Duration::from_millis(700)).await;
                    if fault == "hold and cut" {
                        proxy.cut();
                    }
                    proxy.set(Mode::Pass);
                }
            }
            push_surely(&case.jobs, &ToughWork(Work::new(number, Action::Take(number % 7 * 20)))).await;
        }
        proxy.set(Mode::Pass);
    }
    case.until_done(&(0..120).collect()).await;
    workers.into_iter().for_each(Process::shut_down);
    assert_eq!(case.log.ends().len(), 120, "nothing ran that was not pushed");
}

/// The server stops answering, for longer than the heartbeats. The jobs run elsewhere, and the workers connect anew.
async fn silence_longer_than_workers_wait() {
    let ByProxy { case, proxy, workers } = ByProxy::create().await;
    push_surely(&case.jobs, &ToughWork(Work::new(0, Action::TakeAnHourOnce))).await;
    until_starts(&case.log, 1).await;
    proxy.silence();
    until_starts(&case.log, 2).await;
    for number in 1..20 {
        push_surely(&case.jobs, &ToughWork(Work::new(number, Action::Take(0)))).await;
    }
    case.until_done(&(0..20).collect()).await;
    workers.into_iter().for_each(Process::shut_down);
}

/// Pushes fail with a clear error, and at once; workers go on and settle; and then pushes work again.
async fn under_alarm(sets: &[&str], resets: &[&str]) {
    let server = Server::create();
    let case = Case::of(&server).await;
    for number in 0..20 {
        case.push(number, Action::Take(200)).await;
    }
    let worker = case.worker();
    until_starts(&case.log, 1).await;
    server.control(sets);
    let error = timeout(Duration::from_secs(60), async {
        loop {
            if let Err(error) = case.jobs.push(Work::new(1_000, Action::Take(0))).await
                && matches!(error.kind(), PushErrorKind::Queue(QueueError::Blocked { .. }))
            {
                return error;
            }
        }
    });
    let error = error.await.expect("the broker says that it takes no messages");
    assert!(error.may_be_stored() && error.to_string().contains("short of memory or disk"), "{error}");
    case.until_done(&(0..20).collect()).await;
    server.control(resets);
    push_surely(&case.jobs, &ToughWork(Work::new(20, Action::Take(0)))).await;
    case.until_done(&(0..=20).collect()).await;
    worker.shut_down();
    let ends = case.log.ends();
    assert!((0..20).all(|number| ends[&number] == 1), "{ends:?}");
}

async fn memory_limit() {
    under_alarm(&["set_vm_memory_high_watermark", "0.00001"], &["set_vm_memory_high_watermark", "0.4"]).await;
}

async fn disk_limit() {
    under_alarm(&["set_disk_free_limit", "1000000GB"], &["set_disk_free_limit", "1MB"]).await;
}

/// The jobs in the queue are gone. The worker goes on with those that come.
async fn a_queue_is_deleted_under_a_worker() {
    let case = Case::create().await;
    let worker = case.worker();
    for number in 0..4 {
        case.push(number, Action::Take(1_000)).await;
    }
    until_starts(&case.log, 4).await;
    let (_connection, channel) = shared().connect().await;
    let name = format!("postlude.{}.waiting.work", case.queue);
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let has_consumer = async || {
        let (_connection, channel) = shared().connect().await;
        let passive = QueueDeclareOptions::durable().passive();
        let declared = channel.queue_declare(name.as_str().into(), passive, FieldTable::default()).await;
        declared.is_ok_and(|queue| queue.consumer_count() > 0)
    };
    until("the worker has declared it anew", has_consumer).await;
    for number in 10..20 {
        push_surely_work(&case.jobs, number).await;
    }
    case.until_done(&(10..20).collect()).await;
    worker.shut_down();
}

async fn push_surely_work(jobs: &Jobs, number: u64) {
    while let Err(error) = jobs.push(Work::new(number, Action::Take(0))).await {
        assert!(matches!(error.kind(), PushErrorKind::Queue(error) if error.is_transient()), "{error:?}");
    }
}

/// The user may no more write, and then may again. Nobody has to be started anew.
async fn credentials_revoked() {
    let server = Server::create();
    server.control(&["add_user", "ann", "secret"]);
    let permissions = ["set_permissions", "ann", "^postlude\\.", "^(postlude\\.|amq\\.default)", "^postlude\\."];
    server.control(&permissions);
    let queue = new_queue();
    let address = address(&[&server], &queue).replace("guest:guest", "ann:secret");
    let case = Case::at(address.clone(), queue).await;
    let worker = case.worker();
    case.push(1, Action::Take(0)).await;
    let options = PushOptions::default().delay(Duration::from_millis(50));
    case.jobs.push_with(Work::new(2, Action::FailOnce), options).await.unwrap();
    case.until_done(&BTreeSet::from([1, 2])).await;

    server.control(&["clear_permissions", "ann"]);
    // The broker remembers for a while what a channel may do.
    let refused = timeout(Duration::from_secs(60), async {
        loop {
            if let Err(error) = producer_or_error(&address).await {
                return error;
            }
        }
    });
    let said = refused.await.expect("the broker refuses");
    assert!(said.contains("the user may not do this") || said.contains("virtual host"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    server.control(&permissions);
    push_surely_work(&case.jobs, 3).await;
    case.until_done(&BTreeSet::from([3])).await;
    // A wrong password.
    server.control(&["change_password", "ann", "other"]);
    let said = producer_or_error(&address).await.unwrap_err();
    assert!(said.contains("credentials are refused") && !said.contains("secret"), "{said}");
    worker.shut_down();
}

/// Connects and pushes.
async fn producer_or_error(address: &str) -> Result<(), String> {
    let words: Vec<&str> = address.split(' ').collect();
    let (queue, urls) = words.split_last().unwrap();
    let queue = RabbitQueue::connect_to(urls, queue).await.map_err(|error| whole(&error))?;
    let jobs = Jobs::producer(queue).await.map_err(|error| whole(&error))?;
    jobs.push(Work::new(1_000, Action::Take(0))).await.map(drop).map_err(|error| whole(&error))
}

/// The connections are encrypted, and a certificate that nobody vouches for is refused.
async fn tls() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate::create(folder.path());
    let (port, path) = (free_port(), certificate.display());
    let settings = format!(
        "listeners.ssl.default = 127.0.0.1:{port}\n\
         ssl_options.cacertfile = {path}\n\
         ssl_options.certfile = {path}\n\
         ssl_options.keyfile = {}\n\
         ssl_options.verify = verify_none\n\
         ssl_options.fail_if_no_peer_cert = false\n",
        key.display()
    );
    let _server = Server::create_with(&settings, Vec::new());
    let url = format!("amqps://guest:guest@localhost:{port}/?heartbeat={HEARTBEAT}");
    let error = RabbitQueue::connect(&url).await.unwrap_err();
    let said = whole(&error);
    assert!(matches!(error, QueueError::Unreachable { .. }) && said.contains("certificate"), "{said}");

    let (address, log) = (format!("{url} {}", new_queue()), Log::new(folder.path().join("log")));
    let start = |role| {
        let vouches = [("SSL_CERT_FILE", certificate.display().to_string())];
        let process = Config::new(role, &address, log.path()).environment(&vouches).start();
        assert!(process.is_ready(), "it has connected");
        process
    };
    let (producer, worker) = (start(Role::Producer), start(Role::Worker));
    until("jobs run", async || log.ends().len() >= 20).await;
    producer.shut_down();
    worker.shut_down();
}

/// Pushes until it is over. Returns the numbers that were acknowledged.
async fn push(jobs: Jobs, mut random: Rng, is_over: Arc<AtomicBool>) -> Result<BTreeSet<u64>, std::io::Error> {
    let mut pushed = BTreeSet::new();
    for number in 0.. {
        if is_over.load(Ordering::SeqCst) {
            break;
        }
        let action = match random.u8(..200) {
            0 => Action::AbortOnce,
            1 => Action::DoAndAbortOnce,
            2..20 => Action::FailOnce,
            20..120 => Action::Take(0),
            120..199 => Action::Take(random.u64(1..100)),
            _ => Action::Take(random.u64(500..3_000)),
        };
        push_surely(&jobs, &ToughWork(Work::new(number, action))).await;
        pushed.insert(number);
        if random.u8(..10) == 0 {
            sleep(Duration::from_millis(random.u64(0..=50))).await;
        }
    }
    Ok(pushed)
}

/// The queues of these tests.
const QUEUES: &[&str] = &["waiting.work", "dead.work", "waiting.tough", "dead.tough", "delayed.1"];

fn workers(address: &str, log: &Path) -> Vec<(Process, Config)> {
    let config = Config::new(Role::Worker, address, log);
    (0..3).map(|_| (start(&config), config.clone())).collect()
}

/// Everything at once, by chance, as for the other engines. Each job that was acknowledged is done.
async fn chaos() {
    let seed = setting("JOBS_FAULTS_SEED", 1);
    let mut random = Rng::with_seed(seed);
    let (server, queue, folder) = (Server::create(), new_queue(), tempfile::tempdir().unwrap());
    let proxy = Proxy::start(server.port()).await;
    let address = proxy.address(&address(&[&server], &queue), server.port());
    let log = Log::new(folder.path().join("log"));
    let mut workers = workers(&address, log.path());
    server.until_written(&queue, QUEUES).await;
    let (is_over, registry) = (Arc::default(), TaskRegistry::new());
    let jobs = producer(&address).await;
    let pushing = registry.spawn_with_output(push(jobs, Rng::with_seed(random.u64(..)), Arc::clone(&is_over)));
    let end = Instant::now() + Duration::from_secs(setting("JOBS_FAULTS_SECONDS", 8));
    while Instant::now() < end {
        let victim = random.usize(..workers.len());
        let pause = async |random: &mut Rng, millis| sleep(Duration::from_millis(random.u64(millis))).await;
        match random.u8(..10) {
            0 | 1 => workers[victim].0.kill_now(),
            2 => {
                workers[victim].0.stop();
                pause(&mut random, 100..=6_000).await;
                workers[victim].0.go_on();
            }
            3 => workers[victim].0.begin_shutdown(),
            4 | 5 => proxy.cut(),
            6 => proxy.half_close(),
            7 => {
                proxy.set(Mode::Hold);
                pause(&mut random, 100..=3_000).await;
            }
            8 => {
                proxy.set(Mode::Delay(Duration::from_millis(random.u64(1..40))));
                pause(&mut random, 100..=1_000).await;
            }
            _ => {
                server.kill();
                pause(&mut random, 0..=1_500).await;
                server.start();
            }
        }
        proxy.set(Mode::Pass);
        for (worker, config) in &mut workers {
            if worker.has_ended() {
                *worker = start(config);
            }
        }
        pause(&mut random, 50..=500).await;
    }
    is_over.store(true, Ordering::SeqCst);
    let pushed = pushing.await.expect("all was pushed in the end");
    until_done(&log, &pushed, &mut workers).await;
    finish(&log, &pushed, workers, &format!("seed {seed}"));
}

/// Nothing ran that was not pushed, and what was done more often than once is told.
fn finish(log: &Log, pushed: &BTreeSet<u64>, workers: Vec<(Process, Config)>, what: &str) {
    for (mut worker, _) in workers {
        if !worker.has_ended() {
            worker.shut_down();
        }
    }
    let ends = log.ends();
    assert!(ends.keys().all(|number| pushed.contains(number)), "{what}: nothing ran that was not pushed");
    let (twice, most) = repeated(log);
    let line = format!("{what}: {} jobs, {twice} of them done more than once, {most} times at most\n", pushed.len());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Three nodes under load; one suffers, and comes back. Nothing is lost.
async fn in_a_cluster(what: &str, suffer: impl AsyncFn(&Server)) {
    let nodes = cluster();
    let (queue, folder) = (new_queue(), tempfile::tempdir().unwrap());
    let address = address(&nodes.each_ref(), &queue);
    let log = Log::new(folder.path().join("log"));
    let mut workers = workers(&address, log.path());
    for node in &nodes {
        node.until_written(&queue, QUEUES).await;
    }
    let (is_over, registry) = (Arc::default(), TaskRegistry::new());
    let jobs = producer(&address).await;
    let pushing = registry.spawn_with_output(push(jobs, Rng::with_seed(1), Arc::clone(&is_over)));
    // First the node that all are connected to, which leads the queues, too.
    for node in nodes.iter().take(usize::try_from(setting("JOBS_FAULTS_NODES", 1)).unwrap()) {
        let before = log.ends().len();
        until("jobs run", async || log.ends().len() > before + 50).await;
        suffer(node).await;
        let before = log.ends().len();
        until("jobs run again", async || {
            for (worker, config) in &mut workers {
                if worker.has_ended() {
                    *worker = start(config);
                }
            }
            log.ends().len() > before + 50
        })
        .await;
    }
    is_over.store(true, Ordering::SeqCst);
    let pushed = pushing.await.expect("all was pushed in the end");
    until_done(&log, &pushed, &mut workers).await;
    finish(&log, &pushed, workers, what);
}

async fn cluster_node_killed() {
    in_a_cluster("a node was killed", async |node| {
        node.kill();
        sleep(Duration::from_secs(10)).await;
        node.start();
    })
    .await;
}

async fn cluster_node_stopped() {
    let seconds = setting("JOBS_FAULTS_STOPPED_SECONDS", 60);
    in_a_cluster("a node was stopped", async |node| {
        node.signal("-STOP");
        sleep(Duration::from_secs(seconds)).await;
        node.signal("-CONT");
    })
    .await;
}
