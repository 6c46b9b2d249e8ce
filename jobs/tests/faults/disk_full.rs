//! The disk is full: a small tmpfs, which only root may mount.

use std::{fs, path::Path, process::Command, time::Duration};

use postlude_jobs::{JobState, PushErrorKind, QueueError};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    child::{Config, Role, builder},
    common::until_state,
    work::{Action, Log, ToughWork, Work},
    workers::until_starts,
};

/// A disk of four megabytes.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path()).output().ok()?;
        output.status.success().then(|| Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also if a file is still open.
        Command::new("umount").arg("--lazy").arg(self.path()).status().unwrap();
    }
}

pub(crate) fn can_mount() -> bool {
    SmallDisk::mount().is_some()
}

/// Pushes are refused with a clear error, the worker lives, and what was acknowledged runs when there is room again.
pub(crate) async fn disk_full() {
    let disk = SmallDisk::mount().expect("a tmpfs can be mounted");
    let address = disk.path().join("jobs.db").display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let log = Log::new(folder.path().join("log"));
    let jobs = builder(&address, postlude::TaskRegistry::new()).await.producer().await.unwrap();
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 2_000_000]).unwrap();

    let mut worker = Config::new(Role::Worker, &address, log.path()).start();
    let mut ids = Vec::new();
    for number in 0..4 {
        // In hand when the disk is full, and done then.
        ids.push(jobs.push(ToughWork(Work::new(number, Action::Take(1_500)))).await.unwrap());
    }
    until_starts(&log, 4).await;
    let mut error = None;
    for number in 4..10_000 {
        let work = Work { ballast: "x".repeat(20_000), ..Work::new(number, Action::Take(1)) };
        match jobs.push(ToughWork(work)).await {
            Ok(id) => ids.push(id),
            Err(refused) => {
                error = Some(refused);
                break;
            }
        }
    }
    let error = error.expect("the disk is full");
    assert!(!error.may_be_stored(), "{error:?}");
    let PushErrorKind::Queue(QueueError::Refused { source, .. }) = error.kind() else {
        panic!("{error:?}")
    };
    assert!(source.to_string().contains("disk is full"), "{error:?}");
    assert!(ids.len() > 10, "some fitted");
    // The worker can settle nothing meanwhile.
    sleep(Duration::from_secs(3)).await;
    assert!(!worker.has_ended());

    fs::remove_file(ballast).unwrap();
    ids.push(jobs.push(ToughWork(Work::new(20_000, Action::Take(0)))).await.unwrap());
    for id in &ids {
        until_state(&jobs, *id, JobState::Completed).await;
    }
    worker.shut_down();
    let ends = log.ends();
    assert_eq!(ends.len(), ids.len(), "all that was acknowledged, and nothing else");
    // A lease may have run out while it could not be renewed.
    assert!(ends.values().all(|count| *count <= 3), "{ends:?}");
}
