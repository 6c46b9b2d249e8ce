//! What the test programs share.

#[cfg(feature = "postgres")]
#[allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of it")]
pub(crate) mod postgres;
#[cfg(any(feature = "celery", feature = "rabbitmq"))]
#[allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of it")]
pub(crate) mod rabbitmq;
#[cfg(feature = "redis")]
#[allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of it")]
pub(crate) mod redis;

use std::{future::Future, pin::Pin, time::Duration};

use libtest_mimic::{Failed, Trial};
use postlude_jobs::{JobId, JobInfo, JobState, Jobs};
use tokio::time::{Instant, sleep};

pub(crate) type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// A test on a runtime of its own. If it can't run here, it is reported as ignored.
pub(crate) fn trial(engine: &str, name: &str, can_run: bool, test: Test) -> Trial {
    let run = move || -> Result<(), Failed> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(test());
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    };
    Trial::test(format!("{engine}::{name}"), run).with_ignored_flag(!can_run)
}

/// Longer than anything takes on any machine.
const LONGEST: Duration = Duration::from_secs(90);

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < LONGEST, "waited in vain until {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a job is in a state, and returns what is known of it.
pub(crate) async fn until_state(jobs: &Jobs, id: JobId, state: JobState) -> JobInfo {
    let start = Instant::now();
    loop {
        let info = jobs.find(id).await.unwrap().expect("the job is stored");
        if info.state == state {
            return info;
        }
        assert!(start.elapsed() < LONGEST, "waited in vain for {state}: {info:?}");
        sleep(Duration::from_millis(10)).await;
    }
}
