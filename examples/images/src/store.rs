//! The files: uploads, results, and the queue of a durable service.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Random enough that nobody guesses another's picture. It is the id of its job, too.
pub(crate) type PictureId = postlude_jobs::JobId;

#[derive(Clone)]
pub(crate) struct Store {
    folder: Arc<Path>,
}

impl Store {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.into() })
    }

    pub(crate) fn queue(&self) -> PathBuf {
        self.folder.join("jobs.db")
    }

    pub(crate) fn upload(&self, id: PictureId) -> PathBuf {
        self.folder.join(format!("{id}.upload"))
    }

    pub(crate) fn result(&self, id: PictureId) -> PathBuf {
        self.folder.join(format!("{id}.png"))
    }

    pub(crate) fn has_result(&self, id: PictureId) -> bool {
        self.result(id).exists()
    }

    /// Removes results that are older, and what an earlier process left unfinished. The uploads of jobs that wait stay.
    pub(crate) fn sweep(&self, keep: Duration) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            let is_ours = path.extension().is_some_and(|kind| kind == "png" || kind == "unfinished");
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if is_ours && age > keep {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// An upload on the disk, which is removed unless it is kept.
pub(crate) struct Received {
    id: PictureId,
    path: PathBuf,
    is_kept: bool,
}

impl Received {
    pub(crate) fn new(store: &Store) -> Self {
        let id = PictureId::generate();
        Self { id, path: store.upload(id), is_kept: false }
    }

    pub(crate) const fn id(&self) -> PictureId {
        self.id
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn keep(mut self) -> PictureId {
        self.is_kept = true;
        self.id
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a refused upload could not be removed");
        }
    }
}
