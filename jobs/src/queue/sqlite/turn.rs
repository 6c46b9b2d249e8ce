//! Whose turn it is to wait for the lock of the database.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;

/// How long a transaction waits for its turn. A process that was stopped may have it: then the others go without. Of
/// those that wait, the operating system wakes any, so the limit is some hundred transactions.
const LONGEST: Duration = Duration::from_secs(3);

/// SQLite has no queue for its lock. A process that writes one transaction after the other frees the lock for
/// microseconds only, and the other processes may miss it for seconds. So those that want to write first lock a file
/// beside the database: only its holder asks for SQLite's lock, and it holds the file until it has that. A process that
/// has just written waits for the file behind those that wait already.
pub(super) struct Turn {
    path: PathBuf,
}

impl Turn {
    pub(super) fn beside(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-turn");
        Self { path: path.into() }
    }

    /// Waits for the turn, which ends when the file is dropped, or the process dies. `None` if it takes too long, or if
    /// the file can't be locked: it is needed for fairness only.
    pub(super) async fn take(&self) -> Option<File> {
        let file = File::options().create(true).append(true).open(&self.path).ok()?;
        if file.try_lock().is_ok() {
            return Some(file);
        }
        timeout(LONGEST, locked(file)).await.ok()?
    }
}

/// Locks a file on a thread that may wait. If this is dropped, the thread gives the lock back once it has it.
#[expect(clippy::disallowed_methods, reason = "it waits for a lock of the operating system, which has no future")]
async fn locked(file: File) -> Option<File> {
    let locked = tokio::task::spawn_blocking(move || file.lock().is_ok().then_some(file));
    locked.await.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_has_it_and_the_next_one_waits() {
        let folder = tempfile::tempdir().unwrap();
        let turn = Turn::beside(&folder.path().join("jobs.db"));
        let first = turn.take().await.expect("it is free");
        let mut second = Box::pin(turn.take());
        assert!(timeout(Duration::from_millis(20), &mut second).await.is_err(), "it is taken");
        drop(first);
        let second = second.await.expect("it was given back");
        assert!(turn.take().await.is_none(), "nobody waits for ever");
        drop(second);
        assert!(turn.take().await.is_some(), "the thread that waited has given it back");
    }
}
