//! Faults of worker processes.

use std::{collections::BTreeMap, env, time::Duration};

use postlude::TaskRegistry;
use postlude_jobs::{JobId, JobState, Jobs, Page, PushErrorKind, PushOptions, QueueError};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    child::{CONCURRENCY, Config, KEPT, LEASE, NEVER_LOST, Process, Role, builder},
    common::{until, until_state},
    engine::Engine,
    work::{Action, Entry, Log, ToughWork, Work},
};

/// A queue, a log, and a producer.
pub(crate) struct Case<E> {
    pub(crate) engine: E,
    pub(crate) folder: TempDir,
    pub(crate) log: Log,
    pub(crate) jobs: Jobs,
}

impl<E: Engine> Case<E> {
    pub(crate) async fn create() -> Self {
        let engine = E::create().await;
        let builder = builder(&engine.address(), TaskRegistry::new()).await;
        let (jobs, folder) = (builder.producer().await.unwrap(), tempfile::tempdir().unwrap());
        let log = Log::new(folder.path().join("log"));
        Self { engine, folder, log, jobs }
    }

    pub(crate) fn config(&self, role: Role) -> Config {
        Config::new(role, &self.engine.address(), self.log.path())
    }

    pub(crate) fn worker(&self) -> Process {
        self.worker_with(LEASE)
    }

    /// The lease holds for all workers, for what they reserve from now on.
    pub(crate) fn worker_with(&self, lease: Duration) -> Process {
        let worker = self.config(Role::Worker).lease(lease).start();
        assert!(worker.is_ready(), "the worker has started");
        worker
    }

    pub(crate) async fn push(&self, number: u64, action: Action) -> JobId {
        self.jobs.push(Work::new(number, action)).await.unwrap()
    }
}

/// A number that the environment can change.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

pub(crate) async fn until_starts(log: &Log, count: usize) {
    until(&format!("{count} jobs have started"), async || log.starts() >= count).await;
}

