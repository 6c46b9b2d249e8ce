//! A clock that is set while workers work: that of the machine for SQLite, that of the server for the others.
//! libfaketime sets it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use postlude_jobs::{JobState, PushOptions};
use tokio::time::sleep;

use crate::{
    child::{Config, KEPT, LEASE, Role, builder},
    common::{until, until_state},
    work::{Action, Entry, Log, Work},
    workers::until_starts,
};

/// The library, where Debian has it.
fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|library| library.exists())
}

pub(crate) fn is_installed() -> bool {
    library().is_some()
}

/// A clock in a file.
struct Clock(PathBuf);

impl Clock {
    fn new(folder: &Path) -> Self {
        let clock = Self(folder.join("clock"));
        clock.set("+0");
        clock
    }

    /// Sets it to an offset from the real time.
    fn set(&self, offset: &str) {
        // Renamed, so that nobody reads half of it.
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, &self.0).unwrap();
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", library().expect("libfaketime is installed").display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // What counts seconds goes on as before.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

#[cfg(feature = "sqlite")]
pub(crate) async fn of_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::new(folder.path());
    let address = folder.path().join("jobs.db").display().to_string();
    set_forward_and_back(&address, &clock, &clock.environment()).await;
}

#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) async fn of_the_server<S: crate::engine::Server>() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let clock = Clock::new(folder.path());
    let server = S::create_with(clock.environment());
    let address = server.queue().await;
    set_forward_and_back(&address, &clock, &[]).await;
}

/// Jobs that run are not disturbed, what is due by the new clock runs, and after a step back a dead worker's jobs are
/// not kept for an hour.
async fn set_forward_and_back(address: &str, clock: &Clock, environment: &[(&'static str, String)]) {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::new(folder.path().join("log"));
    let start = || Config::new(Role::Worker, address, log.path()).lease(KEPT).environment(environment).start();
    let jobs = builder(address, postlude::TaskRegistry::new()).await.producer().await.unwrap();
    let (first, second) = (start(), start());

    // A worker that has run a job has read the clock.
    let has_run = |pid| log.entries().iter().any(|entry| matches!(entry, Entry::Start { pid: of, .. } if *of == pid));
    let mut before = 0;
    while !(has_run(first.pid()) && has_run(second.pid())) {
        let works = (0..16).map(|number| Work::new(1_000 + before as u64 + number, Action::Take(20)));
        before += jobs.push_all(works.collect()).await.unwrap().len();
        until("they have run", async || log.ends().len() >= before).await;
    }

    let mut running = Vec::new();
    for number in 0..6 {
        running.push(jobs.push(Work::new(number, Action::Take(7_000))).await.unwrap());
    }
    let options = PushOptions::default().delay(Duration::from_secs(1_800));
    let scheduled = jobs.push_with(Work::new(6, Action::Take(0)), options).await.unwrap();
    until_starts(&log, before + 6).await;
    clock.set("+3600");
    until_state(&jobs, scheduled, JobState::Completed).await;
    for id in running {
        let info = until_state(&jobs, id, JobState::Completed).await;
        assert_eq!((info.crashes, info.failures), (0, 0), "its worker was never away: {info:?}");
    }
    assert!(log.ends().values().all(|count| *count == 1), "none ran twice: {:?}", log.ends());

    // A worker dies, and the clock is set back: by the lease, its job would be kept for an hour.
    let last = jobs.push(Work::new(7, Action::TakeAnHourOnce)).await.unwrap();
    until_starts(&log, before + 8).await;
    let is_of_first = log.entries().contains(&Entry::Start { number: 7, attempt: 1, pid: first.pid() });
    let (runs_it, other) = if is_of_first { (first, second) } else { (second, first) };
    // The other one has read the clock since it was set forward.
    sleep(2 * LEASE).await;
    runs_it.kill();
    clock.set("+0");
    assert_eq!(until_state(&jobs, last, JobState::Completed).await.crashes, 1);
    other.shut_down();
}
