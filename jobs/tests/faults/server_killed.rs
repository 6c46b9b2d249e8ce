//! The server is killed, and started again.

use std::{collections::BTreeSet, time::Duration};

use postlude::TaskRegistry;
use postlude_jobs::{JobState, PushOptions};
use tokio::time::sleep;

use crate::{
    child::{LEASE, Worker, builder},
    server::Server,
    work::{Action, Work, ends, starts},
    workers::{until, until_state},
};

/// Nothing that was acknowledged is lost, workers come back by themselves, and pushes fail with a clear error meanwhile.
pub(crate) async fn with_jobs_waiting_running_and_scheduled() {
    let server = Server::create();
    let (address, folder) = (server.create_database().await, tempfile::tempdir().unwrap());
    let log = folder.path().join("log");
    let jobs = builder(&address, TaskRegistry::new()).await.push_timeout(Duration::from_secs(2));
    let jobs = jobs.producer().await.unwrap();
    let worker = Worker::start(&address, &log, LEASE);

    let mut pushed = BTreeSet::new();
    let mut ids = Vec::new();
    for number in 0..4 {
        // Running when the server is killed.
        ids.push(jobs.push(Work { number, action: Action::Take(3_000) }).await.unwrap());
        pushed.insert(number);
    }
    until("they run", || starts(&log) >= 4).await;
    for number in 4..8 {
        let options = PushOptions::default().delay(Duration::from_secs(4));
        ids.push(jobs.push_with(Work { number, action: Action::Take(0) }, options).await.unwrap());
        pushed.insert(number);
    }
    jobs.pause("work").await.unwrap();
    for number in 8..100 {
        ids.push(jobs.push(Work { number, action: Action::Take(0) }).await.unwrap());
        pushed.insert(number);
    }
    server.kill();

    let error = jobs.push(Work { number: 100, action: Action::Take(0) }).await.unwrap_err();
    assert!(error.to_string().contains("PostgreSQL"), "{error}");
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
    until("the last one has ended", || ends(&log).contains_key(&101)).await;
    worker.shut_down();
    let ended: BTreeSet<u64> = ends(&log).into_keys().filter(|number| *number != 100).collect();
    assert_eq!(ended, pushed, "all that was acknowledged has run");
    // A push without an answer may have been stored: then it ran, once.
    assert!(ends(&log).get(&100).is_none_or(|count| error.may_be_stored() && *count == 1));
}

/// Pushes until the server is back.
async fn until_pushed(jobs: &postlude_jobs::Jobs, number: u64) {
    for _ in 0..100 {
        match jobs.push(Work { number, action: Action::Take(0) }).await {
            Ok(_) => return,
            Err(error) => assert!(!error.may_be_stored(), "it is pushed once: {error:?}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
    unreachable!("the server is back");
}