/// Pushes until the queue says that it has the job: with the same id, if an answer was lost.
pub(crate) async fn push_surely(jobs: &Jobs, work: &ToughWork) -> JobId {
    let mut options = PushOptions::default();
    loop {
        match jobs.push_with(work.clone(), options.clone()).await {
            Ok(id) => return id,
            Err(error) => {
                assert!(matches!(error.kind(), PushErrorKind::Queue(error) if error.is_transient()), "{error:?}");
                options = PushOptions::default().id(error.id());
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

pub(crate) async fn killed_in_mid_job<E: Engine>() {
    let case = Case::<E>::create().await;
    let first = case.worker();
    let id = case.push(1, Action::TakeAnHourOnce).await;
    until_starts(&case.log, 1).await;
    first.kill();
    let second = case.worker_with(NEVER_LOST);
    let info = until_state(&case.jobs, id, JobState::Completed).await;
    assert_eq!((info.crashes, info.failures), (1, 0));
    assert!(info.last_error.unwrap().contains("its worker's process ended"));
    second.shut_down();
    assert_eq!(case.log.ends(), BTreeMap::from([(1, 1)]));
}

pub(crate) async fn killed_in_mid_batch<E: Engine>() {
    let case = Case::<E>::create().await;
    let first = case.worker();
    let works = (0..200).map(|number| Work::new(number, Action::Take(10)));
    let ids = case.jobs.push_all(works.collect()).await.unwrap();
    until("some have ended", async || case.log.ends().len() >= 40).await;
    first.kill();
    let second = case.worker_with(NEVER_LOST);
    for id in ids {
        assert!(until_state(&case.jobs, id, JobState::Completed).await.crashes <= 1);
    }
    second.shut_down();
    let ends = case.log.ends();
    assert_eq!(ends.len(), 200, "each was done");
    let twice = ends.values().filter(|count| **count > 1).count();
    // Those that were done and not settled. (A killed worker has not settled what was in hand.)
    assert!(twice <= CONCURRENCY && ends.values().all(|count| *count <= 2), "{twice} were done twice: {ends:?}");
}

pub(crate) async fn killed_between_work_and_settlement<E: Engine>() {
    let case = Case::<E>::create().await;
    let mut first = case.worker();
    let id = case.push(1, Action::DoAndAbortOnce).await;
    until("the process has aborted", async || first.has_ended()).await;
    let second = case.worker_with(NEVER_LOST);
    let info = until_state(&case.jobs, id, JobState::Completed).await;
    assert_eq!(info.crashes, 1);
    second.shut_down();
    assert_eq!(case.log.ends(), BTreeMap::from([(1, 2)]), "at least once, and here twice");
}

/// A worker that does not run for longer than its lease. The jobs that it holds run elsewhere, and its late settlement
/// is refused.
pub(crate) async fn stopped_for_longer_than_its_lease<E: Engine>() {
    let case = Case::<E>::create().await;
    let first = case.worker_with(KEPT);
    let id = case.push(1, Action::TakeAnHourOnce).await;
    until_starts(&case.log, 1).await;
    first.stop();
    let second = case.worker_with(NEVER_LOST);
    until_starts(&case.log, 2).await;
    let (first_pid, second_pid) = (first.pid(), second.pid());
    until("the second worker has done it", async || {
        case.log.entries().contains(&Entry::End { number: 1, attempt: 2, pid: second_pid })
    })
    .await;
    let info = until_state(&case.jobs, id, JobState::Completed).await;
    first.go_on();
    // The run comes to its end: because the worker learns that the lease is lost, or by the shutdown.
    first.shut_down();
    second.shut_down();
    let metrics = |pid| {
        let all = case.log.entries();
        let found = all.iter().find_map(|entry| match entry {
            Entry::Metrics { pid: of, completed, lost, refused } if *of == pid => Some((*completed, *lost, *refused)),
            _ => None,
        });
        found.expect("the worker has ended in an orderly way")
    };
    let (completed, lost, refused) = metrics(first_pid);
    // It learns of the loss when it renews, when it settles, or both.
    assert!(completed == 0 && lost + refused >= 1, "its settlement does not count: {completed}, {lost}, {refused}");
    assert_eq!(metrics(second_pid), (1, 0, 0));
    let after = case.jobs.find(id).await.unwrap().unwrap();
    assert_eq!((after.state, after.crashes), (JobState::Completed, 1));
    assert_eq!(after.finished_at, info.finished_at, "it stays as the second worker has settled it");
}

/// The process comes up again each time. The job takes its neighbours with it once; then it is alone, and then dead.
pub(crate) async fn a_job_that_aborts_its_process<E: Engine>() {
    let case = Case::<E>::create().await;
    let mut worker = case.worker_with(KEPT);
    let mut ids = Vec::new();
    for number in 1..=4 {
        ids.push(case.push(number, Action::Take(200)).await);
    }
    let poison = case.push(0, Action::Abort).await;
    for number in 5..=20 {
        ids.push(case.push(number, Action::Take(20)).await);
    }
    let mut deaths = 0;
    loop {
        if worker.has_ended() {
            deaths += 1;
            worker = case.worker_with(KEPT);
        }
        let info = case.jobs.find(poison).await.unwrap().unwrap();
        if info.state == JobState::Dead {
            assert_eq!((info.crashes, info.failures), (2, 0));
            break;
        }
        assert!(deaths <= 2, "the poison is capped");
        sleep(Duration::from_millis(20)).await;
    }
    for id in ids {
        let info = until_state(&case.jobs, id, JobState::Completed).await;
        assert!(info.crashes <= 1, "only the first crash takes neighbours with it: {info:?}");
    }
    worker.shut_down();
    assert_eq!(deaths, 2);
    assert_eq!(case.log.ends().len(), 20);
    assert_eq!(case.jobs.dead(Page::default()).await.unwrap().len(), 1);

    // In the process of its second crash, nothing else was running when the poison started.
    let log = case.log.entries();
    let is_second = |entry: &Entry| matches!(entry, Entry::Start { number: 0, attempt: 2, .. });
    let second = log.iter().position(is_second).expect("it ran twice");
    let Entry::Start { pid, .. } = log[second] else { unreachable!() };
    let started = log[..second].iter().filter(|entry| matches!(entry, Entry::Start { pid: of, .. } if *of == pid));
    let ended = log[..second].iter().filter(|entry| matches!(entry, Entry::End { pid: of, .. } if *of == pid));
    assert_eq!(started.count(), ended.count(), "it was alone");
}

/// A shutdown in the middle of everything: what did not finish is released, and nobody waits for a lease.
pub(crate) async fn shut_down_in_the_middle<E: Engine>() {
    let case = Case::<E>::create().await;
    let hour = Duration::from_secs(3600);
    let first = case.config(Role::Worker).lease(hour).start();
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(case.push(number, Action::Take(20_000)).await);
    }
    for number in 3..60 {
        ids.push(case.push(number, Action::Take(5)).await);
    }
    until_starts(&case.log, 20).await;
    first.shut_down();
    // The lease is an hour, so what is taken now was released.
    let waiting = case.jobs.stats().await.unwrap().get("work");
    assert_eq!(waiting.running, 0, "{waiting:?}");
    for id in &ids[..3] {
        assert_eq!(case.jobs.find(*id).await.unwrap().unwrap().state, JobState::Waiting);
        assert!(case.jobs.cancel(*id).await.unwrap());
    }
    let second = case.config(Role::Worker).lease(hour).start();
    for id in &ids[3..] {
        let info = until_state(&case.jobs, *id, JobState::Completed).await;
        assert_eq!((info.crashes, info.failures), (0, 0));
    }
    second.shut_down();
    let ends = case.log.ends();
    assert_eq!(ends.keys().copied().collect::<Vec<_>>(), (3..60).collect::<Vec<_>>());
}

/// Where nothing fails, each job runs exactly once, over four processes.
pub(crate) async fn four_producers_and_four_workers<E: Engine>() {
    let jobs_each = setting("JOBS_FAULTS_JOBS", 1_000);
    let case = Case::<E>::create().await;
    // Long enough for a busy machine: a lease that is lost is a fault.
    let lease = Duration::from_millis(setting("JOBS_FAULTS_LEASE_MS", 20_000));
    let worker = || case.config(Role::Worker).lease(lease).start();
    let workers: Vec<Process> = (0..4).map(|_| worker()).collect();
    let registry = TaskRegistry::new();
    for producer in 0..4 {
        let jobs = builder(&case.engine.address(), TaskRegistry::new()).await.producer().await.unwrap();
        registry.spawn(async move {
            let works = (0..jobs_each).map(|number| Work::new(producer * jobs_each + number, Action::Take(0)));
            let works: Vec<_> = works.collect();
            for some in works.chunks(20) {
                // A busy machine may refuse a push, but then it is not stored.
                while let Err(error) = jobs.push_all(some.to_vec()).await {
                    assert!(matches!(error.kind(), PushErrorKind::Queue(QueueError::Unreachable { .. })), "{error:?}");
                }
            }
        });
    }
    registry.wait_idle().await;
    assert_eq!(registry.metrics().completed, 4, "all was pushed");
    let all = usize::try_from(4 * jobs_each).unwrap();
    let mut seen = 0;
    // However long it takes, while there is progress.
    while case.log.ends().len() < all {
        until("more have ended", async || case.log.ends().len() > seen).await;
        seen = case.log.ends().len();
        sleep(Duration::from_millis(100)).await;
    }
    workers.into_iter().for_each(Process::shut_down);
    assert!(case.log.ends().values().all(|count| *count == 1), "none ran twice");
    let completed = case.log.entries().into_iter().filter_map(|entry| match entry {
        Entry::Metrics { completed, .. } => Some(completed),
        _ => None,
    });
    assert_eq!(completed.sum::<u64>(), 4 * jobs_each);
    let left = case.jobs.stats().await.unwrap().total();
    assert_eq!((left.waiting, left.running, left.scheduled, left.dead), (0, 0, 0, 0));
}

/// Of very many scheduled jobs, those run that are due.
pub(crate) async fn very_many_scheduled<E: Engine>() {
    const DUE: u64 = 500;
    let scheduled = setting("JOBS_FAULTS_SCHEDULED", 100_000);
    let case = Case::<E>::create().await;
    case.jobs.pause("work").await.unwrap();
    // All are due in an hour: `push_all` knows no delay.
    for chunk in (0..scheduled).collect::<Vec<_>>().chunks(5_000) {
        let works = chunk.iter().map(|number| Work::new(1_000_000 + number, Action::Take(0)));
        case.jobs.push_all(works.collect()).await.unwrap();
    }
    case.engine.execute("UPDATE postlude_jobs SET state = 1, due = due + 3600000 + seq").await;
    case.jobs.resume("work").await.unwrap();
    let worker = case.worker();
    let mut ids = Vec::new();
    for number in 0..DUE {
        let options = PushOptions::default().delay(Duration::from_millis(500 + number));
        ids.push(case.jobs.push_with(Work::new(number, Action::Take(0)), options).await.unwrap());
    }
    for id in ids {
        until_state(&case.jobs, id, JobState::Completed).await;
    }
    worker.shut_down();
    let ends = case.log.ends();
    assert_eq!(ends.keys().copied().collect::<Vec<_>>(), (0..DUE).collect::<Vec<_>>(), "what is due, and no other");
    assert!(ends.values().all(|count| *count == 1));
    assert_eq!(case.jobs.stats().await.unwrap().get("work").scheduled, scheduled);
}
