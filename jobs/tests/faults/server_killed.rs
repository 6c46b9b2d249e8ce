//! The server is killed, and started again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use postlude::TaskRegistry;
use postlude_jobs::{JobState, PushOptions};
use tokio::time::sleep;

use crate::{
    child::{Config, KEPT, Role, builder},
    common::{until, until_state},
    engine::Server,
    work::{Action, Log, Work},
    workers::{setting, until_starts},
};

/// Nothing that was acknowledged is lost, workers come back by themselves, and pushes fail with a clear error
/// meanwhile.
pub(crate) async fn with_jobs_waiting_running_and_scheduled<S: Server>() {
    let server = S::create();
    let (address, folder) = (server.queue().await, tempfile::tempdir().unwrap());
    let log = Log::new(folder.path().join("log"));
    let jobs = builder(&address, TaskRegistry::new()).await.push_timeout(Duration::from_secs(2));
    let jobs = jobs.producer().await.unwrap();
    let worker = Config::new(Role::Worker, &address, log.path()).lease(KEPT).start();

    let mut pushed = BTreeSet::new();
    let mut ids = Vec::new();
    for number in 0..4 {
        // Running when the server is killed.
        ids.push(jobs.push(Work::new(number, Action::Take(3_000))).await.unwrap());
        pushed.insert(number);
    }
    until_starts(&log, 4).await;
    for number in 4..8 {
        let options = PushOptions::default().delay(Duration::from_secs(4));
        ids.push(jobs.push_with(Work::new(number, Action::Take(0)), options).await.unwrap());
        pushed.insert(number);
    }
    jobs.pause("work").await.unwrap();
    for number in 8..100 {
        ids.push(jobs.push(Work::new(number, Action::Take(0))).await.unwrap());
        pushed.insert(number);
    }
    server.kill();

    let error = jobs.push(Work::new(100, Action::Take(0))).await.unwrap_err();
    assert!(error.to_string().contains(S::ENGINE), "{error}");
    // The work of the running jobs ends meanwhile, and can't be settled.
    sleep(Duration::from_secs(1)).await;
    server.start();
    until_pushed(&jobs, 101).await;
    pushed.insert(101);
    jobs.resume("work").await.unwrap();

    for id in ids {
        let info = until_state(&jobs, id, JobState::Completed).await;
        assert!(info.crashes <= 1, "{info:?}");
    }
    until("the last one has ended", async || log.ends().contains_key(&101)).await;
    worker.shut_down();
    let ended: BTreeSet<u64> = log.ends().into_keys().filter(|number| *number != 100).collect();
    assert_eq!(ended, pushed, "all that was acknowledged has run");
    // A push without an answer may have been stored: then it ran, once.
    assert!(log.ends().get(&100).is_none_or(|count| error.may_be_stored() && *count == 1));
}

/// The server is killed again and again while four producers push: what `push` has acknowledged is there.
pub(crate) async fn right_after_pushes<S: Server>() {
    let server = S::create();
    let address = server.queue().await;
    let registry = TaskRegistry::new();
    for _ in 0..setting("JOBS_FAULTS_KILLS", 3) {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..4 {
            let jobs = builder(&address, TaskRegistry::new()).await.push_timeout(Duration::from_secs(2));
            let (jobs, acknowledged) = (jobs.producer().await.unwrap(), Arc::clone(&acknowledged));
            registry.spawn(async move {
                while let Ok(id) = jobs.push(Work::new(0, Action::Take(0))).await {
                    acknowledged.lock().push(id);
                }
            });
        }
        until("some are pushed", async || acknowledged.lock().len() >= 100).await;
        server.kill();
        registry.wait_idle().await;
        server.start();
        let jobs = builder(&address, TaskRegistry::new()).await.producer().await.unwrap();
        let acknowledged = acknowledged.lock().clone();
        for id in &acknowledged {
            assert!(jobs.find(*id).await.unwrap().is_some(), "{id} was acknowledged, and is lost");
        }
    }
}

/// Pushes until the server is back.
async fn until_pushed(jobs: &postlude_jobs::Jobs, number: u64) {
    for _ in 0..100 {
        match jobs.push(Work::new(number, Action::Take(0))).await {
            Ok(_) => return,
            Err(error) => assert!(!error.may_be_stored(), "it is pushed once: {error:?}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
    unreachable!("the server is back");
}
