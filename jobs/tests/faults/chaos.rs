//! Everything at once, by chance: `JOBS_FAULTS_SEED` and `JOBS_FAULTS_SECONDS` choose. Workers are killed, stopped and
//! shut down, connections are cut, held and half closed, the server is killed, and names are paused, while jobs fail,
//! and abort their processes. Then what ran is reconciled with what was pushed.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use postlude::TaskRegistry;
use postlude_jobs::{JobId, JobState, Jobs};
use tokio::time::{Instant, sleep};

use crate::{
    child::{Config, Process, Role, builder},
    work::{Action, Log, ToughWork, Work},
    workers::{push_surely, setting},
};

/// What only a server can suffer.
#[cfg(any(feature = "postgres", feature = "redis"))]
struct Server {
    kill: Box<dyn Fn()>,
    start: Box<dyn Fn()>,
    proxy: crate::proxy::Proxy,
}

#[cfg(not(any(feature = "postgres", feature = "redis")))]
struct Server;

#[cfg(feature = "sqlite")]
pub(crate) async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("jobs.db").display().to_string();
    chaos(&address, &address, None).await;
}

#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) async fn of_a_server<S: crate::engine::Server>() {
    let server = Arc::new(S::create());
    let direct = server.queue().await;
    let proxy = crate::proxy::Proxy::start(server.port()).await;
    let address = proxy.address(&direct, server.port());
    let (killed, started) = (Arc::clone(&server), server);
    let (kill, start) = (Box::new(move || killed.kill()), Box::new(move || started.start()));
    chaos(&address, &direct, Some(Server { kill, start, proxy })).await;
}

async fn chaos(address: &str, direct: &str, server: Option<Server>) {
    let seed = setting("JOBS_FAULTS_SEED", 1);
    let (mut random, folder) = (Rng::with_seed(seed), tempfile::tempdir().unwrap());
    let log = Log::new(folder.path().join("log"));
    let jobs = builder(address, TaskRegistry::new()).await.push_timeout(Duration::from_secs(2));
    let jobs = jobs.producer().await.unwrap();
    let mut workers: Vec<Process> = (0..3).map(|_| start(address, log.path())).collect();

    let (is_over, registry) = (Arc::new(AtomicBool::new(false)), TaskRegistry::new());
    let pushing = registry.spawn_with_output(push(jobs, Rng::with_seed(random.u64(..)), Arc::clone(&is_over)));
    let end = Instant::now() + Duration::from_secs(setting("JOBS_FAULTS_SECONDS", 8));
    while Instant::now() < end {
        let victim = random.usize(..workers.len());
        fault(&mut workers, victim, server.as_ref(), &mut random).await;
        for worker in &mut workers {
            if worker.has_ended() {
                *worker = start(address, log.path());
            }
        }
        pause(&mut random, 50..=500).await;
    }
    is_over.store(true, Ordering::SeqCst);
    let pushed = pushing.await.expect("all was pushed in the end");
    let direct = builder(direct, TaskRegistry::new()).await.producer().await.unwrap();
    drain(&direct, &mut workers, || start(address, log.path()), &log).await;
    reconcile(&direct, &pushed, &log, seed).await;
}

fn start(address: &str, log: &Path) -> Process {
    loop {
        // It fails to start while the server is away.
        let worker = Config::new(Role::Worker, address, log).start();
        if worker.is_ready() {
            return worker;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

async fn pause(random: &mut Rng, millis: RangeInclusive<u64>) {
    sleep(Duration::from_millis(random.u64(millis))).await;
}

/// Pushes until it is over. Returns the id of each number.
async fn push(jobs: Jobs, mut random: Rng, is_over: Arc<AtomicBool>) -> Result<BTreeMap<u64, JobId>, std::io::Error> {
    let mut pushed = BTreeMap::new();
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
        pushed.insert(number, push_surely(&jobs, &ToughWork(Work::new(number, action))).await);
        if random.u8(..10) == 0 {
            pause(&mut random, 0..=50).await;
        }
    }
    Ok(pushed)
}

/// One fault. What it stops goes on when it returns.
async fn fault(workers: &mut [Process], victim: usize, server: Option<&Server>, random: &mut Rng) {
    let choice = random.u8(..if server.is_some() { 10 } else { 4 });
    match choice {
        0 | 1 => workers[victim].kill_now(),
        2 => {
            workers[victim].stop();
            pause(random, 100..=4_500).await;
            workers[victim].go_on();
        }
        3 => workers[victim].begin_shutdown(),
        #[cfg(any(feature = "postgres", feature = "redis"))]
        4.. => {
            use crate::proxy::Mode;
            let Server { kill, start, proxy } = server.expect("there is a server");
            match choice {
                4 | 5 => proxy.cut(),
                6 => proxy.half_close(),
                7 => {
                    proxy.set(Mode::Hold);
                    pause(random, 100..=3_000).await;
                }
                8 => {
                    proxy.set(Mode::Delay(Duration::from_millis(random.u64(1..40))));
                    pause(random, 100..=1_000).await;
                }
                _ => {
                    kill();
                    pause(random, 0..=1_500).await;
                    start();
                }
            }
            proxy.set(Mode::Pass);
        }
        #[cfg(not(any(feature = "postgres", feature = "redis")))]
        _ => unreachable!("there is no server"),
    }
}

/// Waits until nothing is left to do. Processes that abort are started again.
async fn drain(jobs: &Jobs, workers: &mut [Process], start: impl Fn() -> Process, log: &Log) {
    let (mut seen, mut last) = (0, Instant::now());
    loop {
        for worker in &mut *workers {
            if worker.has_ended() {
                *worker = start();
            }
        }
        let left = jobs.stats().await.unwrap().total();
        if left.waiting + left.scheduled + left.running == 0 {
            return;
        }
        if log.len() > seen {
            (seen, last) = (log.len(), Instant::now());
        }
        assert!(last.elapsed() < Duration::from_secs(60), "nothing has run for a minute: {left:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn reconcile(jobs: &Jobs, pushed: &BTreeMap<u64, JobId>, log: &Log, seed: u64) {
    let ends = log.ends();
    for (number, id) in pushed {
        let info = jobs.find(*id).await.unwrap().expect("what was acknowledged is stored");
        assert_eq!(info.state, JobState::Completed, "seed {seed}, job {number}: {info:?}");
        let done = ends.get(number).copied().unwrap_or_default();
        let at_most = 1 + info.crashes as usize;
        assert!((1..=at_most).contains(&done), "seed {seed}: job {number} was done {done} times: {info:?}");
    }
    assert_eq!(ends.len(), pushed.len(), "seed {seed}: nothing ran that was not pushed");
    // What has completed never runs again.
    let before = log.len();
    jobs.wake();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(log.len(), before, "seed {seed}");
}
